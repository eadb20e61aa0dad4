"""Run + split -> can its propensities carry weights? Overlap, effective sample size and a clip, into overlap.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.evaluate import SCORING_ROWS, check_fits, pick_device, score
from funnelcast.files import write_json
from funnelcast.run import Run
from funnelcast.scores import Scores

__all__ = [
    "advise",
    "choose_clip",
    "effective_sample_size",
    "funnel_overlap",
    "inverse_propensity",
    "overlap",
    "propensity_histogram",
    "stopped_weights",
]

Array = NDArray[Any]
CLIPS = (0.0, 0.01, 0.02, 0.05)  # smallest propensities that are tried; 0 clips nothing
EDGES = (0.0, *(10 ** (k / 4) for k in range(-16, 0)), 1.0)  # of the histogram: four bins a decade from 1e-4 on
_IPS_BELOW, _DR_BELOW = 0.05, 0.5
_TINY = 1e-12  # a weight must be a finite number


def effective_sample_size(weights: Array) -> float:
    """Compute (sum w)^2 / sum w^2: how many rows of equal weight would estimate a mean as well; 0 without weight.

    Args:
        weights: [N] >= 0.

    Source: Kish 1965, "Survey sampling".

    Example:
        >>> effective_sample_size(np.array([1.0, 1.0, 2.0]))
        2.6666666666666665
    """
    weights = np.asarray(weights, dtype=np.float64)
    largest = weights.max(initial=0.0)
    if largest == 0.0:
        return 0.0
    weights = weights / largest  # squares stay within range
    return float(weights.sum() ** 2 / np.square(weights).sum())


def inverse_propensity(propensity: Array, clip: float) -> Array:
    """Compute the weights 1 / max(p, clip) of rows of the local space.

    Args:
        propensity: [N] p_{i-1} in [0, 1].
        clip: smallest propensity in [0, 1].

    Example:
        >>> inverse_propensity(np.array([0.5, 0.001]), 0.05).tolist()
        [2.0, 20.0]
    """
    weights: Array = 1.0 / np.maximum(np.asarray(propensity, dtype=np.float64), max(clip, _TINY))
    return weights


def stopped_weights(former: Array, transition: Array, labels: Array, clip: float) -> Array:
    """Compute the weights of theorem 2.1 without their factor pi: 1 for label 1, (1 - p_i) / (p_{i-1} - p_i) for 0.

    Args:
        former: [N] p_{i-1} in [0, 1].
        transition: [N] c_i in [0, 1].
        labels: [N] bool, o_i on rows of the local space.
        clip: the weights are at most 1 / clip; 0 bounds nothing.

    Example:
        >>> stopped_weights(np.array([0.5, 0.5]), np.array([0.5, 0.5]), np.array([True, False]), 0.0).tolist()
        [1.0, 3.0]
    """
    former, transition = np.asarray(former, dtype=np.float64), np.asarray(transition, dtype=np.float64)
    weights = 1.0 + (1.0 - former) / np.maximum(former * (1.0 - transition), _TINY)
    bounded: Array = np.where(labels, 1.0, np.minimum(weights, 1.0 / max(clip, _TINY)))
    return bounded


def propensity_histogram(propensity: Array, happened: Array) -> dict[str, Any]:
    """Count rows with and without the former step by propensity.

    Args:
        propensity: [N] p_{i-1} in [0, 1].
        happened: [N] bool, o_{i-1}.

    Returns:
        `edges`, `with`, `without` (counts of a bin), and `overlap`: the share of mass that both sides have in common,
        sum_bins min(share with, share without), 1 for equal distributions and 0 for separate ones; None where a side
        is empty.

    Example:
        >>> propensity_histogram(np.array([0.3, 0.3, 0.9]), np.array([True, False, True]))["overlap"]
        0.5
    """
    sides = [np.histogram(propensity[side], EDGES)[0] for side in (happened, ~happened)]
    common = None
    if all(side.sum() for side in sides):
        common = float(np.minimum(*(side / side.sum() for side in sides)).sum())
    return {"edges": list(EDGES), "with": sides[0].tolist(), "without": sides[1].tolist(), "overlap": common}


def choose_clip(candidates: Sequence[dict[str, Any]], share: float) -> dict[str, Any] | None:
    """Choose the smallest clip, the one of least bias, whose effective share of the local rows is large enough.

    Args:
        candidates: records with `clip` and `effective_share` (None without rows).
        share: smallest share accepted, in (0, 1].

    Returns:
        The record, or None where none suffices.
    """
    enough = [c for c in candidates if c["effective_share"] is not None and c["effective_share"] >= share]
    return min(enough, key=lambda c: c["clip"], default=None)


def advise(chosen: dict[str, Any] | None) -> str:
    """Say which estimator the weights can carry.

    `IPS` where a clip suffices below which at most 5 % of all rows lie, so that its bias is small. `DR` where that
    share is at most 50 %: the imputed error speaks for rows whose weight is clipped. `plain`, a loss without weights,
    where more rows are clipped or no clip suffices.

    Args:
        chosen: from `choose_clip`.
    """
    if chosen is None or chosen["share_below"] > _DR_BELOW:
        return "plain"
    return "IPS" if chosen["share_below"] <= _IPS_BELOW else "DR"


def _sizes(weights: Array, rows: Array) -> dict[str, float | None]:
    """Effective sample size of weights over rows of sample weights, absolute and as a share of the rows."""
    size = effective_sample_size(weights * rows)
    return {
        "largest_weight": float(weights.max(initial=0.0)) if len(weights) else None,
        "effective_rows": size,
        "effective_share": size / len(rows) if len(rows) else None,
    }


def _step_overlap(scores: Scores, step: int, share: float) -> dict[str, Any]:
    known, local = scores.observed[:, step - 1], scores.rows_of(step, "transition") & (scores.weight > 0)
    former = np.exp(scores.log_reach[:, step - 1], dtype=np.float64)
    transition = np.exp(scores.log_transition[:, step], dtype=np.float64)
    rows = scores.weight[local].astype(np.float64)
    candidates, theorem = [], []
    for clip in CLIPS:
        below = {"clip": clip, "share_below": float((former < clip).mean()) if len(former) else 0.0}
        candidates.append({**below, **_sizes(inverse_propensity(former[local], clip), rows)})
        stopped = stopped_weights(former[local], transition[local], scores.labels[local, step], clip)
        theorem.append({"clip": clip, **_sizes(stopped, rows)})
    chosen = choose_clip(candidates, share)
    return {
        "name": scores.steps[step],
        "former": scores.steps[step - 1],
        "rows": int(known.sum()),
        "local_rows": len(rows),
        "histogram": propensity_histogram(former[known], scores.labels[known, step - 1]),
        "inverse_propensity": candidates,
        "theorem_2_1": theorem,
        "clip": None if chosen is None else chosen["clip"],
        "advice": advise(chosen),
    }


def funnel_overlap(scores: Scores, share: float = 0.5) -> list[dict[str, Any]]:
    """Judge the propensities p_{i-1} of every step from the second one on.

    Args:
        scores: predictions and labels of a split.
        share: smallest effective share of the local rows that is accepted, in (0, 1].

    Returns:
        One record a step: `name`, `former`, `rows` with a known former step, `local_rows`, `histogram`,
        `inverse_propensity` and `theorem_2_1` (a record a clip), the `clip` chosen (None where none suffices) and the
        `advice`.

    Raises:
        ConfigError: the funnel has one step, or `share` is outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"share should be in (0, 1], received {share}")
    if len(scores.steps) < 2:
        raise ConfigError(
            f"a funnel of one step, here '{scores.steps[0]}', has no propensities: its local space is the entire space"
        )
    return [_step_overlap(scores, step, share) for step in range(1, len(scores.steps))]


def overlap(run: Run, data: PreparedData, split: Split = Split.VALID, *, share: float = 0.5) -> dict[str, Any]:
    """Score a split with a run's best weights, judge its propensities, and write `overlap.json` into the run.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        split: the part to score.
        share: smallest effective share of the local rows that is accepted, in (0, 1].

    Returns:
        The record that was written.

    Raises:
        ConfigError: the folder was prepared with another schema, the funnel has one step or is a graph, or `share` is
            out of range.
        ArtifactError: the run is not complete, or a file is damaged.
    """
    check_fits(run, data)
    if not run.schema.graph.is_chain:
        raise ConfigError(f"{run.folder}: steps should form a chain, whose propensities are the former step's reach")
    model = run.load_model().to(pick_device(run.experiment.train.device))
    steps = funnel_overlap(score(model, Loader(data, split, SCORING_ROWS)), share)
    record = {"format": 1, "split": split.value, "share": share, "rows": data.rows(split), "steps": steps}
    write_json(run.folder / "overlap.json", record)
    return record
