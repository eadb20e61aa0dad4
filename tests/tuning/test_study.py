"""One study, without training: who gets which trial, and what a kill leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from funnelcast.config import Component, Experiment
from funnelcast.errors import DataError
from funnelcast.space import Choice, IntegerRange, LogUniform, SearchSpace, combinations, identity
from funnelcast.tuning.folder import Settings, open_folder
from funnelcast.tuning.search import Search
from funnelcast.tuning.study import Claim, Study, open_storage

Open = Callable[..., Study]
SMALL: SearchSpace = {"model.hidden": Choice((4,), (4, 3)), "model.width": IntegerRange(2, 4)}
WIDE: SearchSpace = {**SMALL, "train.learning_rate": LogUniform(1e-4, 1e-1, grid=(1e-3,))}
OWN = {"model.hidden": (4,), "model.width": 3, "train.learning_rate": 1e-3}


@pytest.fixture
def open_study(tmp_path: Path) -> Open:
    """Return a function that opens the same study as another process would."""

    def make(trials: int, space: SearchSpace = WIDE, out: str = "out", **settings: Any) -> Study:
        known = {"dataset": "d", "data_sha256": "0", "sampler": "tpe", "epochs": 3, "seed": 0, "prune": True}
        shared = Settings(**{**known, **settings})
        start = {name: OWN[name] for name in space}
        experiment = Experiment(name="mine", model=Component(name="single_task"))
        grid = tuple(combinations(space)) if shared.sampler == "grid" else ()
        search = Search(experiment, space, start, grid)
        folder = tmp_path / out
        open_folder(folder, shared, (search,))
        return Study(folder, open_storage(folder), search, shared, trials)

    return make


def claim(study: Study) -> Claim:
    found = study.claim()
    assert isinstance(found, Claim), found
    return found


def score(values: dict[str, Any]) -> float:
    return float(values["model.width"] + len(values["model.hidden"]) + values.get("train.learning_rate", 0.0))


def run(study: Study) -> list[dict[str, Any]]:
    """Finish all trials that are left."""
    done = []
    while isinstance(found := study.claim(), Claim):
        study.finish(found.number, score(found.values))
        found.lock.close()
        done.append(found.values)
    assert found == "over"
    return done


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_parameters_come_twice_and_a_finite_space_ends(open_study: Open, sampler: str) -> None:
    done = run(open_study(50, SMALL, sampler=sampler))
    assert len(done) == 6 == len({identity(values) for values in done})
    assert sampler == "grid" or identity(done[0]) == identity({name: OWN[name] for name in SMALL})


def test_the_first_trial_is_the_experiment_as_it_stands_and_all_are_in_the_space(open_study: Open) -> None:
    done = run(open_study(9))
    assert len(done) == 9 and done[0] == OWN
    for values in done:
        assert values["model.hidden"] in SMALL["model.hidden"].grid and values["model.width"] in (2, 3, 4)
        assert 1e-4 <= values["train.learning_rate"] <= 1e-1
    assert run(open_study(9)) == []
    assert len(run(open_study(11))) == 2  # a larger budget goes on


def test_tpe_learns(open_study: Open) -> None:
    found = {sampler: run(open_study(40, out=sampler, sampler=sampler)) for sampler in ("tpe", "random")}
    late = {sampler: sum(map(score, done[20:])) / 20 for sampler, done in found.items()}
    assert late["tpe"] < late["random"] - 0.3


def test_a_study_that_was_interrupted_tries_the_same(open_study: Open) -> None:
    unbroken = run(open_study(8, out="one"))
    for _ in range(3):
        study = open_study(8, out="two")
        held = claim(study)
        study.finish(held.number, score(held.values))
        held.lock.close()
        claim(study).lock.close()  # and here its process dies
    assert [trial.number for trial in study.optuna.trials] == [0, 1, 2, 3]
    rest = run(open_study(8, out="two"))
    assert rest == unbroken[3:]
    other = run(open_study(8, out="three", seed=1))
    assert other[0] == unbroken[0] and other[1:] != unbroken[1:]


def test_two_workers_share_the_budget(open_study: Open) -> None:
    one, two = open_study(3), open_study(3)
    first, second, third = claim(one), claim(two), claim(one)
    assert len({identity(held.values) for held in (first, second, third)}) == 3
    assert two.claim() == "wait" and one.claim() == "wait"
    two.fail(second.number, "no reason")
    second.lock.close()
    fourth = claim(one)
    assert fourth.number == 3 and identity(fourth.values) != identity(second.values)
    assert two.claim() == "wait"
    for held in (first, third, fourth):
        one.finish(held.number, 1.0)
        held.lock.close()
    assert two.claim() == "over" == one.claim()


def test_only_a_trial_that_nobody_works_on_is_taken_up(open_study: Open) -> None:
    one, two = open_study(2), open_study(2)
    held, dead = claim(one), claim(one)
    one.report(dead.number, [{"epoch": 0, "valid_mean_ne": 0.5}], 1.0)
    dead.lock.close()
    again = claim(two)
    assert (again.number, again.values) == (dead.number, dead.values)
    two.report(again.number, [{"epoch": e, "valid_mean_ne": 0.5 - e / 10} for e in range(2)], 2.0)
    trial = one.optuna.trials[again.number]
    assert trial.intermediate_values == {0: 0.5, 1: 0.4} and trial.user_attrs["seconds"] == 2.0
    assert two.claim() == "wait"
    for lock in (held.lock, again.lock):
        lock.close()


def test_failures_end_when_there_are_as_many_as_trials(open_study: Open) -> None:
    study = open_study(2)
    for _ in range(2):
        held = claim(study)
        study.fail(held.number, "the loss is nan")
        held.lock.close()
    with pytest.raises(DataError, match="mine: 2 trials failed, as many as should finish; the last: the loss"):
        study.claim()


def test_who_is_behind_the_median_is_given_up_but_not_the_first_one(open_study: Open) -> None:
    study = open_study(6)  # two trials must have ended
    first, second, third, fourth = (claim(study) for _ in range(4))
    for held, scores in ((second, (0.5, 0.4, 0.3)), (third, (0.7, 0.6, 0.5))):
        study.report(held.number, [{"epoch": e, "valid_mean_ne": s} for e, s in enumerate(scores)], 0.0)
        assert not study.falls_behind(held.number)
        study.finish(held.number, min(scores))
    late = [{"epoch": e, "valid_mean_ne": 0.61} for e in range(3)]
    for held, behind in ((first, False), (fourth, True)):
        study.report(held.number, late[:1], 0.0)
        assert study.falls_behind(held.number) is behind  # the median of the first epoch is 0.6
    study.report(fourth.number, late, 0.0)
    assert not study.falls_behind(fourth.number)  # nothing is left to save
    study.give_up(fourth.number)
    assert study.optuna.trials[fourth.number].state is TrialState.PRUNED
    for held in (first, second, third, fourth):
        held.lock.close()


def test_without_pruning_nobody_is_given_up(open_study: Open) -> None:
    study = open_study(3, prune=False)
    for number, value in enumerate((0.1, 0.2, 0.9)):
        held = claim(study)
        study.report(held.number, [{"epoch": 0, "valid_mean_ne": value}], 0.0)
        assert not study.falls_behind(number)
        study.finish(number, value)
        held.lock.close()


def test_half_a_line_of_a_kill_is_cut_off(open_study: Open, tmp_path: Path) -> None:
    study = open_study(3)
    claim(study).lock.close()
    journal = tmp_path / "out" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_')
    assert len(run(open_study(3))) == 3
    assert journal.read_bytes().startswith(whole + b"{") and b'"worker_{' not in journal.read_bytes()
