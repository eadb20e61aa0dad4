"""What a fit by boosting leaves behind: each step's VALID curve, and `history.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["StepFit", "history"]

POINTS = 50  # of the curve in the report


@dataclass(frozen=True)
class StepFit:
    """How the trees of one step were grown.

    Args:
        step: name of the step.
        losses: log-loss on VALID after each round.
        entropy: log-loss on VALID of VALID's own rate.
        seconds: time that the growing took.
    """

    step: str
    losses: tuple[float, ...]
    entropy: float
    seconds: float

    @property
    def best_round(self) -> int:
        """Number of the trees that are kept, from 1: those up to the first lowest log-loss."""
        return self.losses.index(min(self.losses)) + 1

    def kept(self, rounds: int) -> float | None:
        """Compute the normalised entropy on VALID of the trees that would be kept after some rounds.

        Args:
            rounds: >= 1.

        Returns:
            None where VALID has one class.
        """
        return min(self.losses[:rounds]) / self.entropy if self.entropy else None


def history(fits: Sequence[StepFit], rows: int, seconds: float) -> dict[str, Any]:
    """Make the content of `history.json`.

    A point of `epochs` holds for each step the trees that would be kept there; the last gain is the best epoch.

    Args:
        fits: one a step.
        rows: rows of TRAIN; each counts once, however often a tree looks at it.
        seconds: time of the whole fit.

    Example:
        >>> fits = [StepFit("click", (0.6, 0.5, 0.7), 1.0, 0.1), StepFit("buy", (0.4, 0.3, 0.2), 0.4, 0.2)]
        >>> record = history(fits, 10, 0.5)
        >>> [point["valid_ne"] for point in record["epochs"]], record["best_epoch"]
        ([[0.6, 1.0], [0.5, 0.7499999999999999], [0.5, 0.5]], 3)
    """
    most = max(len(fit.losses) for fit in fits)
    shown = {*range(1, most + 1, -(-most // POINTS)), *(fit.best_round for fit in fits)}
    points: list[dict[str, Any]] = []
    for rounds in sorted(shown):
        entropies = [fit.kept(rounds) for fit in fits]
        defined = [value for value in entropies if value is not None]
        mean = sum(defined) / len(defined) if defined else None
        former = points[-1]["valid_mean_ne"] if points else None
        best = mean is not None and (former is None or mean < former)
        spent = sum(fit.seconds * min(rounds, len(fit.losses)) / len(fit.losses) for fit in fits)
        points.append({"epoch": rounds, "step": rounds, "valid_ne": entropies, "valid_mean_ne": mean, "best": best})
        points[-1]["seconds"] = spent
    boosters = [
        {
            "step": fit.step,
            "best_round": fit.best_round,
            "seconds": fit.seconds,
            "valid_logloss": list(fit.losses),
        }
        for fit in fits
    ]
    totals = {"train_seconds": seconds, "rows": rows, "best_epoch": max(fit.best_round for fit in fits)}
    return {"loss": [], "epochs": points, "boosters": boosters, **totals}
