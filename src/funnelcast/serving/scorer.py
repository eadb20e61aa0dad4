"""Ids -> probabilities with ONNX Runtime, in a process without PyTorch. Shape legend: B rows, W columns, S steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from funnelcast.calibration import Calibration
from funnelcast.data.ids import Ids
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.schema import Schema, score_columns
from funnelcast.serving.contract import INPUT, LOG_MEAN_VALUE, LOG_ODDS, output_shapes
from funnelcast.serving.onnx_file import check_onnx_file

__all__ = ["ROWS", "Floats", "OnnxScorer", "Outputs", "Scored", "Scorer", "finish"]

ROWS = 256  # rows of a call of ONNX Runtime: what it holds between operators stays in a core's cache
Floats = NDArray[np.float32]
Outputs = Mapping[str, Floats]


class Scored(NamedTuple):
    """Probabilities of rows, float32.

    Args:
        reach: [B, S] p_i = P(T_i = 1 | x).
        transition: [B, S] c_i = P(T_i = 1 | T_{i-1} = 1, x).
        value: [B] E[v | x] over all rows, or None where the last step has no value.
    """

    reach: Floats
    transition: Floats
    value: Floats | None


class Scorer(Protocol):
    """An exported model."""

    def outputs(self, ids: Ids) -> Outputs:
        """Map ids [B, W] to all outputs that the contract names, [B, ...] each."""
        ...


class OnnxScorer:
    """A session of ONNX Runtime.

    Args:
        path: of the model, for messages.
        data: its content.
        schema: the fields and the funnel.
        calibrated: whether a calibration stands beside it, so that it also has log-odds.
        threads: of one call, >= 1.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        ArtifactError: the model reads other files, has weights that are no numbers or operators that ONNX Runtime does
            not know, or its inputs and outputs are not those of the schema.
    """

    def __init__(self, path: Path, data: bytes, schema: Schema, *, calibrated: bool, threads: int = 1) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            wanted = "scoring a bundle needs ONNX Runtime, which is not installed"
            raise ConfigError(f"{wanted}; install it by: pip install 'funnelcast[export]'")
        import onnxruntime

        check_onnx_file(path, data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # errors come as exceptions
        # Otherwise ONNX Runtime reads what its first bytes say: bytes of its own format, which nobody has checked.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ArtifactError(f"{path}: should be a model that ONNX Runtime takes, received: {reason}") from error
        shapes = output_shapes(schema, calibrated=calibrated)
        self._names = list(shapes)
        _check_side(path, "input", self._session.get_inputs(), {INPUT: (schema.width,)}, "tensor(int32)")
        _check_side(path, "output", self._session.get_outputs(), shapes, "tensor(float)")

    def outputs(self, ids: Ids) -> Outputs:
        """Map ids [B, W], B >= 1, to all outputs."""
        return dict(zip(self._names, self._session.run(self._names, {INPUT: ids}), strict=True))


def _check_side(
    path: Path, kind: str, found: Sequence[Any], wanted: Mapping[str, tuple[int, ...]], number_type: str
) -> None:
    """Compare names, types and shapes with those of the schema."""
    names = [part.name for part in found]
    if names != list(wanted):
        raise ArtifactError(f"{path}: should have the {kind}s {', '.join(wanted)}, received {', '.join(names)}")
    for part in found:
        if part.type != number_type or tuple(part.shape[1:]) != wanted[part.name] or isinstance(part.shape[0], int):
            expected = ["rows", *wanted[part.name]]
            raise ArtifactError(
                f"{path}: {kind} '{part.name}' should be {number_type} {expected}, received {part.type} {part.shape}"
            )


def finish(path: Path, outputs: Outputs, schema: Schema, calibration: Calibration | None) -> Scored:
    """Turn what a model gives into scores.

    Args:
        path: of the model, for messages.
        outputs: by name, [B, ...] each.
        schema: the funnel.
        calibration: applied to the log-odds; None takes the model's own probabilities.

    Raises:
        ArtifactError: a score is NaN or infinite.
    """
    names, value = score_columns(schema), None
    if calibration is None:
        # An array of parts is made faster than a stack of them; [S, B], seen as [B, S].
        reach, transition = (np.array([outputs[name] for name in names[k : 2 * schema.n_steps : 2]]).T for k in (0, 1))
        value = outputs[names[-1]] if schema.value_step is not None else None
    else:
        log_odds = [outputs[name] for name in LOG_ODDS]
        if any(np.isnan(part).any() for part in log_odds):
            raise ArtifactError(f"{path}: log-odds should be numbers, received NaN")
        found = calibration.apply(*log_odds)
        reach, transition = np.exp(found.log_reach), np.exp(found.log_transition)
        if schema.value_step is not None:
            value = np.exp(found.log_reach[:, -1] + outputs[LOG_MEAN_VALUE])
    for name, part in {"reach": reach, "transition": transition, "value": value}.items():
        if part is not None and not np.isfinite(part).all():
            row = int(np.argwhere(~np.isfinite(part))[0][0])
            raise ArtifactError(f"{path}: {name} of row {row} should be finite, received {part[row].tolist()}")
    return Scored(reach, transition, value)
