"""Intervals, tests and power of a leaderboard, recomputed from the rows."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from funnelcast import evidence
from funnelcast.evidence import SharedRows
from funnelcast.leaderboard import build_leaderboard
from funnelcast.saved_scores import log_probabilities
from funnelcast.scores import SPACES, Scores, Space, funnel_metrics
from funnelcast.significance.bootstrap import percentile_interval, resampled_auc
from funnelcast.significance.delong import auc_interval, compare_placements, placements

Array = NDArray[Any]
STEPS = ("click", "buy")
SKILL = {"weak": 0.2, "good": 1.0, "best": 1.3}
PLACES: list[tuple[int, Space]] = [(0, "reach"), (1, "reach"), (1, "transition")]


class World:
    """500 rows of 70 users, two steps, and a log-odds for every experiment and seed."""

    def __init__(self, seeds: dict[str, list[int]], rows: int = 500) -> None:
        draw = np.random.default_rng(0)
        truth = np.stack([draw.normal(-0.5, 1.0, rows), draw.normal(-0.3, 1.0, rows)], axis=1)
        labels = np.cumprod(draw.random((rows, 2)) < 1 / (1 + np.exp(-truth)), axis=1).astype(bool)
        self.seeds = seeds
        self.transition = {
            (name, seed): (SKILL[name] * truth + 0.4 * draw.normal(size=truth.shape)).astype(np.float32)
            for name, each in seeds.items()
            for seed in each
        }
        zero = np.zeros((rows, 2), np.float32)
        ones = np.ones(rows, np.float32)
        self.rows = Scores(
            STEPS, zero, zero, zero, zero, labels, np.ones_like(labels), ones, draw.integers(0, 70, rows)
        )

    def scores(self, name: str, seed: int) -> Scores:
        log_c, log_not_c = log_probabilities(self.transition[name, seed])
        log_p, log_not_p = log_probabilities(self.log_odds(name, seed))
        return replace(
            self.rows, log_reach=log_p, log_not_reach=log_not_p, log_transition=log_c, log_not_transition=log_not_c
        )

    def log_odds(self, name: str, seed: int) -> Array:
        """Reach [N, 2]."""
        log_c, _ = log_probabilities(self.transition[name, seed])
        log_p = np.cumsum(log_c.astype(np.float64), axis=1)
        return (log_p - np.log(-np.expm1(log_p))).astype(np.float32)

    def read(self, name: str, seed: int, space: Space, step: int) -> Array:
        table = self.log_odds(name, seed) if space == "reach" else self.transition[name, seed]
        return table[:, step]

    def board(self, shared: bool = True) -> dict[str, Any]:
        reports = []
        for name, seeds in self.seeds.items():
            for seed in seeds:
                scores = self.scores(name, seed)
                speeds = dict.fromkeys(("train_rows_per_second", "score_rows_per_second", "train_seconds"), 1.0)
                reports.append(
                    {"experiment": name, "model": name, "dataset": "shop", "split": "test", "seed": seed}
                    | {"rows": len(scores), "parameters": 9, "steps": funnel_metrics(scores), **speeds}
                )
        return build_leaderboard(reports, SharedRows(self.rows, self.read) if shared else None)


def auc_of(board: dict[str, Any], name: str, step: int, space: Space) -> dict[str, Any]:
    row = next(row for row in board["rows"] if row["experiment"] == name)
    found: dict[str, Any] = row["steps"][step][space]["auc"]
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return World({name: [0, 1, 2] for name in SKILL})


@pytest.fixture(scope="module")
def board(world: World) -> dict[str, Any]:
    return world.board()


@pytest.mark.parametrize(("step", "space"), PLACES)
def test_every_row_is_tested_against_the_best_other(
    world: World, board: dict[str, Any], step: int, space: Space
) -> None:
    means = {name: auc_of(board, name, step, space)["mean"] for name in SKILL}
    found = SharedRows(world.rows, world.read).outcome(space, step)
    assert found is not None
    rows, outcome = found
    columns = {name: [world.read(name, seed, space, step)[rows] for seed in range(3)] for name in SKILL}
    placed = {name: np.mean([placements(c, outcome) for c in columns[name]], axis=0) for name in SKILL}
    drawn = {
        name: np.mean([resampled_auc(c, outcome, 1000, 2 * step + SPACES.index(space)) for c in columns[name]], axis=0)
        for name in SKILL
    }
    for name in SKILL:
        own = auc_of(board, name, step, space)
        test = own["test"]
        against = max((other for other in SKILL if other != name), key=lambda other: means[other])
        assert test["against"] == against
        assert test["difference"] == pytest.approx(means[name] - means[against])
        values = (own["values"], auc_of(board, against, step, space)["values"])
        assert test["t_p"] == pytest.approx(stats.ttest_rel(*values).pvalue)
        assert test["wilcoxon_p"] == pytest.approx(stats.wilcoxon(*values).pvalue)
        expected = compare_placements(placed[name], placed[against], outcome)
        assert test["delong_p"] == pytest.approx(expected.p)
        assert test["difference"] == pytest.approx(expected.value, abs=1e-6)
        assert own["interval"] == pytest.approx(percentile_interval(drawn[name]))
        assert test["interval"] == pytest.approx(percentile_interval(drawn[name] - drawn[against]))
        assert test["paper_mark"] == (test["t_p"] < 0.01 and test["difference"] > 0)
        assert own["interval"][0] < own["mean"] < own["interval"][1]


def test_holm_runs_over_all_pairs_of_the_table(board: dict[str, Any]) -> None:
    pairs: dict[Any, list[dict[str, Any]]] = {}
    for step, space in PLACES:
        for name in SKILL:
            test = auc_of(board, name, step, space)["test"]
            pairs.setdefault((step, space, frozenset({name, test["against"]})), []).append(test)
    assert len(pairs) == 6  # three places, two pairs each: best and second are compared once
    adjusted = multipletests([tests[0]["combined_p"] for tests in pairs.values()], method="holm")[1]
    for tests, p in zip(pairs.values(), adjusted, strict=True):
        for test in tests:
            assert test["holm_p"] == pytest.approx(p)
            assert test["holm_mark"] == (p < 0.05)
    assert any(test["holm_mark"] for tests in pairs.values() for test in tests)


def test_the_transition_of_the_first_step_is_its_reach(board: dict[str, Any]) -> None:
    for row in board["rows"]:
        reach, transition = (row["steps"][0][space]["auc"] for space in SPACES)
        assert (transition["interval"], transition["test"]) == (reach["interval"], reach["test"])


def test_power_is_of_the_median_pair_with_the_best(world: World, board: dict[str, Any]) -> None:
    assert [(entry["step"], entry["space"]) for entry in board["power"]] == [
        ("click", "reach"),
        ("buy", "reach"),
        ("buy", "transition"),
    ]
    found = SharedRows(world.rows, world.read).outcome("reach", 1)
    assert found is not None
    rows, outcome = found
    placed = {
        name: np.mean([placements(world.read(name, s, "reach", 1)[rows], outcome) for s in range(3)], axis=0)
        for name in SKILL
    }
    best = max(SKILL, key=lambda name: auc_of(board, name, 1, "reach")["mean"])
    errors = [compare_placements(placed[best], placed[n], outcome).standard_error for n in SKILL if n != best]
    entry = board["power"][1]
    assert entry["smallest_difference"] == pytest.approx(2.801585 * statistics.median(errors), rel=1e-6)  # type: ignore[type-var, operator]
    assert entry["positives"] == board["funnel"][1]["positives"]
    assert entry["sentence"].startswith(f"with {entry['positives']} positives a difference under 0.0")
    assert board["statistics"] == {"alpha": 0.05, "resamples": 1000, "clusters": "user"}


def test_one_seed_has_delong_and_no_t_test() -> None:
    board = World({"weak": [4], "best": [4]}).board()
    test = auc_of(board, "best", 0, "reach")["test"]
    assert (test["t_p"], test["t_p_reason"]) == (None, "one common seed, a test needs at least two")
    assert test["wilcoxon_p"] is None and not test["paper_mark"]
    assert test["delong_p"] < 0.01 and test["holm_mark"] and test["difference"] > 0


def test_experiments_are_paired_on_their_common_seeds() -> None:
    world = World({"weak": [0, 1, 2, 5], "best": [1, 2, 7]})
    board = world.board()
    test = auc_of(board, "best", 1, "reach")["test"]
    values = {
        name: dict(zip(seeds, auc_of(board, name, 1, "reach")["values"], strict=True))
        for name, seeds in world.seeds.items()
    }
    ours, theirs = ([values[name][seed] for seed in (1, 2)] for name in ("best", "weak"))
    assert test["difference"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert test["t_p"] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    apart = World({"weak": [0, 1], "best": [2, 3]}).board()
    test = auc_of(apart, "best", 1, "reach")["test"]
    assert (test["t_p"], test["t_p_reason"]) == (None, "no seed that both experiments have")
    means = [auc_of(apart, name, 1, "reach")["mean"] for name in ("best", "weak")]
    assert test["difference"] == pytest.approx(means[0] - means[1])
    assert 0 <= test["delong_p"] < 0.05


def test_a_lone_experiment_has_intervals_and_no_tests() -> None:
    board = World({"best": [0, 1]}).board()
    auc = auc_of(board, "best", 1, "transition")
    assert auc["test"] is None and auc["interval"][0] < auc["mean"] < auc["interval"][1]
    assert board["power"] == []


def test_without_scores_only_the_seeds_are_tested(world: World) -> None:
    board = world.board(shared=False)
    auc = auc_of(board, "best", 0, "reach")
    assert auc["interval"] is None
    assert (auc["test"]["delong_p"], auc["test"]["holm_p"], auc["test"]["holm_mark"]) == (None, None, False)
    assert auc["test"]["t_p"] is not None
    assert (board["power"], board["statistics"]) == ([], {"alpha": 0.05, "resamples": 0, "clusters": None})
    entropy = board["rows"][0]["steps"][0]["reach"]["ne"]
    half = stats.t.ppf(0.975, 2) * entropy["std"] / 3**0.5
    assert entropy["interval"] == pytest.approx([entropy["mean"] - half, entropy["mean"] + half])


def test_too_much_work_for_the_bootstrap_leaves_the_intervals_to_delong(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sum(world.rows.rows_of(step, space).sum() for step, space in PLACES)
    monkeypatch.setattr(evidence, "WORK", 9 * rows * 300)
    assert world.board()["statistics"]["resamples"] == 300
    monkeypatch.setattr(evidence, "WORK", 9 * rows * 200 - 1)
    board = world.board()
    assert board["statistics"]["resamples"] == 0
    found = SharedRows(world.rows, world.read).outcome("transition", 1)
    assert found is not None
    rows_of, outcome = found
    placed = np.mean([placements(world.read("good", s, "transition", 1)[rows_of], outcome) for s in range(3)], axis=0)
    assert auc_of(board, "good", 1, "transition")["interval"] == pytest.approx(auc_interval(placed, outcome))


def test_rows_of_weight_0_and_missing_users_and_classes() -> None:
    world = World({"weak": [0, 1], "best": [0, 1]}, rows=300)
    whole = world.board()
    doubled = World(world.seeds, rows=300)
    doubled.rows = replace(world.rows, weight=np.full(300, 2.0, np.float32), user=None)
    plain = doubled.board()
    assert plain["statistics"]["clusters"] == "row"
    assert auc_of(plain, "best", 0, "reach")["mean"] == auc_of(whole, "best", 0, "reach")["mean"]
    weight = np.ones(300, np.float32)
    weight[::3] = 0
    doubled.rows = replace(world.rows, weight=weight)
    found = SharedRows(doubled.rows, doubled.read).outcome("reach", 0)
    assert found is not None and found[0].sum() == 200 and found[1].weights is None
    nobody = replace(world.rows, labels=world.rows.labels & np.array([True, False]))
    doubled.rows = nobody
    board = doubled.board()
    assert auc_of(board, "best", 1, "reach") | {"values": None} == {
        "mean": None, "std": None, "values": None, "undefined": 2, "interval": None, "test": None
    }  # fmt: skip
    assert [entry["step"] for entry in board["power"]] == ["click"]
