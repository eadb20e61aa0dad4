"""Run + split + columns -> the metrics of parts of the rows, and where they are worst, into slices.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.evaluate import SCORING_ROWS, check_fits, load_scorer, score_batches
from funnelcast.files import write_json
from funnelcast.run import Run
from funnelcast.scores import SPACES, Scores, funnel_metrics
from funnelcast.segments import MIN_ROWS, MOST, Segmentation, Segmenter

__all__ = ["auc_standard_error", "largest_gaps", "slice_metrics", "slices"]

Record = dict[str, Any]
_NOTICEABLE = 2.0  # standard errors from which on a gap is told


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Estimate the standard error of an AUC.

    sqrt((A (1 - A) + (m - 1)(A / (2 - A) - A^2) + (n - 1)(2 A^2 / (1 + A) - A^2)) / (m n))

    Args:
        auc: A in [0, 1].
        positives: m >= 1.
        negatives: n >= 1.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".

    Example:
        >>> round(auc_standard_error(0.5, 2, 2), 4)  # sqrt((1/4 + 1/12 + 1/12) / 4)
        0.3227
    """
    square = auc * auc
    by_positive = (positives - 1) * (auc / (2 - auc) - square)
    by_negative = (negatives - 1) * (2 * square / (1 + auc) - square)
    return math.sqrt((auc * (1 - auc) + by_positive + by_negative) / (positives * negatives))


def slice_metrics(scores: Scores, segmentations: Sequence[Segmentation]) -> list[Record]:
    """Measure every segment of every column.

    Args:
        scores: predictions and labels of the rows that were cut.
        segmentations: one a column.

    Returns:
        A record a column: `column`, `kind`, `overlapping` and `slices`; a slice has its `value`, `rows` and the `steps`
        of `funnelcast.scores.funnel_metrics`.
    """
    return [
        {
            "column": segmentation.column.word,
            "kind": segmentation.column.kind,
            "overlapping": segmentation.overlapping,
            "slices": [
                {
                    "value": segment.value,
                    "rows": len(segment.rows),
                    "steps": funnel_metrics(scores.take(segment.rows)),
                }
                for segment in segmentation.segments
            ],
        }
        for segmentation in segmentations
    ]


def largest_gaps(steps: Sequence[Record], columns: Sequence[Record]) -> list[Record]:
    """List the slices whose AUC is below that of all rows by more than two of its own standard errors.

    The first step's transition is its reach and is told once.

    Args:
        steps: the metrics of all rows.
        columns: from `slice_metrics`.

    Returns:
        Records with `column`, `value`, `step`, `space`, `auc`, `overall`, `difference` > 0, `standard_error` and a
        `sentence`, the largest difference first.
    """
    gaps = []
    for column in columns:
        for part in column["slices"]:
            for i, (step, overall) in enumerate(zip(part["steps"], steps, strict=True)):
                gaps += [_gap(column["column"], part["value"], step, overall, s) for s in SPACES[: 2 if i else 1]]
    return sorted((gap for gap in gaps if gap is not None), key=lambda gap: -gap["difference"])


def _comparisons(steps: Sequence[Record], columns: Sequence[Record]) -> int:
    """How many AUCs of slices stand beside one of all rows."""
    places = [(i, space) for i in range(len(steps)) for space in SPACES[: 2 if i else 1]]
    parts = [part["steps"] for column in columns for part in column["slices"]]
    return sum(own[i][s]["auc"] is not None and steps[i][s]["auc"] is not None for own in parts for i, s in places)


def _gap(column: str, value: str, step: Record, overall: Record, space: str) -> Record | None:
    own, whole = step[space], overall[space]["auc"]
    if own["auc"] is None or whole is None:
        return None
    error = auc_standard_error(own["auc"], own["positives"], own["rows"] - own["positives"])
    difference = whole - own["auc"]
    if difference <= _NOTICEABLE * error:
        return None
    return {
        "column": column,
        "value": value,
        "step": step["name"],
        "space": space,
        "auc": own["auc"],
        "overall": whole,
        "difference": difference,
        "standard_error": error,
        "sentence": f"{step['name']}: {space} AUC {own['auc']:.4f} on {column} = {value} against {whole:.4f} overall",
    }


def slices(
    run: Run,
    data: PreparedData,
    columns: Sequence[str],
    split: Split = Split.TEST,
    *,
    min_rows: int = MIN_ROWS,
    most: int = MOST,
) -> Record:
    """Score a split with a run's best weights, measure its slices, and write `slices.json` into the run.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        columns: what to cut by, see `funnelcast.segments.Segmenter.parse`.
        split: the part to score.
        min_rows: values of a field with fewer rows are pooled into `other`, >= 1.
        most: values of a field that stand alone, >= 1.

    Returns:
        The record that was written: `split`, `rows`, `min_rows`, the `steps` of all rows, `columns` as in
        `slice_metrics`, `gaps` as in `largest_gaps`, and the number of `comparisons` among which they were found.

    Raises:
        ConfigError: no column, an unknown one, or the folder was prepared with another schema.
        DataError: the split has no rows.
        ArtifactError: the run is not complete, or a file is damaged.
    """
    if not columns:
        raise ConfigError("at least one column should be named by --by, received none")
    check_fits(run, data)
    segmenter = Segmenter(data, split, min_rows=min_rows, most=most)
    parsed = segmenter.parse(columns)
    predict, device = load_scorer(run)
    scores = score_batches(predict, run.schema.step_names, Loader(data, split, SCORING_ROWS).in_order(), device)
    overall = funnel_metrics(scores)
    measured = slice_metrics(scores, [segmenter.cut(column) for column in parsed])
    record = {
        "format": 1,
        "split": split.value,
        "rows": len(scores),
        "min_rows": min_rows,
        "steps": overall,
        "columns": measured,
        "comparisons": _comparisons(overall, measured),
        "gaps": largest_gaps(overall, measured),
    }
    write_json(run.folder / "slices.json", record)
    return record
