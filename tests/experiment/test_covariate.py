"""CUPED against hand numbers, a regression, and its own promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from funnelcast.errors import DataError
from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.covariate import Covariate, adjusted
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files, join_logs
from funnelcast.experiment.lift import Lift, relative_lift
from funnelcast.experiment.looks import Rules
from funnelcast.experiment.ratio import Estimate, ratio
from funnelcast.metrics import Undefined

from .logs_on_disk import START, at, write_lines

Floats = NDArray[np.float64]


def arms(
    events: Floats, units: Floats, arm: NDArray[np.int64]
) -> tuple[list[Estimate | Undefined], list[NDArray[np.bool_]]]:
    members = [arm == number for number in range(int(arm.max()) + 1)]
    return [ratio(events * member, units * member) for member in members], members


def drawn(seed: int, users: int = 400, effect: float = 0.0) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """Events, exposures, past rate and arm of users whose taste stays."""
    draw = np.random.default_rng(seed)
    taste, arm = draw.beta(3, 12, users), draw.integers(0, 2, users)
    units = 1 + draw.poisson(4, users)
    events = draw.binomial(units, taste * (1 + effect * arm))
    return events.astype(float), units.astype(float), draw.binomial(30, taste) / 30, arm


def lift_of(rates: list[Estimate | Undefined]) -> Lift:
    found = relative_lift(rates[0], rates[1])
    assert isinstance(found, Lift)
    return found


def test_numbers_by_hand() -> None:
    # Means 2 and 4, covariate means 1 and 3 of 2 overall; slope 1 in both arms: 2 - (1 - 2) = 3 and 4 - (3 - 2) = 3.
    events, past = np.array([1.0, 3, 3, 5]), np.array([0.0, 2, 2, 4])
    rates, members = arms(events, np.ones(4), np.array([0, 0, 1, 1]))
    found = adjusted(rates, past, members)
    assert [rate.value for rate in found if isinstance(rate, Estimate)] == pytest.approx([3, 3])


def test_a_difference_of_means_is_that_of_the_regression_on_arm_and_past() -> None:
    events, _, past, arm = drawn(0, users=3000, effect=0.2)
    rates, members = arms(events, np.ones(3000), arm)
    a, b = adjusted(rates, past, members)
    assert isinstance(a, Estimate) and isinstance(b, Estimate)
    design = np.stack([np.ones(3000), arm, past], axis=1)
    fitted = sm.OLS(events, design).fit(cov_type="HC1")
    influence = b.influence - a.influence
    assert b.value - a.value == pytest.approx(fitted.params[1], rel=0.01)
    assert np.sqrt(influence @ influence) == pytest.approx(fitted.bse[1], rel=0.01)


def test_the_variance_shrinks_by_the_squared_correlation() -> None:
    events, units, past, arm = drawn(1, users=5000)
    rates, members = arms(events, units, arm)
    plain, less = lift_of(rates), lift_of(adjusted(rates, past, members))
    residual = events - events.sum() / units.sum() * units
    explained = np.corrcoef(residual, past)[0, 1] ** 2
    assert explained > 0.1
    assert (less.log_error / plain.log_error) ** 2 == pytest.approx(1 - explained, rel=0.03)


def test_it_keeps_its_level_and_finds_the_same_lift() -> None:
    covered, lifts = 0, []
    for seed in range(400):
        events, units, past, arm = drawn(seed, effect=0.3)
        rates, members = arms(events, units, arm)
        lift = lift_of(adjusted(rates, past, members))
        low, high = lift.interval()  # type: ignore[misc]
        covered += low <= 0.3 <= high
        lifts.append(lift.value)
    assert 0.92 < covered / 400 < 0.98
    assert np.mean(lifts) == pytest.approx(0.3, abs=0.02)


@given(st.floats(-5, 5), st.floats(0.1, 9), st.integers(0, 20))
def test_unit_and_origin_of_the_covariate_do_not_matter(shift: float, scale: float, seed: int) -> None:
    events, units, past, arm = drawn(seed, users=60)
    rates, members = arms(events, units, arm)
    first, second = (lift_of(adjusted(rates, c, members)) for c in (past, shift + scale * past))
    assert first.value == pytest.approx(second.value, abs=1e-9)
    assert first.log_error == pytest.approx(second.log_error)


def test_unknown_pasts_count_as_the_mean() -> None:
    events, units, past, arm = drawn(3)
    past[::3] = np.nan
    rates, members = arms(events, units, arm)
    filled = np.where(np.isfinite(past), past, np.nanmean(past))
    assert lift_of(adjusted(rates, past, members)) == lift_of(adjusted(rates, filled, members))


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_a_covariate_that_says_nothing_changes_nothing(value: float) -> None:
    events, units, past, arm = drawn(4)
    rates, members = arms(events, units, arm)
    assert lift_of(adjusted(rates, np.full_like(past, value), members)) == lift_of(rates)


def test_an_arm_without_a_rate_stays_without() -> None:
    events, units, past, arm = drawn(5)
    rates, members = arms(events, units, arm * 0)
    nobody = np.zeros(len(arm), dtype=bool)
    rates, members = [*rates, ratio(events * nobody, units * nobody)], [*members, nobody]
    found = adjusted(rates, past, members)
    assert isinstance(found[0], Estimate) and isinstance(found[1], Undefined)


def seen(user: str, day: float, past: Any, variant: str = "A", **more: Any) -> dict[str, Any]:
    return {"time": at(day), "user": user, "variant": variant, "past": past, **more}


def pasts(folder: Path, exposures: list[Any], split: Split = Split({})) -> list[float | None]:  # noqa: B008
    """The covariate of each user as it is read from the exposures."""
    logs = (write_lines(folder / "e.jsonl", exposures),), (write_lines(folder / "o.jsonl", [OUTCOME]),)
    found = join_logs(Files(*logs, Covariate(column="past"), threads=1), split, Attribution())
    assert found.covariate is not None
    return [None if np.isnan(value) else float(value) for value in found.covariate]


OUTCOME = {"time": at(9), "user": "a", "click": 1}


def test_a_user_whose_first_exposure_has_no_value_has_no_past(tmp_path: Path) -> None:
    exposures = [seen("a", 1, None), seen("a", 2, 7), seen("b", 1, 3, "B"), seen("b", 2, 8, "B")]
    assert pasts(tmp_path, exposures) == [None, 3]


@pytest.mark.parametrize("reverse", [False, True])
def test_of_several_values_at_the_first_moment_the_smallest_counts(tmp_path: Path, reverse: bool) -> None:
    same = [seen("a", 1, value, request_id=f"r{value}") for value in (5, None, 4, 6)]
    none = [seen("b", 1, None, "B", request_id=f"s{number}") for number in range(2)]
    exposures = [*same, *none, seen("a", 2, 1), seen("b", 2, 2, "B")]
    assert pasts(tmp_path, exposures[::-1] if reverse else exposures) == [4, None]


def test_the_first_exposure_is_that_of_the_experiment(tmp_path: Path) -> None:
    spring, autumn = {"experiment": "spring"}, {"experiment": "autumn"}
    exposures = [
        *[seen("a", 1, 9, **autumn), seen("a", 2, 5, **spring), seen("b", 2, 6, "B", **spring)],
        *[seen("b", 2, 1, "B", **autumn), seen("c", 3, None, **spring), seen("c", 3, 2, **autumn)],
    ]
    assert pasts(tmp_path, exposures, Split({}, experiment="spring")) == [5, 6, None]


def test_what_the_variant_moves_later_is_not_taken_out_of_its_lift(tmp_path: Path) -> None:
    # New users: no past on day 1, and on day 2 their own clicks of day 1, which the variant lifts by half.
    draw, users = np.random.default_rng(0), 8000
    arm = np.arange(users) % 2
    taste = draw.beta(3, 7, users) * (1 + 0.5 * arm)
    clicks = [draw.random(users) < taste for _ in range(2)]
    days = np.datetime64(START, "us") + np.repeat([0, 1], users) * np.timedelta64(1, "D")
    ids, variants = np.tile(np.arange(users), 2).astype(str), np.tile(np.array(["A", "B"])[arm], 2)
    past = pa.array(np.append(np.zeros(users), clicks[0]), mask=np.repeat([True, False], users))
    pq.write_table(pa.table({"time": days, "user": ids, "variant": variants, "past": past}), tmp_path / "e.parquet")
    outcomes = {"time": days + np.timedelta64(1, "m"), "user": ids, "click": np.concatenate(clicks)}
    pq.write_table(pa.table(outcomes), tmp_path / "o.parquet")
    files = Files((str(tmp_path / "e.parquet"),), (str(tmp_path / "o.parquet"),), Covariate(column="past"), threads=1)
    found = analyse(files, Split({}), Attribution(), Rules())
    assert found["counts"]["covariates"]["users_without"] == users
    (lift,) = found["steps"][0]["lifts"]
    assert lift["fixed"]["value"] == lift["without_covariate"]["value"] == pytest.approx(0.5, abs=0.1)


def test_rows_of_a_covariate_without_a_user_are_no_two_of_one(tmp_path: Path) -> None:
    exposures = (write_lines(tmp_path / "e.jsonl", [seen("a", 1, 0), seen("b", 1, 0, "B")]),)
    outcomes = (write_lines(tmp_path / "o.jsonl", [OUTCOME]),)

    def read(rows: list[Any]) -> Floats | None:
        past = (write_lines(tmp_path / "p.jsonl", rows),)
        return join_logs(Files(exposures, outcomes, Covariate(past), threads=1), Split({}), Attribution()).covariate

    nobody = [{"user": "", "past": 1}, {"user": "", "past": 2}, {"user": None, "past": 3}]
    np.testing.assert_equal(read([*nobody, {"user": "b", "past": 4}]), [np.nan, 4])
    with pytest.raises(DataError, match=r"p\.jsonl: should have one row a user, received two or more of 'b'$"):
        read([*nobody, {"user": "b", "past": 4}, {"user": "b", "past": 5}])
