"""What later commands leave in the folders of runs and comparisons, in its formats, with numbers at random."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funnelcast.scores import Scores, funnel_curves, funnel_metrics

SPACES = ("reach", "transition")


def calibration(scores: Scores, sharper: Scores, fields: Sequence[str] = ()) -> dict[str, Any]:
    """`calibration.json`: metrics, reliability and errors within fields before and after."""
    steps = []
    pairs = [(funnel_metrics(part), funnel_curves(part)["steps"]) for part in (scores, sharper)]
    for i, name in enumerate(scores.steps):
        record: dict[str, Any] = {"name": name, "parameters": {"slope": 0.9, "shift": -0.1}}
        for when, (metrics, curves) in zip(("before", "after"), pairs, strict=True):
            record[when] = {
                space: {key: metrics[i][space][key] for key in ("ece", "pcoc", "logloss", "ne", "auc")}
                | {"reliability": curves[i][space]["reliability"]}
                for space in SPACES
            }
        steps.append(record)
    errors = [
        {
            "name": field,
            "steps": [
                {"name": step}
                | {
                    when: {
                        space: {"field_ece": (0.02 - k / 100) / (i + 1), "field_rce": 0.3, "field_rce_covered": 0.75}
                        for space in SPACES
                    }
                    for k, when in enumerate(("before", "after"))
                }
                for step in scores.steps
            ],
        }
        for i, field in enumerate(fields)
    ]
    fitted_on = {"split": "valid", "rows": 900}
    return {"format": 1, "method": "platt", "fitted_on": fitted_on, "steps": steps, "fields": errors}


def importance(steps: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """`importance.json`."""
    draw = np.random.default_rng(3)

    def effect(scale: float) -> dict[str, float]:
        return {"mean": float(draw.exponential(scale) - 0.002), "std": float(draw.exponential(0.002))}

    return {
        "format": 1,
        "split": "test",
        "repeats": 5,
        "fields": [
            {
                "name": name,
                "steps": [
                    {"name": step}
                    | {space: {"auc_drop": effect(0.02), "logloss_rise": effect(0.003)} for space in SPACES}
                    for step in steps
                ],
            }
            for name in fields
        ],
    }


def slices(steps: Sequence[str], columns: Sequence[str], values: int = 5) -> dict[str, Any]:
    """`slices.json`; the last slice of every column has no positives, so its AUC is undefined."""
    draw = np.random.default_rng(4)

    def metrics(last: bool) -> dict[str, Any]:
        return {
            "auc": None if last else float(0.6 + 0.2 * draw.random()),
            "pcoc": None if last else float(0.8 + 0.4 * draw.random()),
            "ne": None if last else float(0.9 + 0.1 * draw.random()),
        }

    return {
        "format": 1,
        "split": "test",
        "gaps": [
            {
                "column": columns[0],
                "value": f"{columns[0]} 2",
                "sentence": f"{steps[0]}: reach AUC 0.5123 on {columns[0]} 2 against 0.7000 overall",
            }
        ],
        "columns": [
            {
                "column": column,
                "kind": "value",
                "slices": [
                    {
                        "value": f"{column} {k}",
                        "rows": 1000 // (k + 1),
                        "steps": [
                            {"name": step, "positives": 0 if k == values - 1 else 90 // (k + 1)}
                            | {space: metrics(k == values - 1) for space in SPACES}
                            for step in steps
                        ],
                    }
                    for k in range(values)
                ],
            }
            for column in columns
        ],
    }


def decomposition(steps: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """`decomposition.json`; the last segment of every column has no weight."""
    draw = np.random.default_rng(5)

    def segment(value: str, rows: int) -> dict[str, Any]:
        losses = draw.exponential(1.0, len(steps))
        return {
            "value": value,
            "rows": rows,
            "observed_per_1000": float(draw.random() * 20),
            "expected_per_1000": float(draw.random() * 20),
            "steps": [
                {
                    "name": step,
                    "loss": float(loss),
                    "share": float(loss / losses.sum()),
                    "mean_transition": 0.2,
                    "best_quartile": 0.3,
                    "fixed_per_1000": float(40 * draw.random()),
                    "raised_per_1000": float(8 * draw.random()),
                }
                for step, loss in zip(steps, losses, strict=True)
            ],
        }

    empty = {"value": "none", "rows": 0, "observed_per_1000": None, "expected_per_1000": None, "steps": []}
    return {
        "format": 1,
        "best_quartile": 0.75,
        "rows_off": 0.0,
        "overall": segment("all rows", 5000),
        "columns": [
            {
                "column": column,
                "kind": "value",
                "overlapping": False,
                "segments": [*(segment(f"{column} {k}", 900 - 100 * k) for k in range(4)), empty],
            }
            for column in columns
        ],
    }


def gates(segments: Sequence[str], layers: int = 2, slots: int = 24) -> dict[str, Any]:
    """`gates.json` of a model with openings."""
    draw = np.random.default_rng(6)

    def layer(name: str) -> dict[str, Any]:
        rates = np.sort(draw.random(slots))
        rates[0], rates[-1] = 0.0, 1.0
        return {
            "name": name,
            "kind": "opening",
            "gates": slots,
            "rate": float(rates.mean()),
            "mean": float(rates.mean()),
            "rate_histogram": {"edges": [-0.5, 0.5, 1.5], "counts": [2, 3]},
            "quantiles": {
                kind: {"0.01": 0.1, "0.05": 0.2, "0.25": 0.3, "0.5": 0.45, "0.75": 0.6, "0.95": 0.7, "0.99": 0.9}
                for kind in ("rate", "mean")
            },
            "entropy": 0.31,
            "exact_zero": 0.4,
            "exact_one": 0.2,
            "dead": 1,
            "always_open": 1,
            "slots": [
                {"open_rate": float(r), "mean": float(r), "exact_zero": 0.0, "exact_one": 0.0, "dead": bool(r == 0)}
                for r in rates
            ],
            "segments": [
                {"value": value, "rows": 50 + k, "rate": 0.3 + 0.1 * k, "mean": 0.4, "entropy": 0.2}
                for k, value in enumerate(segments)
            ],
        }

    return {
        "format": 1,
        "experiment": "apem",
        "model": "apem",
        "split": "test",
        "rows": 5000,
        "by": "page",
        "gamma": 0.8,
        "layers": [layer(f"step {k}, layer 1") for k in range(layers)],
        "map": gate_map(),
        "drift": {
            "against": {"folder": "/somewhere/last week", "split": "valid", "rows": 4000},
            "layers": [
                {
                    "name": f"step {k}, layer 1",
                    "rate": 0.02 + k / 10,
                    "rate_by_chance": 0.001,
                    "bins": 10,
                    "words": ("stable", "moderate shift")[k % 2],
                    "slots": draw.exponential(0.05, slots).tolist(),
                }
                for k in range(layers)
            ],
        },
        "gamma_curve": [{"step": 100 * k, "gamma": 10.0 / (1 + k)} for k in range(20)],
    }


def gate_map(rows: int = 2000) -> dict[str, Any]:
    """`map` of `gates.json`."""
    draw = np.random.default_rng(7)
    places = draw.normal(size=(rows, 2)).round(5).tolist()
    groups = ("low", "middle", "high")
    return {
        "rows": rows,
        "variance": [0.61, 0.2],
        "pca": places,
        "tsne": places,
        "group": [groups[i % 3] for i in range(rows)],
        "reached": [i % 4 for i in range(rows)],
        "groups": [{"group": name, "rows": rows // 3, "rate": 0.3 + 0.1 * i} for i, name in enumerate(groups)],
    }


def efficiency(experiments: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """`efficiency.json`; the last experiment has no peak."""
    return {
        "format": 1,
        "rows": [
            {
                "experiment": name,
                "model": model,
                "parameters": 1_200_000 + 10_000 * i,
                "bytes": 4_800_000 + i,
                "train_rows_per_second": 90_000.0 / (i + 1),
                "seconds_per_epoch": 1.5 * (i + 1),
                "score_rows_per_second": 400_000.0,
                "peak_bytes": None if i == len(experiments) - 1 else 2**30 + i,
            }
            for i, (name, model, _) in enumerate(experiments)
        ],
    }


def add_statistics(board: dict[str, Any]) -> None:
    """Intervals, tests against the first experiment, and power, as a comparison with statistics has them."""
    against = board["rows"][0]["experiment"]
    board["published"] = [
        {
            "source": "Somebody 2020",
            "protocol": "random",
            "note": "their own split",
            "model": f"{against} elsewhere",
            "steps": [{"name": board["funnel"][0]["name"], "space": "reach", "metric": "auc", "value": 0.6543}],
        }
    ]
    board["statistics"] = {"alpha": 0.05, "resamples": 2000, "clusters": "user"}
    board["power"] = [
        {
            "step": step["name"],
            "space": space,
            "positives": step["positives"],
            "smallest_difference": 0.012,
            "sentence": f"with {step['positives']:,} positives a difference under 0.012 in {step['name']}'s AUC "
            "cannot be seen",
        }
        for step in board["funnel"]
        for space in SPACES
    ]
    for number, row in enumerate(board["rows"]):
        for i, step in enumerate(row["steps"]):
            for space in SPACES:
                auc, base = step[space]["auc"], board["rows"][0]["steps"][i][space]["auc"]["mean"]
                known = auc["mean"] is not None and base is not None
                auc["interval"] = [auc["mean"] - 0.01, auc["mean"] + 0.01] if known else None
                auc["test"] = None
                if number and known:
                    difference = auc["mean"] - base
                    auc["test"] = {
                        "against": against,
                        "difference": difference,
                        "interval": [difference - 0.008, difference + 0.008],
                        "t_p": 0.02,
                        "wilcoxon_p": None,
                        "delong_p": 0.00001,
                        "combined_p": 0.0002,
                        "holm_p": 0.004,
                        "paper_mark": number == 2,
                        "holm_mark": True,
                    }


def write(folder: Path, **files: dict[str, Any]) -> None:
    """Write files into a folder."""
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record, allow_nan=False), encoding="utf-8")
