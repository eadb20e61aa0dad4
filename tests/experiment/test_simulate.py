"""Simulated A/B tests: bounds, pairing, coverage, any number of steps, and wrong inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnelcast.data.shards import PreparedData
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.errors import ConfigError
from funnelcast.evaluate import evaluate
from funnelcast.experiment.simulate import Plan, simulate
from funnelcast.experiment.traffic import Traffic
from funnelcast.files import sha256
from funnelcast.registry import DATASETS
from funnelcast.run import Run
from funnelcast.train import fit

from .conftest import STEPS, MakeRun

SMALL = Traffic(days=2, users=150, candidates=12, seed=1)


def rates(record: dict[str, Any], kind: str, step: int = -1) -> dict[str, float]:
    return {arm: rate[kind] for arm, rate in record["steps"][step]["rates"].items()}


@pytest.mark.parametrize(
    "steps", [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_any_number_of_steps(make_run: MakeRun, steps: int) -> None:
    runs = make_run(steps=steps), make_run("shared_bottom", steps=steps)
    record = simulate(runs, Plan(SMALL, show=3))
    assert record["rank_by"] == STEPS[steps - 1]
    assert [step["name"] for step in record["steps"]] == list(STEPS[:steps])
    assert [len(step["daily"]) for step in record["steps"]] == [2] * steps
    json.dumps(record, allow_nan=False)
    for step in record["steps"]:
        for rate in step["rates"].values():
            low, high = rate["interval"]
            assert low < rate["value"] < high
            assert abs(rate["value"] - rate["expected"]) < 2 * (high - low)
    for former, later in zip(record["steps"], record["steps"][1:], strict=False):
        assert all(later["rates"][arm]["expected"] < former["rates"][arm]["expected"] for arm in former["rates"])


@pytest.mark.parametrize("aim", [{}, {"rank_by": "click"}, {"values": {"click": 1.0, "cart": 3.0}}])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_true_order_is_best_and_chance_is_worse_than_it(make_run: MakeRun, aim: dict[str, Any], seed: int) -> None:
    traffic = Traffic(days=1, users=200, candidates=10, seed=seed)
    record = simulate((make_run(), make_run("shared_bottom")), Plan(traffic, show=2, paired=True, **aim))
    measured = record["value"] if "values" in aim else record["steps"][0 if aim else 1]
    expected = {arm: rate["expected"] for arm, rate in measured["rates"].items()}
    assert expected["oracle"] >= max(expected["A"], expected["B"])
    assert expected["oracle"] > expected["random"]
    assert measured["rates"]["oracle"]["value"] > measured["rates"]["random"]["value"]
    share = (expected["A"] - expected["random"]) / (expected["oracle"] - expected["random"])
    assert record["of_possible"]["A"] == pytest.approx(share)
    assert 0 < share <= 1  # a trained model knows something


def test_the_same_seed_gives_the_same_result(make_run: MakeRun) -> None:
    runs = make_run(), make_run("shared_bottom")
    first, again = (simulate(runs, Plan(SMALL)) for _ in range(2))
    assert first == again
    other = simulate(runs, Plan(Traffic(days=2, users=150, candidates=12, seed=2)))
    assert other["steps"] != first["steps"]


def test_pairing_gives_the_same_answers_to_the_same_ranking(make_run: MakeRun) -> None:
    run = make_run()
    record = simulate((run, run), Plan(SMALL, paired=True))
    assert record["assignment"] is None and record["salt"] is None
    for step in record["steps"]:
        assert step["rates"]["A"] == step["rates"]["B"]
        assert step["lift"]["value"] == step["lift"]["expected"] == 0
        assert "do not differ" in step["lift"]["reason"]


def test_pairing_narrows_the_interval(make_run: MakeRun) -> None:
    runs = make_run(), make_run("shared_bottom")
    paired, split = (simulate(runs, Plan(SMALL, paired=on))["steps"][0]["lift"]["interval"] for on in (True, False))
    assert paired[1] - paired[0] < 0.7 * (split[1] - split[0])


def test_users_are_in_one_arm_and_all_of_them_count(make_run: MakeRun) -> None:
    run = make_run()
    record = simulate((run, run), Plan(SMALL, salt="one"))
    everyone = len({user for day in range(2) for user in SMALL.of_day(day).tolist()})
    visits = sum(len(SMALL.of_day(day)) for day in range(2))
    assert sum(arm["users"] for arm in record["arms"]) == sum(record["assignment"]["users"]) == everyone
    assert sum(arm["visits"] for arm in record["arms"]) == visits
    another = simulate((run, run), Plan(SMALL, salt="two"))
    assert another["steps"][0]["rates"]["A"] != record["steps"][0]["rates"]["A"]
    assert another["steps"][0]["rates"]["oracle"] == record["steps"][0]["rates"]["oracle"]


def test_showing_all_candidates_leaves_nothing_to_rank(make_run: MakeRun) -> None:
    record = simulate((make_run(), make_run("shared_bottom")), Plan(SMALL, show=12, paired=True))
    assert len(set(rates(record, "value").values())) == 1
    assert record["of_possible"] == {"A": None, "B": None}


def test_one_candidate_is_enough(make_run: MakeRun) -> None:
    plan = Plan(Traffic(days=1, users=40, candidates=1), show=1, paired=True)
    assert rates(simulate((make_run(), make_run()), plan), "value")["A"] > 0


def test_offline_gain_stands_beside_the_lift(make_run: MakeRun) -> None:
    base, rival = make_run(seed=3), make_run("shared_bottom", seed=3)
    record = simulate((base, rival), Plan(SMALL))
    assert record["steps"][0]["offline"]["gain"] is None
    assert "funnelcast evaluate" in record["steps"][0]["offline"]["reason"]
    aucs = []
    for run in (base, rival):
        report = evaluate(run, PreparedData(Path(run.record["data"]["folder"])))
        aucs.append([step["reach"]["auc"] for step in report["steps"]])
    record = simulate((base, rival), Plan(SMALL))
    for i, step in enumerate(record["steps"]):
        assert step["offline"]["reach_auc"] == {"A": aucs[0][i], "B": aucs[1][i]}
        assert step["offline"]["gain"] == pytest.approx(aucs[1][i] / aucs[0][i] - 1)


@pytest.mark.slow
def test_intervals_of_an_a_a_test_cover_nothing_at_their_level(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, repeats = make_run(), 200
    world = make_world(run)
    monkeypatch.setattr(Synthetic, "world", lambda _: world)  # it is calibrated once instead of 200 times
    covered, misses = np.zeros(2), np.zeros(2)
    for seed in range(repeats):
        traffic = Traffic(days=2, users=400, candidates=6, visits=0.7, seed=seed)
        record = simulate((run, run), Plan(traffic, show=3, salt=str(seed)))
        for i, step in enumerate(record["steps"]):
            low, high = step["lift"]["interval"]
            covered[i] += low <= 0 <= high
            misses[i] += low > 0
        assert record["assignment"]["p_value"] > 1e-5
    error = 3.3 * np.sqrt(0.95 * 0.05 / repeats)
    assert (np.abs(covered / repeats - 0.95) < error).all()
    assert (misses < 0.025 * repeats + 8).all()  # the two sides miss alike


def make_world(run: Run) -> Any:
    manifest = json.loads((Path(run.record["data"]["folder"]) / "manifest.json").read_text())
    options = manifest["description"]["options"]
    return DATASETS.create("synthetic", options=options).world()


def test_runs_of_two_worlds_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"same simulated data as .* option 'seed' .* is 9 instead of 0"):
        simulate((make_run(), make_run(seed=9)), Plan(SMALL))
    with pytest.raises(ConfigError, match="option 'rates'"):
        simulate((make_run(), make_run(steps=1)), Plan(SMALL))


def copied(run: Run, target: Path, **data: Any) -> Run:
    """A copy of a run whose record says something else about its data."""
    shutil.copytree(run.folder, target)
    record = json.loads((target / "run.json").read_text())
    record["data"] |= data
    (target / "run.json").write_text(json.dumps(record))
    return Run(target)


def test_a_run_on_other_data_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    own = make_run()
    shutil.copytree(own.folder, tmp_path / "shop")
    schema = json.loads((tmp_path / "shop" / "schema.json").read_text())
    (tmp_path / "shop" / "schema.json").write_text(json.dumps(schema | {"dataset": "shop"}))
    with pytest.raises(ConfigError, match=r"data of the simulator.* received dataset 'shop'"):
        simulate((own, Run(tmp_path / "shop")), Plan(SMALL))


def test_data_that_moved_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run()
    shutil.copytree(first.record["data"]["folder"], tmp_path / "before")
    run = fit(tmp_path / "run", PreparedData(tmp_path / "before"), first.experiment)
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(ConfigError, match=r"before: the prepared folder of .* is not here; name it by --data"):
        simulate((run, first), Plan(SMALL))
    assert simulate((run, first), Plan(SMALL), tmp_path / "after")["days"] == 2
    with pytest.raises(ConfigError, match="but is another"):
        simulate((run, run), Plan(SMALL), Path(make_run(seed=9).record["data"]["folder"]))


def test_data_of_an_older_version_cannot_be_rebuilt(make_run: MakeRun, tmp_path: Path) -> None:
    shutil.copytree(make_run().record["data"]["folder"], tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    del manifest["description"]["options"]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    checksum = sha256(tmp_path / "old" / "manifest.json")
    run = copied(make_run(), tmp_path / "run", folder=str(tmp_path / "old"), manifest_sha256=checksum)
    with pytest.raises(ConfigError, match="prepare 'synthetic' again"):
        simulate((run, run), Plan(SMALL))


def test_a_step_that_is_not_there_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="unknown step 'clik'; did you mean 'click'"):
        simulate((make_run(), make_run()), Plan(SMALL, rank_by="clik"))


def test_days_without_a_visit_are_refused(make_run: MakeRun) -> None:
    plan = Plan(Traffic(days=1, users=1, visits=1e-9))
    with pytest.raises(ConfigError, match="at least one visit, received none of 1 users"):
        simulate((make_run(), make_run()), plan)


@pytest.mark.parametrize("show", [0, 13, -1])
def test_no_more_is_shown_than_there_is(show: int) -> None:
    with pytest.raises(ConfigError, match=f"at most the 12 candidates, received {show}"):
        Plan(SMALL, show=show)
