"""Run + split -> scores per step -> report.json."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.files import read_json, sha256, write_json
from funnelcast.layers import FunnelModel
from funnelcast.run import Run
from funnelcast.scores import Scores, funnel_curves, funnel_metrics

__all__ = ["SCORING_ROWS", "evaluate", "pick_device", "score"]

SCORING_ROWS = 4096  # rows scored at once
_OPTIONAL = ("user", "true_reach", "true_transition", "true_potential", "value", "scope")


def pick_device(name: str) -> torch.device:
    """Turn a device option into a device.

    Args:
        name: `auto` (CUDA when there is one), `cpu` or `cuda`.

    Raises:
        ConfigError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device should be available, received 'cuda' on a machine without CUDA; choices: auto, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def score(model: FunnelModel, loader: Loader) -> Scores:
    """Predict every row of a split.

    Args:
        model: on its device; it is put into evaluation mode.
        loader: the rows.
    """
    device = next(model.parameters()).device
    model.eval()
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}

    def keep(name: str, value: Tensor | None) -> None:
        if value is not None:
            columns.setdefault(name, []).append(value.cpu().numpy())

    with torch.inference_mode():
        for batch in loader.in_order():
            prediction = model(batch.ids.to(device))
            for name in ("log_reach", "log_not_reach", "log_transition", "log_not_transition"):
                keep(name, getattr(prediction, name))
            if prediction.value_location is not None:
                keep("expected_value", prediction.expected_value)
                keep("log_mean_value", prediction.log_mean_value)
            keep("labels", batch.labels > 0.5)
            for name in ("observed", "weight", *_OPTIONAL):
                keep(name, getattr(batch, name))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Scores(steps=tuple(model.schema.step_names), **joined)


def evaluate(run: Run, data: PreparedData, split: Split = Split.TEST) -> dict[str, Any]:
    """Score a split with a run's best weights and write `report.json` and `curves.json` into the run.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        split: the part to score.

    Returns:
        The report.

    Raises:
        ConfigError: the folder was prepared with another schema.
        ArtifactError: the run is not complete, or a file is damaged.
    """
    steps, expected = ([(s.name, s.kind) for s in schema.steps] for schema in (data.schema, run.schema))
    if data.schema.fields != run.schema.fields or steps != expected:
        raise ConfigError(f"{data.folder}: its fields and steps should be those of the run {run.folder}")
    device = pick_device(run.experiment.train.device)
    model = run.load_model().to(device)
    loader = Loader(data, split, SCORING_ROWS)
    started = time.perf_counter()
    scores = score(model, loader)
    seconds = time.perf_counter() - started
    history = read_json(
        run.folder / "history.json", "the history of a run", "rows", "train_seconds", "epochs", "best_epoch"
    )
    report = {
        "format": 1,
        "experiment": run.experiment.name,
        "model": run.experiment.model.name,
        "dataset": run.schema.dataset,
        "protocol": run.schema.protocol,
        "split": split.value,
        "seed": run.seed,
        "rows": loader.rows,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "train_rows_per_second": history["rows"] / history["train_seconds"],
        "score_rows_per_second": loader.rows / seconds,
        "train_seconds": history["train_seconds"],
        "epochs": len(history["epochs"]),
        "best_epoch": history["best_epoch"],
        "steps": funnel_metrics(scores),
        "data_sha256": sha256(data.folder / "manifest.json"),
        "environment": run.record["environment"],
    }
    # The report comes last: where it is, the curves are of the same rows.
    (run.folder / "report.json").unlink(missing_ok=True)
    write_json(run.folder / "curves.json", funnel_curves(scores))
    write_json(run.folder / "report.json", report)
    return report
