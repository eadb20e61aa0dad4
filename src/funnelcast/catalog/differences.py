"""In what two runs differ: configuration and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from funnelcast.catalog.records import ReportRecord, RunRecord
from funnelcast.metrics import HIGHER_IS_BETTER, IDEAL, badness

__all__ = ["Difference", "MetricDifference", "compare_configurations", "compare_metrics", "flatten", "metrics_of"]

_TRUTHS = ("error", "potential_error")
_KNOWN = {*HIGHER_IS_BETTER, *IDEAL}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Write nested records with dotted keys; lists of records get numbers, other lists stay values.

    Args:
        value: a JSON value.
        prefix: the key so far.

    Example:
        >>> flatten({"model": {"name": "ple", "hidden": [8, 4]}, "losses": [{"name": "bce"}]})
        {'model.name': 'ple', 'model.hidden': [8, 4], 'losses.0.name': 'bce'}
    """
    records = isinstance(value, list) and value and all(isinstance(part, dict) for part in value)
    items = enumerate(value) if records else value.items() if isinstance(value, dict) and value else None
    if items is None:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, part in items:
        found |= flatten(part, f"{prefix}.{key}" if prefix else str(key))
    return found


@dataclass(frozen=True)
class Difference:
    """A key that two runs have different values under.

    Args:
        key: with dots.
        first: value of the first run as text, or `-` where it has none.
        second: value of the second run.
    """

    key: str
    first: str
    second: str


def compare_configurations(first: RunRecord, second: RunRecord) -> list[Difference]:
    """List the keys in which two runs differ: the experiment, the seed, the data and the environment.

    Args:
        first: of one run.
        second: of another.
    """
    flat = []
    for record in (first, second):
        content = record.model_dump(mode="json")
        flat.append(flatten({**content.pop("experiment"), **content}))
    keys = dict.fromkeys([*flat[0], *flat[1]])
    nothing = object()
    return [
        Difference(key, *("-" if key not in part else str(part[key]) for part in flat))
        for key in keys
        if flat[0].get(key, nothing) != flat[1].get(key, nothing)
    ]


@dataclass(frozen=True)
class MetricDifference:
    """A metric of two runs.

    Args:
        step: name of the step.
        space: `reach` or `transition`, or the kind of an error to the truth.
        metric: name of the metric.
        first: value of the first run, or None.
        second: value of the second run, or None.
        better: 1 or 2 for the better run by the metric's own direction, 0 where neither is.
    """

    step: str
    space: str
    metric: str
    first: float | None
    second: float | None
    better: Literal[0, 1, 2]


def compare_metrics(first: ReportRecord, second: ReportRecord) -> list[MetricDifference]:
    """Put every metric of two reports side by side; steps and metrics that one of them lacks have None there.

    Args:
        first: of one run.
        second: of another.
    """
    flat = [metrics_of(report) for report in (first, second)]
    rows = []
    for key in dict.fromkeys([*flat[0], *flat[1]]):
        a, b = (part.get(key) for part in flat)
        better: Literal[0, 1, 2] = 0
        if a is not None and b is not None and badness(key[2], a) != badness(key[2], b):
            better = 1 if badness(key[2], a) < badness(key[2], b) else 2
        rows.append(MetricDifference(*key, a, b, better))
    return rows


def metrics_of(report: ReportRecord) -> dict[tuple[str, str, str], float | None]:
    """Read the metrics with a known direction as (step, space, metric) -> value.

    Args:
        report: of a run; an error to the truth stands in a space of its own, such as `transition error`.
    """
    found: dict[tuple[str, str, str], float | None] = {}
    for step in report.steps:
        for space, values in (("reach", step.reach), ("transition", step.transition)):
            nested = {f"{space} {kind.replace('_', ' ')}": part for kind, part in values.items() if kind in _TRUTHS}
            for words, part in {space: values, **nested}.items():
                if isinstance(part, dict):
                    found |= {
                        (step.name, words, name): value
                        for name, value in part.items()
                        if name in _KNOWN and (value is None or isinstance(value, float | int))
                    }
    return found
