"""Scores on disk: the log-odds of every scored row in `scores.safetensors`, joined with the rows' labels when read.

Shape legend: N rows, S steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError
from funnelcast.files import sha256, write_bytes
from funnelcast.run import Run
from funnelcast.scores import OUTCOMES, SPACES, Scores, Space

__all__ = ["SCORES_FILE", "has_scores", "load_scores", "log_probabilities", "read_log_odds", "save_scores"]

Array = NDArray[Any]
SCORES_FILE = "scores.safetensors"
_VALUE = "log_mean_value"


def log_probabilities(log_odds: Array) -> tuple[Array, Array]:
    """Turn log-odds x into log p = -log(1 + e^-x) and log(1 - p) = -log(1 + e^x), computed in float64.

    Args:
        log_odds: any shape; infinities are certainties.

    Returns:
        Two float32 arrays of the same shape.

    Example:
        >>> [round(float(part), 4) for part in log_probabilities(np.float32(0.0))]
        [-0.6931, -0.6931]
    """
    wide = log_odds.astype(np.float64)
    return (-np.logaddexp(0.0, -wide)).astype(np.float32), (-np.logaddexp(0.0, wide)).astype(np.float32)


def save_scores(folder: Path, scores: Scores, split: Split, data_sha256: str) -> None:
    """Write the log-odds of a split, log p - log(1 - p), as `reach_logit` and `transition_logit` [N, S] float32.

    A step with a value also keeps `log_mean_value` [N]; labels stay in the shards.

    Args:
        folder: the run's folder.
        scores: predictions of all rows of the split, in order.
        split: the part that was scored.
        data_sha256: checksum of the manifest of the prepared folder.
    """
    tensors = {}
    for space in SPACES:
        log_p, log_not_p = getattr(scores, f"log_{space}"), getattr(scores, f"log_not_{space}")
        tensors[f"{space}_logit"] = np.subtract(log_p, log_not_p, dtype=np.float64).astype(np.float32)
    if scores.log_mean_value is not None:
        tensors[_VALUE] = scores.log_mean_value.astype(np.float32)
    metadata = {"format": "1", "split": split.value, "data_sha256": data_sha256}
    write_bytes(folder / SCORES_FILE, save(tensors, metadata))


def has_scores(folder: Path, split: Split, data_sha256: str) -> bool:
    """Say whether a run keeps the scores of a split of some data.

    Args:
        folder: the run's folder.
        split: the part.
        data_sha256: checksum of the manifest of the prepared folder.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / SCORES_FILE
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return bool(metadata == {"format": "1", "split": split.value, "data_sha256": data_sha256})


def read_log_odds(folder: Path, space: Space, step: int) -> Array:
    """Read one column of a run's scores; no more of the file comes into memory.

    Args:
        folder: the run's folder.
        space: `reach` or `transition`.
        step: number of the step.

    Returns:
        [N] float32.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    path = folder / SCORES_FILE
    try:
        with safe_open(path, framework="numpy") as file:
            column: Array = file.get_slice(f"{space}_logit")[:, step]
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return column


def load_scores(run: Run, data: PreparedData, split: Split = Split.TEST) -> Scores:
    """Read the scores of a split, joined with the labels, weights, users and truths of its shards.

    Where the run keeps no scores, or those of another split or of other data, the rows are scored again; nothing is
    written.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        split: the part.

    Raises:
        ArtifactError: the run is not complete, or a file is damaged.
    """
    if not has_scores(run.folder, split, sha256(data.folder / "manifest.json")):
        # The evaluation imports this module to write what is read here.
        from funnelcast.data.loader import Loader
        from funnelcast.evaluate import SCORING_ROWS, pick_device, score

        model = run.load_model().to(pick_device(run.experiment.train.device))
        return score(model, Loader(data, split, SCORING_ROWS))
    path, shape = run.folder / SCORES_FILE, (data.rows(split), len(run.schema.steps))
    try:
        with safe_open(path, framework="numpy") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
    columns: dict[str, Array] = {}
    for space in SPACES:
        log_odds = saved.get(f"{space}_logit")
        if log_odds is None or log_odds.shape != shape:
            raise ArtifactError(f"{path}: should hold '{space}_logit' {list(shape)}, but does not")
        columns[f"log_{space}"], columns[f"log_not_{space}"] = log_probabilities(log_odds)
    if _VALUE in saved:
        columns |= {_VALUE: saved[_VALUE], "expected_value": np.exp(columns["log_reach"][:, -1] + saved[_VALUE])}
    rows = data.read_outcomes(split)
    outcomes = {name: getattr(rows, name) for name in OUTCOMES}
    columns |= {name: value.numpy() for name, value in outcomes.items() if value is not None}
    return Scores(steps=tuple(run.schema.step_names), labels=(rows.labels > 0.5).numpy(), **columns)


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path}: should be the scores of a run, but is missing or damaged: {error}")
