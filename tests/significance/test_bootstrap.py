"""The bootstrap by user: exact in every resample, wider where rows are copies, right in coverage."""

from __future__ import annotations

import numpy as np
import pytest

from funnelcast.auc import exact_auc
from funnelcast.significance import bootstrap
from funnelcast.significance.bootstrap import percentile_interval, resampled_auc
from funnelcast.significance.delong import Outcome, auc_interval, placements


def test_every_resample_is_the_exact_weighted_auc(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    labels, users = draw.random(120) < 0.4, draw.integers(0, 17, 120)
    scores = np.round(labels + draw.normal(size=120), 1).astype(np.float32)  # many ties
    weights = draw.random(120) + 0.5
    outcome = Outcome(labels, weights, users)
    bits = np.random.Generator(np.random.Philox(np.random.SeedSequence(3)))
    expected = []
    for _ in range(150):
        counts = bootstrap._COUNTS[bits.integers(0, 1 << 16, 17, dtype=np.uint16)][users]
        kept = counts > 0
        expected.append(exact_auc(scores[kept], labels[kept], (weights * counts)[kept]))
    assert resampled_auc(scores, outcome, 150, 3) == pytest.approx(np.array(expected), abs=1e-12)
    monkeypatch.setattr(bootstrap, "_CELLS", 200)  # blocks of two resamples
    assert resampled_auc(scores, outcome, 150, 3) == pytest.approx(np.array(expected), abs=1e-12)


def test_counts_are_poisson_of_mean_one() -> None:
    share = np.bincount(bootstrap._COUNTS.astype(int)) / 65_536
    assert share[:5] == pytest.approx(np.exp(-1) / np.array([1, 1, 2, 6, 24]), abs=2e-5)
    assert bootstrap._COUNTS.mean() == pytest.approx(1, abs=1e-4)
    assert bootstrap._COUNTS.var() == pytest.approx(1, abs=1e-3)


def test_the_same_seed_draws_the_same_rows_for_every_model() -> None:
    draw = np.random.default_rng(1)
    labels, scores = draw.random(300) < 0.3, draw.normal(size=300)
    # A rising map keeps every resample, as its counts are the same, and another number of ties moves none of them.
    assert np.array_equal(
        resampled_auc(scores, Outcome(labels), 40, 9), resampled_auc(np.exp(scores), Outcome(labels), 40, 9)
    )
    flipped = resampled_auc(-scores, Outcome(labels), 40, 9)
    assert resampled_auc(scores, Outcome(labels), 40, 9) == pytest.approx(1 - flipped)
    assert not np.array_equal(flipped, resampled_auc(-scores, Outcome(labels), 40, 8))


def test_copies_of_a_user_widen_the_interval_by_user_alone() -> None:
    draw = np.random.default_rng(2)
    labels = draw.random(200) < 0.4
    scores = labels * 0.8 + draw.normal(size=200)
    copies, users = 6, np.repeat(np.arange(200), 6)
    rows = [np.repeat(column, copies) for column in (scores, labels)]
    widths = {}
    for name, outcome, column in (
        ("rows", Outcome(rows[1]), rows[0]),
        ("users", Outcome(rows[1], None, users), rows[0]),
        ("once", Outcome(labels), scores),
    ):
        interval = percentile_interval(resampled_auc(column, outcome, 1000, 0))
        assert interval is not None
        widths[name] = interval[1] - interval[0]
    assert widths["users"] == pytest.approx(widths["once"], rel=1e-9)  # the copies tell nothing new
    assert widths["users"] / widths["rows"] == pytest.approx(copies**0.5, rel=0.12)


def test_few_positives_have_no_interval() -> None:
    labels = np.array([True] * 3 + [False] * 40)
    values = resampled_auc(np.arange(43.0), Outcome(labels), 2000, 0)
    assert np.isnan(values).mean() == pytest.approx(np.exp(-3), abs=0.02)
    assert percentile_interval(values) is None


@pytest.mark.slow
@pytest.mark.parametrize("users", [False, True], ids=["rows", "users"])
def test_intervals_cover_the_true_auc(users: bool) -> None:
    """400 draws of 60 users with 6 rows each, whose scores share half of their variance; the truth from 4 M rows."""
    world = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        owner = np.repeat(np.arange(count), 6)
        mood = world.normal(size=count)[owner] * (1.0 if users else 0.0)
        labels = world.random(6 * count) < 1 / (1 + np.exp(1.0 - mood))
        return owner, labels, 0.8 * labels + mood + world.normal(size=6 * count)

    _, labels, scores = draw(700_000)
    truth, covered, by_delong, repeats = exact_auc(scores, labels), 0, 0, 400
    for repeat in range(repeats):
        owner, labels, scores = draw(60)
        outcome = Outcome(labels, None, owner if users else None)
        interval = percentile_interval(resampled_auc(scores, outcome, 400, repeat))
        analytic = auc_interval(placements(scores, outcome), outcome)
        assert interval is not None and analytic is not None
        covered += interval[0] <= truth <= interval[1]
        by_delong += analytic[0] <= truth <= analytic[1]
    # 95 % with a binomial error of 1.1 points; small samples cost the percentiles up to two points.
    assert 0.91 < covered / repeats < 0.98
    assert 0.92 < by_delong / repeats < 0.985
