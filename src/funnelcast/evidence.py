"""What the shared rows of a split say of a leaderboard: intervals, tests against the best other experiment, power.

Shape legend: N rows of a split, n of these in a space, R resamples.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.metrics import Undefined, one_class
from funnelcast.run import Run
from funnelcast.saved_scores import load_scores, read_log_odds
from funnelcast.scores import SPACES, Scores, Space
from funnelcast.significance.bootstrap import percentile_interval, resampled_auc
from funnelcast.significance.combined import combined_p
from funnelcast.significance.delong import Difference, Outcome, auc_interval, compare_placements, placements
from funnelcast.significance.holm import holm
from funnelcast.significance.paired import PairedTest, paired_test
from funnelcast.significance.power import power_sentence, smallest_difference

__all__ = ["ALPHA", "PAPER_ALPHA", "SharedRows", "add_evidence"]

Array = NDArray[Any]
Row = dict[str, Any]
ALPHA = 0.05  # of Holm's mark and of the intervals
PAPER_ALPHA = 0.01  # of the paired t-test, as in the paper's Table 3
RESAMPLES, FEWEST_RESAMPLES = 1000, 200
WORK = 10_000_000_000  # rows of all runs and resamples together: some minutes of one core


@dataclass(frozen=True)
class SharedRows:
    """The rows that all runs of a comparison were scored on, and how to get each run's log-odds of them.

    Args:
        scores: the scores of any run; its labels, weights and users are those of all.
        log_odds: (experiment, seed, space, step) -> [N] float32.
    """

    scores: Scores
    log_odds: Callable[[str, int, Space, int], Array]

    @classmethod
    def of_runs(cls, data: PreparedData, split: Split, folders: Mapping[tuple[str, int], Path]) -> SharedRows:
        """Read them from the folders of runs that were evaluated on the split.

        Args:
            data: the prepared folder.
            split: the part.
            folders: by experiment and seed, at least one.
        """
        scores = load_scores(Run(next(iter(folders.values()))), data, split)
        return cls(scores, lambda experiment, seed, *place: read_log_odds(folders[experiment, seed], *place))

    def outcome(self, space: Space, step: int) -> tuple[Array, Outcome] | None:
        """Pick the rows of a step in a space, those of weight 0 left out.

        Args:
            space: `reach` or `transition`.
            step: number of the step.

        Returns:
            Their mask [N] and what happened on them; None where a class is missing.
        """
        rows = self.scores.rows_of(step, space) & (self.scores.weight > 0)
        labels, weight = self.scores.labels[rows, step], self.scores.weight[rows].astype(np.float64)
        if one_class(labels):
            return None
        same = weight.min() == weight.max()
        users = None if self.scores.user is None else np.unique(self.scores.user[rows], return_inverse=True)[1]
        return rows, Outcome(labels, None if same else weight, users)


class _Place:
    """One step in one space: its rows, and every run's AUC on them and on resamples of them."""

    def __init__(
        self, shared: SharedRows, found: tuple[Array, Outcome], place: tuple[Space, int], resamples: int
    ) -> None:
        self._shared, self._place = shared, place
        self._rows, self.outcome = found
        self._resamples, self._seed = resamples, 2 * place[1] + SPACES.index(place[0])
        self._placed: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._resampled: dict[tuple[str, int], Array] = {}

    def _scores(self, experiment: str, seed: int) -> Array:
        """[n] log-odds of a run."""
        log_odds: Array = self._shared.log_odds(experiment, seed, *self._place)[self._rows]
        return log_odds

    def placed(self, experiment: str, seeds: Sequence[int]) -> Array:
        """[n] placements, averaged over seeds."""
        key = experiment, tuple(seeds)
        # The three last used are kept: a row's own, and those of the two leaders it may be compared with.
        found = self._placed.pop(key, None)
        if found is None:
            found = np.zeros(len(self.outcome.labels))
            for seed in seeds:
                found += placements(self._scores(experiment, seed), self.outcome) / len(seeds)
        self._placed = {**dict(list(self._placed.items())[-2:]), key: found}
        return found

    def resampled(self, experiment: str, seeds: Sequence[int]) -> Array:
        """[R] AUC in every resample, averaged over seeds."""
        for seed in seeds:
            if (experiment, seed) not in self._resampled:
                scores = self._scores(experiment, seed)
                self._resampled[experiment, seed] = resampled_auc(scores, self.outcome, self._resamples, self._seed)
        mean: Array = np.mean([self._resampled[experiment, seed] for seed in seeds], axis=0)
        return mean

    def interval(self, experiment: str, seeds: Sequence[int]) -> tuple[float, float] | None:
        """Interval of an experiment's mean AUC."""
        if self._resamples:
            return percentile_interval(self.resampled(experiment, seeds), 1 - ALPHA)
        return auc_interval(self.placed(experiment, seeds), self.outcome, 1 - ALPHA)

    def difference(self, ours: tuple[str, Sequence[int]], theirs: tuple[str, Sequence[int]]) -> Difference:
        """DeLong's test of two experiments."""
        return compare_placements(self.placed(*ours), self.placed(*theirs), self.outcome)

    def difference_interval(
        self, ours: tuple[str, Sequence[int]], theirs: tuple[str, Sequence[int]]
    ) -> tuple[float, float] | None:
        """Interval of the difference of two experiments' mean AUC."""
        if self._resamples:
            return percentile_interval(self.resampled(*ours) - self.resampled(*theirs), 1 - ALPHA)
        return self.difference(ours, theirs).interval(1 - ALPHA)


def _values(row: Row, step: int, space: Space) -> dict[int, float | None]:
    """A row's AUC by seed."""
    return dict(zip(row["seeds"], row["steps"][step][space]["auc"]["values"], strict=True))


def _record(test: PairedTest, against: str, mean_gap: float) -> dict[str, Any]:
    """Write what the seeds say; the rows' part is filled in where scores are at hand."""
    seeds_differ = isinstance(test.improvement, Undefined)
    record: dict[str, Any] = {
        "against": against,
        "difference": mean_gap if seeds_differ else test.improvement,
        "interval": None,
        "paper_mark": test.better(PAPER_ALPHA),
        "holm_mark": False,
        "delong_p": None,
        "combined_p": None,
        "holm_p": None,
    }
    for name in ("t_p", "wilcoxon_p"):
        _put(record, name, getattr(test, name))
    return record


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _put(record: dict[str, Any], name: str, value: Any) -> None:
    """Keep a value, or null with its reason beside it."""
    record |= {name: None, f"{name}_reason": value.reason} if isinstance(value, Undefined) else {name: value}


def _add_tests(rows: Sequence[Row], step: int, space: Space, place: _Place | None) -> list[float]:
    """Add intervals and tests of one step and space; return the standard errors of the differences."""
    known = [row for row in rows if row["steps"][step][space]["auc"]["mean"] is not None]
    known.sort(key=lambda row: -float(row["steps"][step][space]["auc"]["mean"]))
    errors = []
    for row in known:
        auc = row["steps"][step][space]["auc"]
        if place is not None:
            auc["interval"] = _as_list(place.interval(row["experiment"], row["seeds"]))
        if len(known) == 1:
            continue
        other = known[1] if row is known[0] else known[0]
        ours, theirs = _values(row, step, space), _values(other, step, space)
        mean_gap = auc["mean"] - other["steps"][step][space]["auc"]["mean"]
        test = auc["test"] = _record(paired_test("auc", ours, theirs), other["experiment"], mean_gap)
        if place is None:
            continue
        common = sorted(ours.keys() & theirs.keys())
        first, second = ((each["experiment"], common or each["seeds"]) for each in (row, other))
        found = place.difference(first, second)
        _put(test, "delong_p", found.p)
        pairs = [(ours[seed], theirs[seed]) for seed in common]
        gaps = [a - b for a, b in pairs if a is not None and b is not None]
        _put(test, "combined_p", combined_p(gaps, found.standard_error))
        test["interval"] = _as_list(place.difference_interval(first, second))
        if row is not known[0] and not isinstance(found.standard_error, Undefined):
            errors.append(found.standard_error)
    return errors


def _places(steps: int) -> list[tuple[int, Space]]:
    """Steps and spaces that are measured; the first step's local space is the entire space."""
    return [(step, space) for step in range(steps) for space in SPACES if step or space == "reach"]


def _p(test: Mapping[str, Any]) -> float | None:
    """What Holm adjusts."""
    found: float | None = test["delong_p"] if test["combined_p"] is None else test["combined_p"]
    return found


def _add_holm(rows: Sequence[Row]) -> None:
    """Adjust the p-values of seeds and rows together over the whole table; with one seed, DeLong's.

    The best is compared with the second and the second with the best: the same pair is one hypothesis.
    """
    tests: dict[tuple[int, Space, frozenset[str]], list[dict[str, Any]]] = {}
    for row in rows:
        for step, space in _places(len(row["steps"])):
            test = row["steps"][step][space]["auc"]["test"]
            if test is not None and _p(test) is not None:
                tests.setdefault((step, space, frozenset({row["experiment"], test["against"]})), []).append(test)
    for same, p in zip(tests.values(), holm([float(_p(same[0]) or 0.0) for same in tests.values()]), strict=True):
        for test in same:
            test |= {"holm_p": p, "holm_mark": p < ALPHA}


def _power(step: str, space: Space, positives: int, errors: Sequence[float]) -> list[dict[str, Any]]:
    """Say what difference the rows can show, by the median standard error of the differences."""
    error = statistics.median(errors) if errors else 0.0
    if not error:
        return []
    smallest = smallest_difference(error)
    sentence = power_sentence(step, space, positives, smallest)
    return [
        {"step": step, "space": space, "positives": positives, "smallest_difference": smallest, "sentence": sentence}
    ]


def _resamples(shared: SharedRows, runs: int) -> int:
    """Count the resamples that the bounded work allows; 0 where they would be too few for an interval."""
    places = _places(len(shared.scores.steps))
    rows = sum(int(np.count_nonzero(shared.scores.rows_of(step, space))) for step, space in places)
    affordable = min(RESAMPLES, WORK // max(1, rows * runs))
    return affordable if affordable >= FEWEST_RESAMPLES else 0


def add_evidence(rows: Sequence[Row], shared: SharedRows | None) -> dict[str, Any]:
    """Add `interval` and `test` to every AUC of a leaderboard's rows.

    Each experiment is tested against the best other one by mean AUC: over seeds by the paired t-test and Wilcoxon's,
    over the shared rows by DeLong's on the placements averaged over the common seeds, summed by user where users are
    known, and by both kinds of chance together; the last is adjusted by Holm over the whole table. Intervals are
    percentiles of the bootstrap by user, or DeLong's where the bootstrap would take too long.

    Args:
        rows: of the leaderboard; their AUC get the new keys.
        shared: the rows all runs were scored on; None leaves intervals, DeLong's test and power out.

    Returns:
        `power` and `statistics` for the leaderboard: level, resamples (0: DeLong's intervals), and what is resampled.
    """
    resamples = 0 if shared is None else _resamples(shared, sum(row["runs"] for row in rows))
    power = []
    for row in rows:
        for step in row["steps"]:
            for space in SPACES:
                step[space]["auc"] |= {"interval": None, "test": None}
    for step, space in _places(len(rows[0]["steps"])):
        found = None if shared is None else shared.outcome(space, step)
        place = None if shared is None or found is None else _Place(shared, found, (space, step), resamples)
        errors = _add_tests(rows, step, space, place)
        if place is not None:
            positives = int(np.count_nonzero(place.outcome.labels))
            power += _power(rows[0]["steps"][step]["name"], space, positives, errors)
    _add_holm(rows)
    for row in rows:
        first = row["steps"][0]
        first["transition"]["auc"] |= {key: first["reach"]["auc"][key] for key in ("interval", "test")}
    clusters = None if shared is None else "row" if shared.scores.user is None else "user"
    return {"power": power, "statistics": {"alpha": ALPHA, "resamples": resamples, "clusters": clusters}}
