"""Run + split -> which fields a model lives on, and which step loses the customer, into two JSON files.

Shape legend: N rows of the sample, W columns of ids, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from funnelcast import metrics
from funnelcast.batch import Batch
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.decomposition import decomposition
from funnelcast.errors import ConfigError
from funnelcast.evaluate import SCORING_ROWS, check_fits, load_scorer, score_batches
from funnelcast.files import write_json
from funnelcast.layers import check_at_least
from funnelcast.leaderboard import summary
from funnelcast.metrics import Undefined, Value
from funnelcast.prediction import Prediction
from funnelcast.progress import RowProgress
from funnelcast.run import Run
from funnelcast.schema import Schema
from funnelcast.scores import SPACES, Scores
from funnelcast.segments import MIN_ROWS, Segmenter

__all__ = ["ROWS", "Explanation", "explain", "permutation_importance", "sample_rows"]

Record = dict[str, Any]
Index = NDArray[np.int64]
Measured = dict[tuple[int, str, str], Value]  # (step, space, metric) -> value
ROWS = 100_000  # of the sample
_READ_ROWS = 65_536  # read at once


@dataclass(frozen=True)
class Explanation:
    """What `explain` wrote.

    Args:
        importance: `importance.json`.
        decomposition: `decomposition.json`; None where the steps form a graph.
    """

    importance: Record
    decomposition: Record | None


def sample_rows(data: PreparedData, split: Split, rows: int, seed: int) -> tuple[Batch, Index]:
    """Draw rows of a split without replacement, each with the same chance; all of them where there are no more.

    The split is read once, and memory holds the sample and a few row groups.

    Args:
        data: the prepared folder.
        split: the part, with at least one row.
        rows: size of the sample, >= 1.
        seed: >= 0.

    Returns:
        The rows in their order, and their numbers in the split.
    """
    count = data.rows(split)
    numbers: Index = np.arange(count)
    if rows < count:
        numbers = np.sort(np.random.default_rng(seed).choice(count, rows, replace=False, shuffle=False))
    parts, start = [], 0
    for batch in Loader(data, split, _READ_ROWS, memory_bytes=0).in_order():
        first, last = np.searchsorted(numbers, (start, start + len(batch)))
        if last > first:
            parts.append(batch.take(torch.from_numpy(numbers[first:last] - start)))
        start += len(batch)
    return Batch.concatenate(parts), numbers


def _measure(scores: Scores) -> Measured:
    """AUC and log-loss of every step in both spaces."""
    found: Measured = {}
    for step in range(len(scores.steps)):
        for space in SPACES:
            rows = scores.rows_of(step, space)
            log_p, log_not_p = (getattr(scores, f"log_{word}{space}")[rows, step] for word in ("", "not_"))
            labels, weight = scores.labels[rows, step], scores.weight[rows]
            found[step, space, "auc"] = metrics.auc(log_p, labels, weight)
            found[step, space, "logloss"] = metrics.logloss(log_p, log_not_p, labels, weight)
    return found


def _effect(name: str, base: Value, values: Sequence[Value], sign: int) -> Record:
    """Mean and standard deviation of sign * (value - base) over the repeats, and why there is none."""
    reasons = [value.reason for value in (base, *values) if isinstance(value, Undefined)]
    if isinstance(base, Undefined) or reasons:
        return {name: {"mean": None, "std": None, "reason": reasons[0]}}
    # The sum makes -0.0 to 0.0.
    changes = summary([sign * (value - base) + 0.0 for value in values if not isinstance(value, Undefined)])
    return {name: {"mean": changes["mean"], "std": changes["std"]}}


def permutation_importance(
    predict: Callable[[Tensor], Prediction],
    batch: Batch,
    schema: Schema,
    *,
    repeats: int = 5,
    seed: int = 0,
    device: torch.device | None = None,
) -> Record:
    """Measure what a model loses when a field tells nothing: its columns are shuffled over the rows.

    auc_drop = AUC - AUC',   logloss_rise = logloss' - logloss,   ' after the shuffle; a positive number is a loss

    All columns of a multi-valued field move together, so that every row keeps a whole set of values. A field's
    shuffles depend on the seed and the field alone. Fields that say the same thing stand in for each other, and then
    each of them looks unimportant; shuffled rows may be such as never occur.

    Args:
        predict: takes ids [B, W] on the device.
        batch: N rows.
        schema: its fields and steps.
        repeats: shuffles of each field, >= 1.
        seed: >= 0.
        device: where ids are scored; the CPU by default.

    Returns:
        `repeats`, `seed`, `rows`, `baseline` (AUC and log-loss of each step and space; None with a reason where
        undefined) and `fields`, that with the largest effect on the last step's reach first: AUC, then log-loss. The
        standard deviation is that over the repeats (n - 1), None for one.

    Raises:
        ConfigError: an option is out of range.

    Source: Breiman 2001, "Random forests", section 10; Fisher, Rudin and Dominici 2019, "All models are wrong, but many
        are useful".
    """
    check_at_least(1, repeats=repeats)
    check_at_least(0, seed=seed)
    where = device or torch.device("cpu")

    def measure(ids: Tensor) -> Measured:
        rows = replace(batch, ids=ids).split(SCORING_ROWS)
        return _measure(score_batches(predict, schema.step_names, rows, where))

    base, fields = measure(batch.ids), []
    ids = batch.ids.clone()
    with RowProgress("explain", schema.n_fields * repeats * len(batch)) as progress:
        for number, field in enumerate(schema.fields):
            columns = slice(schema.columns[number], schema.columns[number + 1])
            shuffled = []
            for repeat in range(repeats):
                order = np.random.default_rng([seed, number, repeat]).permutation(len(batch))
                ids[:, columns] = batch.ids[torch.from_numpy(order), columns]
                shuffled.append(measure(ids))
                progress.advance(len(batch), field.name)
            ids[:, columns] = batch.ids[:, columns]
            fields.append({"name": field.name, "steps": _steps(schema, base, shuffled)})
    baseline = [
        {"name": name, **{s: {m: _plain(base[i, s, m]) for m in ("auc", "logloss")} for s in SPACES}}
        for i, name in enumerate(schema.step_names)
    ]
    fields.sort(key=_rank)
    return {"repeats": repeats, "seed": seed, "rows": len(batch), "baseline": baseline, "fields": fields}


def _plain(value: Value) -> float | None:
    return None if isinstance(value, Undefined) else value


def _steps(schema: Schema, base: Measured, shuffled: Sequence[Measured]) -> list[Record]:
    """The effects of one field on every step and space."""
    steps = []
    for i, name in enumerate(schema.step_names):
        record: Record = {"name": name}
        for space in SPACES:
            key = (i, space)
            auc, logloss = ([found[*key, metric] for found in shuffled] for metric in ("auc", "logloss"))
            drop = _effect("auc_drop", base[*key, "auc"], auc, -1)
            record[space] = drop | _effect("logloss_rise", base[*key, "logloss"], logloss, 1)
        steps.append(record)
    return steps


def _rank(field: Record) -> tuple[float, float]:
    """Order of fields: the largest drop of the last step's AUC, then the largest rise of its log-loss, first."""
    last = field["steps"][-1]["reach"]
    return -(last["auc_drop"]["mean"] or 0.0), -(last["logloss_rise"]["mean"] or 0.0)


def explain(
    run: Run,
    data: PreparedData,
    split: Split = Split.TEST,
    *,
    repeats: int = 5,
    rows: int = ROWS,
    seed: int = 0,
    columns: Sequence[str] = (),
    min_rows: int = MIN_ROWS,
) -> Explanation:
    """Explain a run on a sample of a split; write `importance.json` and, for a chain, `decomposition.json` into it.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        split: the part to score.
        repeats: shuffles of each field, >= 1.
        rows: size of the sample, >= 1; a split with fewer is taken as a whole.
        seed: draws the sample and the shuffles, >= 0.
        columns: by which the decomposition is cut as well, see `funnelcast.segments.Segmenter.parse`.
        min_rows: values of a field with fewer rows are pooled into `other`, >= 1.

    Raises:
        ConfigError: an option is out of range, a column is unknown or asked of a graph, or the folder was prepared with
            another schema.
        DataError: the split has no rows.
        ArtifactError: the run is not complete, or a file is damaged.
    """
    check_at_least(1, repeats=repeats, rows=rows)
    check_at_least(0, seed=seed)
    check_fits(run, data)
    chain = run.schema.graph.is_chain
    if columns and not chain:
        raise ConfigError(f"{run.folder}: --by should be left out for a graph of steps, whose p_S is no product of c_k")
    parsed = Segmenter(data, split, min_rows=min_rows).parse(columns)
    predict, device = load_scorer(run)
    batch, numbers = sample_rows(data, split, rows, seed)
    head = {"format": 1, "split": split.value, "split_rows": data.rows(split)}
    decomposed = None
    if chain:
        scores = score_batches(predict, run.schema.step_names, batch.split(SCORING_ROWS), device)
        segmenter = Segmenter(data, split, rows=numbers, min_rows=min_rows)
        decomposed = head | {"rows": len(batch)} | decomposition(scores, [segmenter.cut(c) for c in parsed])
    measured = permutation_importance(predict, batch, run.schema, repeats=repeats, seed=seed, device=device)
    importance = head | measured
    write_json(run.folder / "importance.json", importance)
    if decomposed is not None:
        write_json(run.folder / "decomposition.json", decomposed)
    return Explanation(importance, decomposed)
