"""Rates and variances of the past: clustered by user, from logs and from prepared folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from funnelcast.errors import ArtifactError, DataError
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.covariate import Covariate
from funnelcast.experiment.design import Plan, users_needed
from funnelcast.experiment.history import history_of_logs, history_of_shards, step_variance
from funnelcast.experiment.joined import Files
from funnelcast.experiment.ratio import Estimate, ratio

from .logs_on_disk import World

Floats = NDArray[np.float64]


def test_numbers_by_hand() -> None:
    # r = 3/8, SE^2 = 21/1024 (see test_ratio): v = 3 * 21/1024 / (9/64); alone it would be (5/8) / (3/8 * 8/3) = 5/8
    found = step_variance("click", np.array([1.0, 0, 2]), np.array([2.0, 2, 4]))
    assert found.log_variance == pytest.approx(3 * 21 / 1024 / (9 / 64))
    assert found.design_effect == pytest.approx(found.log_variance / (5 / 8))
    assert found.explained is None


def test_the_variance_foretells_the_error_of_a_larger_sample() -> None:
    draw = np.random.default_rng(0)

    def users(count: int) -> tuple[Floats, Floats]:
        shown = 1 + draw.poisson(draw.gamma(2, 3, count))
        return draw.binomial(shown, draw.beta(1, 4, count)).astype(float), shown.astype(float)

    small = step_variance("click", *users(4000))
    large = ratio(*users(40_000))
    assert isinstance(large, Estimate)
    assert large.standard_error / large.value == pytest.approx(np.sqrt(small.log_variance / 40_000), rel=0.05)
    assert small.design_effect is not None and small.design_effect > 1.2


def test_the_covariate_explains_its_squared_correlation() -> None:
    draw = np.random.default_rng(1)
    taste = draw.beta(2, 4, 2000)
    events, units, past = draw.binomial(5, taste).astype(float), np.full(2000, 5.0), draw.binomial(9, taste) / 9
    found = step_variance("click", events, units, past)
    assert found.explained is not None
    assert found.explained == pytest.approx(np.corrcoef(events, past)[0, 1] ** 2)
    nothing = step_variance("click", events, units, np.ones(2000))
    assert nothing.explained == 0
    assert (
        0 < users_needed(found.log_variance * (1 - found.explained), Plan()) < users_needed(found.log_variance, Plan())
    )


@pytest.mark.parametrize("events", [[0.0, 0.0], [1.0, 1.0]])
def test_a_step_that_tells_nothing_is_refused(events: list[float]) -> None:
    with pytest.raises(DataError, match="history of step 'click' should have events of users who differ"):
        step_variance("click", np.array(events), np.ones(2))


def test_logs_are_one_group_whatever_their_variants(tmp_path: Path) -> None:
    exposures, outcomes, past = World(users=600, names=("a", "b")).write(tmp_path)
    files = Files((exposures,), (outcomes,), Covariate((past,)), threads=1)
    found = history_of_logs(files, Attribution(), "exposure")
    shown = pd.read_parquet(exposures).groupby("user").size()
    events = pd.read_parquet(outcomes).groupby("user")[["click", "buy"]].sum().reindex(shown.index, fill_value=0)
    assert (found.users, found.units) == (len(shown), shown.sum())
    for step in found.steps:
        expected = step_variance(step.name, events[step.name].to_numpy(float), shown.to_numpy(float))
        assert step.log_variance == pytest.approx(expected.log_variance)
        assert step.explained is not None and 0 < step.explained < 1
    first = pd.read_parquet(exposures).groupby("user")["time"].min().dt.date.value_counts().sort_index()
    assert list(found.newcomers) == first.tolist()
    by_user = history_of_logs(files, Attribution(("buy",)), "user")
    assert by_user.steps[0].rate == pytest.approx(events["buy"].mean())


def test_a_log_without_variants_is_a_history_as_well(tmp_path: Path) -> None:
    exposures, outcomes, _ = World(users=300).write(tmp_path)
    pd.read_parquet(exposures)[["time", "user"]].to_parquet(tmp_path / "bare.parquet")
    bare, whole = (
        history_of_logs(Files((path,), (outcomes,), threads=1), Attribution(), "exposure")
        for path in (str(tmp_path / "bare.parquet"), exposures)
    )
    assert bare == whole


def test_shards_are_counted_by_user_over_observed_labels(prepared: Path) -> None:
    found = history_of_shards(prepared)
    rows = pd.concat([pd.read_parquet(path) for path in sorted(prepared.glob("*/*.parquet"))])
    assert found.users == rows["user"].nunique()
    assert found.newcomers == ()
    for step in found.steps:
        label = rows[f"label.{step.name}"].astype(float)
        grouped = label.groupby(rows["user"])
        expected = step_variance(step.name, grouped.sum().to_numpy(), grouped.count().to_numpy(float))
        assert step == expected
    assert history_of_shards(prepared, "user").steps[0].log_variance != found.steps[0].log_variance


def test_a_folder_without_users_or_shards_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        history_of_shards(tmp_path / "nowhere")
    schema = json.loads((prepared / "schema.json").read_text())
    (prepared / "schema.json").write_text(json.dumps(schema | {"has_user": False}))
    with pytest.raises(DataError, match="rows should have a user"):
        history_of_shards(prepared)
    (prepared / "schema.json").write_text(json.dumps(schema))
    for path in prepared.glob("*/*.parquet"):
        path.write_bytes(b"no shard")
    with pytest.raises(ArtifactError, match="should hold readable shards"):
        history_of_shards(prepared)


def test_shards_with_times_tell_how_many_users_come_a_day(prepared: Path) -> None:
    for path in prepared.glob("*/*.parquet"):
        rows = pd.read_parquet(path)
        rows["time"] = pd.Timestamp("2026-03-01", tz="UTC") + pd.to_timedelta(rows["user"] // 8, unit="D")
        rows.to_parquet(path)
    assert history_of_shards(prepared).newcomers == (8, 8, 4)  # users 0 to 19
