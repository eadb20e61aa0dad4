"""Overlap, effective sample sizes, the clip and the advice, worked by hand; and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.conftest import Command

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError
from funnelcast.overlap import (
    advise,
    choose_clip,
    effective_sample_size,
    funnel_overlap,
    inverse_propensity,
    propensity_histogram,
    stopped_weights,
)
from funnelcast.run import create_run
from funnelcast.scores import Scores
from funnelcast.train import fit

positive = arrays(np.float64, st.integers(1, 30), elements=st.floats(1e-6, 1e6))
ESMM = Experiment(
    name="esmm",
    model=Component(name="esmm", options={"hidden": [4]}),
    train=TrainConfig(epochs=1, batch_size=256, device="cpu"),
)


@given(positive, st.floats(1e-3, 1e3))
def test_effective_sample_size_is_between_one_and_the_rows_and_has_no_unit(weights: Any, factor: float) -> None:
    size = effective_sample_size(weights)
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    assert effective_sample_size(factor * weights) == pytest.approx(size)


@given(st.integers(1, 50), st.floats(1e-200, 1e200))
def test_equal_weights_are_as_good_as_all_rows(rows: int, weight: float) -> None:
    assert effective_sample_size(np.full(rows, weight)) == pytest.approx(rows)


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(np.array([1.0, 3.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.array([])) == effective_sample_size(np.zeros(3)) == 0.0


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(1e-3, 1.0)), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_clip_never_lowers_the_effective_sample_size(p: Any, one: float, other: float) -> None:
    low, high = sorted((one, other))
    sizes = [effective_sample_size(inverse_propensity(p, clip)) for clip in (low, high)]
    assert sizes[0] <= sizes[1] * (1 + 1e-9)


def test_weights_by_hand() -> None:
    assert inverse_propensity(np.array([0.5, 0.01, 0.0]), 0.04).tolist() == pytest.approx([2.0, 25.0, 25.0])
    former, transition = np.array([0.8, 0.8, 0.01, 0.5]), np.array([0.25, 0.25, 0.5, 1.0])
    found = stopped_weights(former, transition, np.array([True, False, False, False]), 0.02)
    # (1 - 0.2) / (0.8 - 0.2); then 0.995 / 0.005 = 199 and a division by 0, both bounded by 1 / 0.02
    assert found.tolist() == pytest.approx([1.0, 0.8 / 0.6, 50.0, 50.0])


def test_histogram_by_hand() -> None:
    p, happened = np.array([0.0, 0.2, 0.2, 0.95, 1.0]), np.array([False, False, True, True, True])
    found = propensity_histogram(p, happened)
    assert (sum(found["with"]), sum(found["without"])) == (3, 2)
    assert (found["without"][0], found["with"][-1]) == (1, 2)
    assert found["overlap"] == pytest.approx(1 / 3)  # bin of 0.2: a third of one side, a half of the other
    assert propensity_histogram(p, np.ones(5, dtype=bool))["overlap"] is None


def make_scores(former: list[float], came: list[int], weight: list[float] | None = None) -> Scores:
    """Two steps; the transition is a half on every row, and nobody takes the second step."""
    p = np.array(former)
    reach, transition = np.stack([p, p / 2], 1), np.stack([p, np.full(len(p), 0.5)], 1)
    logs = (np.log(reach), np.log1p(-reach), np.log(transition), np.log1p(-transition))
    labels = np.stack([np.array(came, dtype=bool), np.zeros(len(p), dtype=bool)], 1)
    rows = np.ones(len(p)) if weight is None else np.array(weight)
    return Scores(("click", "buy"), *logs, labels, np.ones_like(labels), rows.astype(np.float32))


def test_a_step_by_hand() -> None:
    (buy,) = funnel_overlap(make_scores([0.5, 0.5, 0.5, 0.015, 0.5, 0.5], [1, 1, 1, 1, 0, 0]))
    assert (buy["name"], buy["former"], buy["rows"], buy["local_rows"]) == ("buy", "click", 6, 4)
    sizes = {c["clip"]: c["effective_share"] for c in buy["inverse_propensity"]}
    heavy = 1 / 0.015
    assert sizes[0.0] == sizes[0.01] == pytest.approx((6 + heavy) ** 2 / (12 + heavy**2) / 4)
    assert sizes[0.02] == pytest.approx((6 + 50) ** 2 / (12 + 50**2) / 4)
    assert sizes[0.05] == pytest.approx((6 + 20) ** 2 / (12 + 20**2) / 4)
    assert [c["share_below"] for c in buy["inverse_propensity"]] == pytest.approx([0, 0, 1 / 6, 1 / 6])
    assert (buy["clip"], buy["advice"]) == (None, "plain")
    assert buy["theorem_2_1"][0]["largest_weight"] == pytest.approx((1 - 0.0075) / 0.0075)
    (buy,) = funnel_overlap(make_scores([0.5, 0.5, 0.5, 0.015, 0.5, 0.5], [1, 1, 1, 1, 0, 0]), share=0.4)
    assert (buy["clip"], buy["advice"]) == (0.05, "DR")  # 0.41 of the local rows; a sixth of all rows is clipped


def test_sample_weights_count_and_rows_of_weight_zero_do_not() -> None:
    (buy,) = funnel_overlap(make_scores([0.5, 0.5, 0.01], [1, 1, 1], [3.0, 1.0, 0.0]))
    assert buy["local_rows"] == 2
    assert buy["inverse_propensity"][0]["effective_rows"] == pytest.approx(16 / 10)


def test_nobody_in_the_local_space_is_said_and_not_counted() -> None:
    (buy,) = funnel_overlap(make_scores([0.5, 0.5], [0, 0]))
    assert buy["inverse_propensity"][0]["effective_share"] is None
    assert (buy["clip"], buy["advice"]) == (None, "plain")
    json.dumps(buy, allow_nan=False)


def test_the_smallest_clip_that_suffices_is_chosen_and_advice_follows_the_rows_it_clips() -> None:
    def candidate(clip: float, size: float | None, below: float) -> dict[str, Any]:
        return {"clip": clip, "effective_share": size, "share_below": below}

    listed = [candidate(0.05, 0.9, 0.6), candidate(0.0, 0.2, 0.0), candidate(0.01, 0.5, 0.05)]
    assert choose_clip(listed, 0.5) == listed[2]
    assert choose_clip(listed, 0.95) is None
    assert choose_clip([candidate(0.0, None, 0.0)], 0.5) is None
    found = [advise(candidate(0.01, 0.5, below)) for below in (0.05, 0.051, 0.5, 0.51)]
    assert found == ["IPS", "DR", "DR", "plain"]
    assert advise(None) == "plain"


def test_wrong_shares_and_a_funnel_of_one_step_are_refused() -> None:
    scores = make_scores([0.5, 0.5], [1, 0])
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"share should be in \(0, 1\]"):
            funnel_overlap(scores, share)
    names = ("log_reach", "log_not_reach", "log_transition", "log_not_transition", "labels", "observed")
    one = replace(scores, steps=("click",), **{name: getattr(scores, name)[:, :1] for name in names})
    with pytest.raises(ConfigError, match="a funnel of one step, here 'click', has no propensities"):
        funnel_overlap(one)


@pytest.fixture
def command(command: Command) -> Command:
    """Run `funnelcast overlap ...`."""
    return partial(command, "overlap")


def test_command_writes_and_prints(prepared: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    fit(run, PreparedData(prepared), ESMM, seed=0)
    code, out, err = command(str(run))
    assert code == 0, err
    record = json.loads((run / "overlap.json").read_text())
    assert (record["format"], record["split"], record["rows"], record["share"]) == (1, "valid", 300, 0.5)
    (buy,) = record["steps"]
    assert sum(buy["histogram"]["with"]) + sum(buy["histogram"]["without"]) == buy["rows"] == 300
    assert buy["inverse_propensity"][0]["effective_rows"] <= buy["local_rows"] + 1e-6
    assert f"buy: {buy['advice']}; overlap of rows with and without click" in out
    assert f"{buy['local_rows']:,}" in out
    assert command(str(run), "--split", "test", "--share", "1")[0] == 0
    assert json.loads((run / "overlap.json").read_text())["split"] == "test"
    assert not list(run.glob(".overlap*"))


def test_command_refuses_what_it_cannot_judge(
    prepared: Path, make_prepared: Callable[..., Path], tmp_path: Path, command: Command
) -> None:
    code, _, err = command(str(tmp_path / "nothing"))
    assert code == 2 and "should be the record of a run, but does not exist" in err
    run = tmp_path / "begun"
    create_run(run, PreparedData(prepared), ESMM, 0, resume=False)
    code, _, err = command(str(run))
    assert code == 2 and "training is not complete" in err
    code, _, err = command(str(run), "--split", "all")
    assert code == 2 and "--split should be one of train, valid, test, received 'all'" in err
    fit(run, PreparedData(prepared), ESMM, seed=0, resume=True)
    code, _, err = command(str(run), "--share", "2")
    assert code == 2 and "share should be in (0, 1], received 2.0" in err
    assert not (run / "overlap.json").exists()
