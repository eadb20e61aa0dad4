"""The exact AUC and its histogram against scikit-learn's `roc_auc_score`, 4 M rows of float32 log-probabilities.

python -m benchmarks.auc
"""

from __future__ import annotations

from typing import Any

import numpy as np
from benchmarks.measure import Figure, alternate, run_benchmark
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from funnelcast.auc_histogram import AucHistogram
from funnelcast.metrics import auc

Array = NDArray[Any]

ROWS = 4_000_000
CHUNK = 4096  # rows of a call of the histogram, as many as are scored at once
DIGITS = 1e-12


def simulate(rate: float, *, ties: bool) -> tuple[Array, Array]:
    """Return log p and labels of a calibrated model; with ties, log-odds of two decimals."""
    draw = np.random.default_rng(0)
    log_odds = draw.normal(np.log(rate / (1 - rate)) - 0.5, 1.0, ROWS)
    if ties:
        log_odds = np.round(log_odds, 2)
    log_p = -np.log1p(np.exp(-log_odds))
    return log_p.astype(np.float32), draw.random(ROWS) < np.exp(log_p)


def against_scikit_learn(name: str, rate: float, *, ties: bool = False, weighted: bool = False) -> Figure:
    """Compare the exact values."""
    scores, labels = simulate(rate, ties=ties)
    weights = np.random.default_rng(1).random(ROWS, dtype=np.float32) + np.float32(0.5) if weighted else None
    ours, theirs = auc(scores, labels, weights), roc_auc_score(labels, scores, sample_weight=weights)
    assert isinstance(ours, float) and abs(ours - theirs) < DIGITS, (ours, theirs)
    seconds = alternate(
        {
            "ours": lambda: auc(scores, labels, weights),
            "theirs": lambda: roc_auc_score(labels, scores, sample_weight=weights),
        }
    )
    note = f"against scikit-learn, {labels.mean():.2%} positives, {len(np.unique(scores)):,} different scores"
    return Figure(name, ROWS / seconds["ours"], ROWS / seconds["theirs"], "rows/s", 2.0, note)


def histogram(rate: float) -> Figure:
    """Compare a stream of small chunks with scikit-learn on all rows at once."""
    scores, labels = simulate(rate, ties=False)

    def stream() -> AucHistogram:
        made = AucHistogram()
        for start in range(0, ROWS, CHUNK):
            made.add(scores[start : start + CHUNK], labels[start : start + CHUNK])
        made.auc()
        return made

    made = stream()
    value, bound, theirs = made.auc(), made.error_bound(), roc_auc_score(labels, scores)
    assert isinstance(value, float) and isinstance(bound, float) and abs(value - theirs) <= bound
    seconds = alternate({"ours": stream, "theirs": lambda: roc_auc_score(labels, scores)})
    note = (
        f"chunks of {CHUNK} against scikit-learn on all rows, {labels.mean():.2%} positives, "
        f"error {abs(value - theirs):.1e}, bound {bound:.1e}"
    )
    return Figure("auc_histogram", ROWS / seconds["ours"], ROWS / seconds["theirs"], "rows/s", None, note)


def figures(threads: int) -> list[Figure]:  # noqa: ARG001 - both sides sort in one thread
    """Measure a common and a rare step, without and with many ties, without and with weights."""
    return [
        against_scikit_learn("auc", 0.05),
        against_scikit_learn("auc_ties", 0.05, ties=True),
        against_scikit_learn("auc_rare", 0.0008),
        against_scikit_learn("auc_rare_ties", 0.0008, ties=True),
        against_scikit_learn("auc_half", 0.5),
        against_scikit_learn("auc_weighted", 0.05, weighted=True),
        histogram(0.0008),
    ]


if __name__ == "__main__":
    run_benchmark(figures, __doc__)
