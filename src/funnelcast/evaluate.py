"""Run + split -> scores per step -> report.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from funnelcast.batch import Batch
from funnelcast.calibration import Calibration
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, choices
from funnelcast.field_calibration import field_calibration
from funnelcast.files import read_json, sha256, write_json
from funnelcast.layers import FunnelModel
from funnelcast.prediction import Prediction
from funnelcast.run import Run
from funnelcast.saved_scores import save_scores
from funnelcast.schema import Schema
from funnelcast.scores import OUTCOMES, SPACES, Scores, Space, as_json, funnel_curves, funnel_metrics

__all__ = [
    "SCORING_ROWS",
    "check_field_names",
    "check_fits",
    "evaluate",
    "load_scorer",
    "measure_calibration",
    "pick_device",
    "score",
    "score_batches",
]

SCORING_ROWS = 4096  # rows scored at once


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
    model.eval()
    return score_batches(model, model.schema.step_names, loader.in_order(), next(model.parameters()).device)


def score_batches(
    predict: Callable[[Tensor], Prediction], steps: Sequence[str], batches: Iterable[Batch], device: torch.device
) -> Scores:
    """Predict rows with anything that turns ids into a prediction.

    Args:
        predict: takes ids [B, W] on the device.
        steps: names of the steps in funnel order.
        batches: at least one.
        device: where ids are scored.
    """
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}

    def keep(name: str, value: Tensor | None) -> None:
        if value is not None:
            columns.setdefault(name, []).append(value.cpu().numpy())

    with torch.inference_mode():
        for batch in batches:
            prediction = predict(batch.ids.to(device))
            for name in ("log_reach", "log_not_reach", "log_transition", "log_not_transition"):
                keep(name, getattr(prediction, name))
            if prediction.value_location is not None:
                keep("expected_value", prediction.expected_value)
                keep("log_mean_value", prediction.log_mean_value)
            keep("labels", batch.labels > 0.5)
            for name in OUTCOMES:
                keep(name, getattr(batch, name))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Scores(steps=tuple(steps), **joined)


def load_scorer(run: Run) -> tuple[Callable[[Tensor], Prediction], torch.device]:
    """Load what turns ids into a prediction, in evaluation mode, and the device it wants them on.

    Args:
        run: a complete run.

    Raises:
        ArtifactError: the run is not complete, or a file is damaged.
    """
    predict: Callable[[Tensor], Prediction] = run.load_model()
    device = pick_device(run.experiment.train.device)
    return (predict.to(device).eval(), device) if isinstance(predict, nn.Module) else (predict, device)


def check_fits(run: Run, data: PreparedData) -> None:
    """Refuse a prepared folder whose fields or steps are not those of a run.

    Args:
        run: the run.
        data: the prepared folder.

    Raises:
        ConfigError: they differ.
    """
    steps, expected = ([(s.name, s.kind) for s in schema.steps] for schema in (data.schema, run.schema))
    if data.schema.fields != run.schema.fields or steps != expected:
        raise ConfigError(f"{data.folder}: its fields and steps should be those of the run {run.folder}")


def evaluate(run: Run, data: PreparedData, split: Split = Split.TEST, *, calibrated: bool = False) -> dict[str, Any]:
    """Score a split with a run's best weights and write `report.json`, `curves.json` and `scores.safetensors` into it.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        split: the part to score.
        calibrated: measure what the run's calibration makes of its probabilities.

    Returns:
        The report.

    Raises:
        ConfigError: the folder was prepared with another schema.
        ArtifactError: the run is not complete or has no calibration, or a file is damaged.
    """
    check_fits(run, data)
    calibration = run.load_calibration() if calibrated else None
    device = pick_device(run.experiment.train.device)
    model = run.load_model().to(device)
    loader = Loader(data, split, SCORING_ROWS)
    started = time.perf_counter()
    raw = score(model, loader)
    scores = raw if calibration is None else calibration.scores(raw)
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
        "calibration": None if calibration is None else calibration.method,
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
    # The report comes last: where it is, scores and curves are of the same rows.
    (run.folder / "report.json").unlink(missing_ok=True)
    save_scores(run.folder, raw, split, report["data_sha256"])
    write_json(run.folder / "curves.json", funnel_curves(scores))
    write_json(run.folder / "report.json", report)
    return report


def check_field_names(schema: Schema, names: Sequence[str]) -> None:
    """Refuse names of fields that do not cut the rows into values.

    Args:
        schema: the fields.
        names: what the user wrote.

    Raises:
        ConfigError: no such field, or one with several values a row.
    """
    known = [field.name for field in schema.fields if field.max_length == 1]
    for name in names:
        if name not in known:
            raise ConfigError(f"field '{name}' should be a field with one value a row; {choices(known, name)}")


def measure_calibration(
    run: Run, data: PreparedData, calibration: Calibration, fields: Sequence[str] = (), split: Split = Split.TEST
) -> dict[str, Any]:
    """Score a split with and without a calibration.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        calibration: fitted for the run.
        fields: names of fields within whose values predicted and observed sums are compared.
        split: the part to score.

    Returns:
        `split`, `rows`, `steps`: one record a step with `before` and `after`, each with `reach` and `transition`:
        `ece`, `pcoc`, `logloss`, `ne`, `auc`, `reliability`; and `fields`: one record a field with its `steps`, alike,
        with the errors of `field_calibration`.
    """
    check_fits(run, data)
    check_field_names(run.schema, fields)
    model = run.load_model().to(pick_device(run.experiment.train.device))
    loader = Loader(data, split, SCORING_ROWS)
    raw = score(model, loader)
    both = {"before": raw, "after": calibration.scores(raw)}
    metrics = {when: funnel_metrics(scores) for when, scores in both.items()}
    curves = {when: funnel_curves(scores)["steps"] for when, scores in both.items()}
    steps = [
        {when: {s: _part(metrics[when][i][s], curves[when][i][s]) for s in SPACES} for when in both}
        for i in range(len(raw.steps))
    ]
    places = [run.schema.columns[[f.name for f in run.schema.fields].index(name)] for name in fields]
    values = np.concatenate([batch.ids[:, places].cpu().numpy() for batch in loader.in_order()])  # [N, fields]
    errors = [{"name": name, "steps": _field_steps(both, values[:, number])} for number, name in enumerate(fields)]
    return {"split": split.value, "rows": len(raw), "steps": steps, "fields": errors}


def _part(metrics: dict[str, Any], curves: dict[str, Any]) -> dict[str, Any]:
    """Pick what tells of calibration, with the reasons where something has no value."""
    names = ("ece", "pcoc", "logloss", "ne", "auc")
    kept = {key: metrics[key] for name in names for key in (name, f"{name}_reason") if key in metrics}
    return kept | {key: value for key, value in curves.items() if key.startswith("reliability")}


def _field_steps(both: dict[str, Scores], values: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Measure every step in both spaces within the values of a field."""

    def errors(scores: Scores, step: int, space: Space) -> dict[str, Any]:
        rows = scores.rows_of(step, space)
        probability = np.exp(getattr(scores, f"log_{space}")[rows, step], dtype=np.float64)
        return as_json(field_calibration(probability, scores.labels[rows, step], values[rows], scores.weight[rows]))

    names = both["before"].steps
    return [
        {"name": name}
        | {when: {space: errors(scores, step, space) for space in SPACES} for when, scores in both.items()}
        for step, name in enumerate(names)
    ]
