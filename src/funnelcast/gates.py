"""Gates over rows: how many are open, which are dead, and how undecided they are.

Shape legend: N rows, n gates of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "CLOSED_BELOW",
    "GateKind",
    "GateLayer",
    "describe_gates",
    "describe_segments",
    "gate_entropy",
    "gate_rows",
    "open_above",
    "rate_histogram",
]

Array = NDArray[Any]
GateKind = Literal["opening", "share"]

CLOSED_BELOW = 0.1  # an opening that is smaller counts as closed
_OPEN_ABOVE = 0.5
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MOST_BINS = 101  # of a histogram of rates: one a possible value up to 100 gates


@dataclass(frozen=True)
class GateLayer:
    """The gates of one layer, as a model tells them for a batch.

    Args:
        name: the layer, unique in the model.
        values: [B, n] in [0, 1].
        kind: `opening`, each gate by itself, or `share`, gates that share out one row between them and sum to 1.

    Raises:
        ValueError: the values are no matrix.
    """

    name: str
    values: Tensor
    kind: GateKind = "opening"

    def __post_init__(self) -> None:
        if self.values.dim() != 2:
            raise ValueError(f"gates of {self.name} should be [B, n], received {tuple(self.values.shape)}")


def open_above(kind: GateKind, gates: int) -> float:
    """Return above which value a gate counts as open: 1/2 for an opening, for a share more than an equal one, 1/n.

    Args:
        kind: of the gates.
        gates: n >= 1 gates of the layer.

    Example:
        >>> open_above("opening", 64), open_above("share", 4), open_above("share", 1)
        (0.5, 0.25, 0.5)
    """
    return _OPEN_ABOVE if kind == "opening" else min(_OPEN_ABOVE, 1.0 / gates)


def closed_below(kind: GateKind, gates: int) -> float:
    """Return up to which value a gate counts as closed: a fifth of `open_above`, 0.1 for an opening."""
    return CLOSED_BELOW / _OPEN_ABOVE * open_above(kind, gates)


def gate_entropy(values: Array, kind: GateKind) -> Array:
    """Compute how undecided the gates of each row are, from 0 (all 0 or 1) to 1 (all a half, or equal shares).

    Openings: mean over gates of -z log2 z - (1 - z) log2(1 - z). Shares, over their sum: -sum_e z_e log z_e / log n.

    Args:
        values: [N, n] gates in [0, 1].
        kind: of the gates.

    Returns:
        [N] float64 in [0, 1]; 0 for a single share.

    Example:
        >>> gate_entropy(np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 1.0]]), "opening").tolist()
        [1.0, 0.0, 0.5]
        >>> gate_entropy(np.array([[0.25] * 4, [0.5, 0.5, 0.0, 0.0]]), "share").tolist()
        [1.0, 0.5]
    """
    z = np.asarray(values, dtype=np.float64)
    if kind == "opening":
        bits: Array = (_information(z) + _information(1.0 - z)).mean(axis=1)
        return bits
    total = z.sum(axis=1, keepdims=True)
    shares = np.divide(z, total, out=np.zeros_like(z), where=total > 0.0)
    undecided: Array = _information(shares).sum(axis=1) / np.log2(max(z.shape[1], 2))
    return undecided


def _information(p: Array) -> Array:
    """Compute -p log2 p, 0 at 0."""
    information: Array = -p * np.log2(p, out=np.zeros_like(p), where=p > 0.0)
    return information


def gate_rows(values: Array, kind: GateKind) -> tuple[Array, Array]:
    """Count the open gates of each row, and average its gates.

    Args:
        values: [N, n] gates.
        kind: of the gates.

    Returns:
        [N] int64 open gates, which over n are the selection rate, and [N] float64 mean gates.

    Example:
        >>> [part.tolist() for part in gate_rows(np.array([[0.5, 0.75, 1.0, 0.0]]), "opening")]
        [[2], [0.5625]]
    """
    return (values > open_above(kind, values.shape[1])).sum(axis=1), values.mean(axis=1, dtype=np.float64)


def rate_histogram(counts: Array, gates: int) -> dict[str, list[float] | list[int]]:
    """Count rows by selection rate, in one bin a possible rate k/n up to 100 gates, else in 101 bins.

    Args:
        counts: [N] open gates of each row.
        gates: n.

    Returns:
        `edges` [Q+1], half a bin beyond 0 and 1, and `counts` [Q].

    Example:
        >>> rate_histogram(np.array([0, 2, 2]), 2)
        {'edges': [-0.25, 0.25, 0.75, 1.25], 'counts': [1, 0, 2]}
    """
    bins = min(gates + 1, _MOST_BINS)
    edges = (np.arange(bins + 1) - 0.5) / (bins - 1)
    rows, _ = np.histogram(counts / gates, edges)
    return {"edges": edges.tolist(), "counts": rows.tolist()}


def _quantiles(numbers: Array) -> dict[str, float]:
    return {f"{share:g}": float(value) for share, value in zip(QUANTILES, np.quantile(numbers, QUANTILES), strict=True)}


def describe_gates(name: str, values: Array, kind: GateKind) -> dict[str, Any]:
    """Describe a layer's gates over rows.

    A gate is dead where it is closed on every row, that is never above 0.1 (a share: a fifth of an equal share), and
    always open where it is open on every row.

    Args:
        name: the layer.
        values: [N, n] gates in [0, 1], N and n >= 1.
        kind: of the gates.

    Returns:
        A record: `rate` and `mean` over rows, `rate_histogram`, `quantiles` of both over rows, `entropy`, `exact_zero`
        and `exact_one` as shares of all gates, `dead` and `always_open` as counts, the thresholds, and `slots`, a
        record a gate: `open_rate`, `mean`, `exact_zero`, `exact_one`, `dead`.

    Example:
        >>> found = describe_gates("layer 1", np.array([[0.0, 1.0, 0.6], [0.05, 0.75, 0.2]]), "opening")
        >>> found["dead"], found["always_open"], found["rate"]
        (1, 1, 0.5)
    """
    _, n = values.shape
    counts, means = gate_rows(values, kind)
    threshold, closed = open_above(kind, n), closed_below(kind, n)
    open_rate, zero, one = ((values > threshold).mean(axis=0), (values == 0).mean(axis=0), (values == 1).mean(axis=0))
    mean, dead = values.mean(axis=0, dtype=np.float64), values.max(axis=0) <= closed
    slots = zip(open_rate, mean, zero, one, dead, strict=True)
    return {
        "name": name,
        "kind": kind,
        "gates": n,
        "open_above": threshold,
        "dead_up_to": closed,
        "rate": float((counts / n).mean()),
        "mean": float(means.mean()),
        "rate_histogram": rate_histogram(counts, n),
        "quantiles": {"rate": _quantiles(counts / n), "mean": _quantiles(means)},
        "entropy": float(gate_entropy(values, kind).mean()),
        "exact_zero": float(zero.mean()),
        "exact_one": float(one.mean()),
        "dead": int(dead.sum()),
        "always_open": int((open_rate == 1.0).sum()),
        "slots": [
            {"open_rate": float(o), "mean": float(m), "exact_zero": float(z), "exact_one": float(e), "dead": bool(d)}
            for o, m, z, e, d in slots
        ],
    }


def describe_segments(values: Array, kind: GateKind, segment: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe a layer's gates segment by segment.

    Args:
        values: [N, n] gates.
        kind: of the gates.
        segment: [N] number of each row's segment.
        names: of the segments; those without a row are left out.

    Returns:
        One record a segment: `value`, `rows`, and the means over its rows of `rate`, `mean` and `entropy`.
    """
    counts, means = gate_rows(values, kind)
    entropy = gate_entropy(values, kind)
    records = []
    for number, name in enumerate(names):
        rows = segment == number
        if rows.any():
            numbers = {"rate": counts[rows] / values.shape[1], "mean": means[rows], "entropy": entropy[rows]}
            found = {key: float(number.mean()) for key, number in numbers.items()}
            records.append({"value": name, "rows": int(rows.sum()), **found})
    return records
