"""A histogram of a stream: its state depends on the rows alone, and its error stays below its bound."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from funnelcast.auc_histogram import AucHistogram
from funnelcast.metrics import Undefined, auc

Array = NDArray[Any]
Rows = tuple[Array, Array, Array]


def histogram(rows: Rows, bins: int, chunk: int | None = None) -> AucHistogram:
    """Count rows, a chunk at a time."""
    made = AucHistogram(bins)
    scores, labels, weights = rows
    for start in range(0, len(scores), chunk or max(1, len(scores))):
        part = slice(start, start + chunk if chunk else None)
        made.add(scores[part], labels[part], weights[part])
    return made


def same(first: AucHistogram, second: AucHistogram) -> bool:
    a, b = first.to_arrays(), second.to_arrays()
    return all(np.array_equal(a[name], b[name]) for name in a)


@st.composite
def shards(draw: st.DrawFn) -> list[Rows]:
    """Up to four shards: scores near and far from each other, weights whose sums are exact (0 among them)."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    value = st.one_of(st.floats(-8, -7), st.floats(-30, 30), st.sampled_from([-np.inf, -0.0, 0.0, 1.0, np.inf]))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(0, 25))
        scores = np.array(draw(st.lists(value, min_size=n, max_size=n)), dtype=dtype)
        labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
        weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=np.float64)
        parts.append((scores, labels, weights))
    return parts


@settings(deadline=None, max_examples=150)
@given(shards(), st.integers(2, 40), st.integers(1, 7), st.randoms())
def test_the_state_depends_on_the_rows_alone(parts: list[Rows], bins: int, chunk: int, random: Any) -> None:
    whole: Rows = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))  # type: ignore[assignment]
    stream = histogram(whole, bins)
    assert len(stream.to_arrays()["bin"]) <= bins
    order = np.array(random.sample(range(len(whole[0])), len(whole[0])), dtype=np.intp)
    assert same(stream, histogram((whole[0][order], whole[1][order], whole[2][order]), bins, chunk))
    single = [histogram(part, bins, chunk) for part in parts]
    left = reduce(AucHistogram.merge, single, AucHistogram(bins))
    right = reduce(lambda merged, one: one.merge(merged), reversed(single), AucHistogram(bins))
    shuffled = reduce(AucHistogram.merge, random.sample(single, len(single)))
    assert same(stream, left) and same(stream, right) and same(stream, shuffled)


@settings(deadline=None, max_examples=150)
@given(shards(), st.integers(2, 40))
def test_the_error_stays_below_its_bound(parts: list[Rows], bins: int) -> None:
    scores, labels, weights = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    made = histogram((scores, labels, weights), bins)
    exact, value, bound = auc(scores, labels, weights), made.auc(), made.error_bound()
    if isinstance(exact, Undefined):
        assert isinstance(value, Undefined) and isinstance(bound, Undefined)
    else:
        assert isinstance(value, float) and isinstance(bound, float)
        assert abs(value - exact) <= bound + 1e-12


def test_bins_by_hand() -> None:
    # Two bins at most: -1, 1 and 1.5 need a shift that drops 1.5's highest bit of the mantissa, bit 22 of 32.
    made = AucHistogram(bins=2)
    made.add(np.array([-1.0, 1.0, 1.5, 1.5]), np.array([0, 0, 1, 0]))
    arrays = made.to_arrays()
    assert arrays["header"].tolist() == [1, 2, 23, 0]
    assert arrays["positive"].tolist() == [0, 1] and arrays["negative"].tolist() == [1, 2]
    # The positive wins against -1 and half of the pairs in its own bin: 1 + 2 / 2, of 3; exact is 1 + 1 + 1/2.
    assert made.auc() == pytest.approx(2 / 3)
    assert made.error_bound() == pytest.approx(2 / 2 / 3)


def test_few_scores_are_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=3000).astype(np.float32).round(2), rng.random(3000) < 0.1
    made = AucHistogram(bins=1024)
    made.add(scores, labels)
    assert made.auc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-15) and made.error_bound() == 0
    # Scores that 32 bits hold only after rounding are no longer known to be exact.
    made.add(np.array([0.1]), np.array([1]))
    bound = made.error_bound()
    assert isinstance(bound, float) and 0 < bound < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["log-odds", "log-probabilities"])
def test_the_bound_is_below_a_millionth_at_a_rate_of_0_08_percent(scale: str) -> None:
    rng = np.random.default_rng(1)
    log_odds = rng.normal(-7.6, 1.0, 2_000_000).astype(np.float32)
    labels = rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))
    assert labels.mean() == pytest.approx(0.0008, abs=2e-4)
    scores = log_odds if scale == "log-odds" else -np.log1p(np.exp(-log_odds))
    parts = [AucHistogram(), AucHistogram()]
    for number, rows in enumerate(np.array_split(np.arange(len(scores)), 40)):
        parts[number % 2].add(scores[rows], labels[rows])
    made = parts[0].merge(parts[1])
    value, bound = made.auc(), made.error_bound()
    assert isinstance(value, float) and isinstance(bound, float)
    assert 0 < bound < 1e-6
    assert abs(value - roc_auc_score(labels, scores)) <= bound


def test_equal_weights_count_as_given() -> None:
    """A call whose weights are all 2 counts twice as much as one without weights."""
    scores, labels = np.array([0.1, 0.2]), np.array([0, 1])
    made = AucHistogram()
    made.add(scores, labels, np.array([2.0, 2.0]))
    made.add(scores[::-1], labels)
    # Positives: 0.2 (weight 2) and 0.1 (weight 1); negatives: 0.1 (2) and 0.2 (1). Won: 4 + 2 / 2 + 2 / 2, of 9.
    assert made.auc() == pytest.approx(6 / 9)


def test_arrays_survive_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    made = AucHistogram(bins=50)
    made.add(rng.normal(size=500), rng.random(500) < 0.2)
    np.savez(tmp_path / "shard.npz", **made.to_arrays())  # type: ignore[arg-type]
    with np.load(tmp_path / "shard.npz") as arrays:
        again = AucHistogram.from_arrays(arrays)
    assert same(made, again) and made.auc() == again.auc() and made.error_bound() == again.error_bound()
    assert same(made.merge(made), again.merge(made))


def test_merging_changes_neither_part() -> None:
    first, second = AucHistogram(bins=4), AucHistogram(bins=4)
    first.add(np.array([0.1, 0.2]), np.array([0, 1]))
    second.add(np.arange(9.0), np.arange(9) % 2)
    before = first.to_arrays(), second.to_arrays()
    first.merge(second).add(np.array([5.0]), np.array([1]))
    for old, now in zip(before, (first.to_arrays(), second.to_arrays()), strict=True):
        assert all(np.array_equal(old[name], now[name]) for name in old)


def test_no_auc_without_both_classes() -> None:
    made = AucHistogram()
    assert made.auc() == made.error_bound() == Undefined("no rows")
    made.add(np.zeros(0), np.zeros(0))
    made.add(np.full(3, 0.5), np.zeros(3))
    assert made.auc() == made.error_bound() == Undefined("only one class: 0 positives of 3 rows")
    made.add(np.array([0.5]), np.array([1]), np.array([0.0]))
    assert made.auc() == Undefined("only one class: 0 positives of 3 rows")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="bins should be >= 2, received 1"):
        AucHistogram(bins=1)
    with pytest.raises(ValueError, match="should have 8 bins, received 4"):
        AucHistogram(bins=8).merge(AucHistogram(bins=4))
    with pytest.raises(ValueError, match="received NaN"):
        AucHistogram().add(np.array([np.nan]), np.array([1]))
    with pytest.raises(ValueError, match="weights should be finite"):
        AucHistogram().add(np.array([0.1, 0.2]), np.array([0, 1]), np.array([1.0, -1.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bin": None}, "should hold 'bin', received"),
        ({"header": np.array([9, 8, 0, 0])}, r"should be \[1, bins, shift, rounded\], received \[9, 8, 0, 0\]"),
        ({"header": np.array([1, 8, 32, 0])}, "should be rising bins"),
        ({"header": np.array([1, 2, 0, 0])}, "should be rising bins"),
        ({"bin": np.array([3, 1, 2], np.uint32)}, "should be rising bins"),
        ({"bin": np.array([1, 2], np.uint32)}, "should be rising bins"),
        ({"positive": np.array([1.0, -1.0, 1.0])}, "should be rising bins"),
    ],
)
def test_damaged_arrays_are_refused(change: dict[str, Array | None], message: str) -> None:
    made = AucHistogram(bins=8)
    made.add(np.array([0.1, 0.2, 0.3]), np.array([0, 1, 1]))
    arrays = {name: value for name, value in {**made.to_arrays(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        AucHistogram.from_arrays(arrays)
