"""A trained model as a graph of tensors: ids in, named scores out, any number of rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from funnelcast.errors import ArtifactError
from funnelcast.export.decompositions import DECOMPOSITIONS
from funnelcast.layers import FunnelModel
from funnelcast.native import without_operators

__all__ = ["LARGEST_BATCH", "ScoringModel", "quiet", "to_program"]

LARGEST_BATCH = 1 << 20


class ScoringModel(nn.Module):
    """A model that returns its scores in the order of `funnelcast.serving.contract.output_names`.

    All that a model says in evaluation mode is inside, the correction of sampled negatives and the value head among
    it. A calibration is not: the scorer applies `calibration.json` to the log-odds, by the class that fitted it.

    Args:
        model: it is put into evaluation mode.
        calibrated: also return what a calibration needs.
    """

    def __init__(self, model: FunnelModel, *, calibrated: bool) -> None:
        super().__init__()
        self.model = model.eval()
        self.schema, self.calibrated = model.schema, calibrated

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Map ids [B, W] to scores [B] each, and log-odds [B, S]."""
        prediction = self.model(ids)
        has_value = self.schema.value_step is not None
        columns = [part[:, i] for i in range(self.schema.n_steps) for part in (prediction.reach, prediction.transition)]
        columns += [prediction.expected_value] if has_value else []
        if self.calibrated:
            columns.append(prediction.log_reach - prediction.log_not_reach)
            columns.append(prediction.log_transition - prediction.log_not_transition)
            columns += [prediction.log_mean_value] if has_value else []
        return tuple(columns)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's notes about its own future, and about packages that nobody needs, out of our output."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_program(model: FunnelModel, *, calibrated: bool, portable: bool) -> torch.export.ExportedProgram:
    """Trace a model for batches of 1 to 2^20 rows.

    Args:
        model: on the CPU; it is put into evaluation mode.
        calibrated: whether its scores will be calibrated.
        portable: use operators that other runtimes have, too.

    Raises:
        ArtifactError: a weight is not finite, or PyTorch cannot trace the model.
    """
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(f"weight '{name}' should be finite, received NaN or an infinity; train the run again")
    scoring = ScoringModel(model, calibrated=calibrated).eval()
    example = torch.zeros(3, model.schema.width, dtype=torch.int32)
    rows = torch.export.Dim("rows", min=1, max=LARGEST_BATCH)
    try:
        with torch.no_grad(), without_operators(), quiet():
            program = torch.export.export(scoring, (example,), dynamic_shapes=({0: rows},), strict=False)
            if portable:
                table = torch.export.default_decompositions()
                table.update(DECOMPOSITIONS)
                program = program.run_decompositions(table)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(f"model {type(model).__name__} cannot be exported: {reason[0]}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program
