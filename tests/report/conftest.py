"""A comparison's folder made from random scores of a three-step funnel, without any training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnelcast.leaderboard import build_leaderboard
from funnelcast.report import write_report
from funnelcast.scores import Scores, funnel_curves, funnel_metrics

from . import extras

BASE_LOG_ODDS = (-2.2, -1.6, -0.9, -1.2, -0.8)


def make_scores(skill: float, seed: int, rows: int, steps: Sequence[str], truth: bool) -> Scores:
    """Scores of a model that sees the log-odds through noise; the labels are the same for every model."""
    world, noise = np.random.default_rng(11), np.random.default_rng(seed)
    log_odds = np.stack([world.normal(base, 1.0, rows) for base in BASE_LOG_ODDS[: len(steps)]], axis=1)
    true = 1 / (1 + np.exp(-log_odds))
    labels = np.cumprod(world.random(true.shape) < true, axis=1).astype(bool)
    seen = log_odds * skill + np.array(BASE_LOG_ODDS[: len(steps)]) * (1 - skill)
    predicted = 1 / (1 + np.exp(-(seen + noise.normal(0, 1 - skill, seen.shape))))
    reach, true_reach = np.cumprod(predicted, axis=1), np.cumprod(true, axis=1)
    logs = {
        "log_reach": np.log(reach),
        "log_not_reach": np.log1p(-reach),
        "log_transition": np.log(predicted),
        "log_not_transition": np.log1p(-predicted),
    }
    return Scores(
        tuple(steps),
        **{name: value.astype(np.float32) for name, value in logs.items()},
        labels=labels,
        observed=np.ones_like(labels),
        weight=np.ones(rows, dtype=np.float32),
        user=world.integers(0, rows // 8 + 1, rows),
        true_reach=true_reach.astype(np.float32) if truth else None,
        true_transition=true.astype(np.float32) if truth else None,
    )


def make_report(
    experiment: str, model: str, seed: int, scores: Scores, dataset: str, epochs: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report and the history of a run."""
    steps = funnel_metrics(scores)
    report = {
        "format": 1,
        "experiment": experiment,
        "model": model,
        "dataset": dataset,
        "split": "test",
        "seed": seed,
        "rows": len(scores),
        "parameters": 1_530_000 + 1000 * len(experiment),
        "train_rows_per_second": 81_000.0 + seed,
        "score_rows_per_second": 402_000.0,
        "train_seconds": 31.5,
        "epochs": epochs,
        "best_epoch": 0,
        "steps": steps,
        "environment": {"python": "3.11.7", "torch": "2.13.0", "cores": 2},
    }
    start = np.random.default_rng(seed + len(experiment)).random() * 0.02
    history = {
        "loss": [{"step": 100 * (i + 1), "rows": 102_400 * (i + 1), "loss": 0.5 / (i + 2) + start} for i in range(40)],
        "epochs": [
            {
                "epoch": e,
                "step": 4000 // epochs * (e + 1),
                "valid_ne": [None if s["reach"]["ne"] is None else s["reach"]["ne"] + 0.03 / (e + 1) for s in steps],
                "valid_mean_ne": 0.9,
                "seconds": 10.0,
                "best": e == 0,
            }
            for e in range(epochs)
        ],
    }
    return report, history


def build(
    folder: Path,
    experiments: Sequence[tuple[str, str, float]],
    *,
    seeds: int = 2,
    rows: int = 900,
    steps: Sequence[str] = ("click", "cart", "buy"),
    dataset: str = "shop",
    truth: bool = True,
    epochs: int = 3,
    everything: bool = False,
    fields: int = 6,
) -> Path:
    """Make a comparison's folder; experiments are (name, model, skill). `everything` adds all optional files."""
    reports = []
    for i, (name, model, skill) in enumerate(experiments):
        for seed in range(seeds):
            scores = make_scores(skill, seed + 100 * i, rows, steps, truth)
            report, history = make_report(name, model, seed, scores, dataset, epochs)
            run = folder / "runs" / f"{i}-seed{seed}"
            run.mkdir(parents=True)
            experiment = {"name": name, "model": {"name": model, "options": {"hidden": [64, 32]}}}
            record = {"format": 1, "experiment": experiment, "seed": seed, "data": {"manifest_sha256": "d" * 64}}
            manifest = {"format": 1, "files": {"run.json": "a" * 64, "weights.safetensors": f"{i}{seed}" + "b" * 62}}
            extras.write(run, report=report, curves=funnel_curves(scores), history=history)
            extras.write(run, run=record, manifest=manifest)
            if everything and seed == 0:
                columns = [f"{name} column", "page"]
                sharper = make_scores(skill + 0.1, seed, rows, steps, truth)
                extras.write(
                    run,
                    calibration=extras.calibration(scores, sharper, columns),
                    importance=extras.importance(steps, [f"{name} field {k}" for k in range(fields)]),
                    slices=extras.slices(steps, columns),
                    decomposition=extras.decomposition(steps, columns),
                    gates=extras.gates(columns),
                )
            reports.append(report)
    board = build_leaderboard(reports)
    if everything:
        extras.add_statistics(board)
        extras.write(folder, efficiency=extras.efficiency(experiments))
    extras.write(folder, leaderboard=board)
    return folder


@pytest.fixture
def make_comparison(tmp_path: Path) -> Callable[..., Path]:
    """Make a comparison's folder; takes the arguments of `build`."""

    def make(*arguments: Any, folder: Path = tmp_path, **options: Any) -> Path:
        return build(folder, *arguments, **options)

    return make


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an ordinary comparison, for tests that only read it."""
    experiments = [("single", "single_task", 0.5), ("mmoe", "mmoe", 0.7), ("apem", "apem", 0.8)]
    return write_report(build(tmp_path_factory.mktemp("shop"), experiments))


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a comparison with all optional files, for tests that only read it."""
    experiments = [("single", "single_task", 0.5), ("mmoe", "mmoe", 0.7), ("apem", "apem", 0.8)]
    return write_report(build(tmp_path_factory.mktemp("everything"), experiments, rows=3000, everything=True))
