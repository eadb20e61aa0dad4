"""Whole searches on a small prepared folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from funnelcast.ablate import ablate
from funnelcast.cli import main
from funnelcast.config import Component, Experiment, TrainConfig, load_experiment
from funnelcast.data.shards import PreparedData, RowGroup
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.space import identity
from funnelcast.train import fit
from funnelcast.tuning import tune
from funnelcast.tuning.result import experiment_toml
from funnelcast.tuning.work import best_epoch


@pytest.fixture
def without_test(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared folder with TEST shut."""
    row_groups = PreparedData.row_groups

    def but_for_test(data: PreparedData, split: Split) -> list[RowGroup]:
        assert split is not Split.TEST
        return row_groups(data, split)

    monkeypatch.setattr(PreparedData, "row_groups", but_for_test)
    return prepared


def trials_of(out: Path, experiment: str = "mine") -> list[dict[str, Any]]:
    studies = json.loads((out / "tuning.json").read_text())["studies"]
    found: list[dict[str, Any]] = next(s for s in studies if s["experiment"] == experiment)["trials"]
    return found


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())["epochs"]
    return found


@pytest.mark.slow
def test_a_grid_covers_the_product_once_and_the_best_file_scores_the_same(
    prepared: Path, tmp_path: Path, make_experiment: Any
) -> None:
    lines: list[str] = []
    plan, out = make_experiment(), tmp_path / "out"
    record = tune(
        [plan], prepared, out, trials=6, sampler="grid", prune=False, command="so\nmade", announce=lines.append
    )
    trials = trials_of(out)
    points = [{"model.hidden": h, "train.batch_size": b} for h in ([4], [6], [4, 3]) for b in (128, 64)]
    assert sorted(identity(trial["parameters"]) for trial in trials) == sorted(map(identity, points))
    assert trials[0]["parameters"] == points[0] and len(lines) == 6 and "as it stands" in lines[0]
    (study,) = record["studies"]
    assert study["finished"] == 6 and study["pruned"] == study["failed"] == 0
    best = study["best"]
    assert best["score"] == min(trial["score"] for trial in trials) <= study["score_as_it_stands"]
    assert set(study["importance"]) == set(points[0]) and sum(study["importance"].values()) == pytest.approx(1)
    text = (out / "mine.toml").read_text()
    assert text.startswith("# so made\n# trial ") and f"{best['score']:.6f}; as the experiment stands" in text
    run = fit(tmp_path / "again", PreparedData(prepared), load_experiment(out / "mine.toml"), seed=0)
    assert best_epoch(epochs_of(run.folder))["valid_mean_ne"] == best["score"]  # bit by bit
    for trial in trials:
        folder = out / "mine" / f"trial-{trial['number']}"
        scores = [point["valid_mean_ne"] for point in epochs_of(folder)]
        assert trial["epochs"] == scores and trial["score"] == min(scores) and trial["seconds"] > 0
        assert not [*folder.glob("checkpoint*")]


@pytest.mark.slow
def test_every_experiment_gets_the_same_budget_and_trials_are_given_up(
    without_test: Path, tmp_path: Path, make_experiment: Any
) -> None:
    wide = {"train.learning_rate": {"kind": "log_uniform", "low": 1e-5, "high": 3e-2}, "others": False}
    plans = [make_experiment("one", wide, learning_rate=0.02), make_experiment("two", epochs=5)]
    with pytest.raises(ConfigError, match=r"train for \[2, 5\] epochs; give all the same budget by --epochs"):
        tune(plans, without_test, tmp_path / "out", trials=3)
    record = tune(plans, without_test, tmp_path / "out", trials=6, epochs=3)
    one, two = record["studies"]
    assert one["finished"] == two["finished"] == 6 == len(one["trials"]) == len(two["trials"])
    assert one["pruned"] > 0
    for trial in [*one["trials"], *two["trials"]]:
        assert len(trial["epochs"]) == 3 if trial["state"] == "finished" else 0 < len(trial["epochs"]) < 3
        assert (trial["number"] > 0) or trial["state"] == "finished"
    assert load_experiment(tmp_path / "out" / "two.toml").train.epochs == 3
    for trial in one["trials"]:
        assert not [*(tmp_path / "out" / "one" / f"trial-{trial['number']}").glob("checkpoint*")]
    more = tune(plans[:1], without_test, tmp_path / "out", trials=7, epochs=3)["studies"]
    assert [study["finished"] for study in more] == [7, 6]
    assert more[0]["trials"][:6] == one["trials"] and more[1] == two


def test_a_trial_that_fails_counts_as_none(prepared: Path, tmp_path: Path, make_experiment: Any) -> None:
    space = {"train.learning_rate": [1e-3, 1e30, 2e-3, 1e31, 3e-3], "others": False}
    plan = make_experiment(space=space, gradient_clip=1e30)
    out = tmp_path / "out"
    (study,) = tune([plan], prepared, out, trials=4, epochs=1, sampler="random", prune=False)["studies"]
    states = {trial["parameters"]["train.learning_rate"]: trial["state"] for trial in study["trials"]}
    assert {states[rate] for rate in (1e30, 1e31)} <= {"failed"} and study["finished"] == 3 and study["failed"] == 2
    reasons = [trial["reason"] for trial in study["trials"] if trial["state"] == "failed"]
    assert all("a lower learning_rate may help" in reason for reason in reasons)
    hopeless = make_experiment("hopeless", space, learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(DataError, match=r"hopeless: 1 trials failed, .*learning_rate"):
        tune([hopeless], prepared, out, trials=1, epochs=1, sampler="random", prune=False)


def test_parameters_that_do_not_go_together_stop_everything(prepared: Path, tmp_path: Path) -> None:
    tune_table = {"model.width": [6, 8], "model.heads": [1, 3], "others": False}
    plan = Experiment.model_validate(
        {"name": "mran", "model": {"name": "mran", "width": 6}, "train": {"epochs": 1}, "tune": tune_table}
    ).model_copy(update={"model": Component(name="mran", options={"width": 6, "heads": 1})})
    with pytest.raises(ConfigError, match=r"multiple of heads=3, received 8"):
        tune([plan], prepared, tmp_path / "out", trials=4, sampler="random")
    assert not (tmp_path / "out" / "mran.toml").exists()


def test_what_is_wrong_is_found_before_anything_is_written(
    prepared: Path, tmp_path: Path, make_experiment: Any
) -> None:
    out = tmp_path / "out"
    for options, message in (
        ({"trials": 0}, "received trials=0, workers=1, seed=0"),
        ({"workers": 0}, "workers=0"),
        ({"seed": -1}, "seed=-1"),
        ({"epochs": 0}, "epochs should be at least 1, received 0"),
        ({"sampler": "tbe"}, "unknown sampler 'tbe'; did you mean 'tpe'"),
        ({"sampler": "grid", "trials": 5}, "the grid has 6 points"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune([make_experiment()], prepared, out, **options)
    with pytest.raises(ConfigError, match="names should be unique"):
        tune([make_experiment(), make_experiment()], prepared, out)
    with pytest.raises(ConfigError, match=r"unknown parameter 'model.hiden'; did you mean 'model.hidden'"):
        tune([make_experiment(space={"model.hiden": [1]})], prepared, out)
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(
    prepared: Path, make_prepared: Any, tmp_path: Path, make_experiment: Any
) -> None:
    out, plan = tmp_path / "out", make_experiment(epochs=1)
    tune([plan], prepared, out, trials=1)
    for options, message in (
        ({"seed": 1}, "begun with seed = 0, received 1; use another folder"),
        ({"sampler": "random"}, "sampler = 'tpe'"),
        ({"prune": False}, "prune = True"),
        ({"epochs": 2}, "epochs = 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune([plan], prepared, out, trials=1, **options)
    with pytest.raises(ConfigError, match="begun with data_sha256"):
        tune([plan], make_prepared("other", seed=8), out, trials=1)
    with pytest.raises(ConfigError, match="the study there is of another space"):
        tune([make_experiment(space={"model.hidden": [[4], [9]], "others": False}, epochs=1)], prepared, out, trials=1)
    with pytest.raises(ConfigError, match="the study there is of another experiment"):
        tune([make_experiment(epochs=1, patience=3)], prepared, out, trials=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.toml").write_text("mine")
    with pytest.raises(ConfigError, match="new or empty folder or one of a tuning"):
        tune([plan], prepared, tmp_path / "full", trials=1)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.toml"]
    (out / "next.toml").write_text("mine")
    with pytest.raises(ConfigError, match=r"next.toml: would be written over"):
        tune([make_experiment("next", epochs=1)], prepared, out, trials=1)
    assert (out / "next.toml").read_text() == "mine"


def test_an_experiment_file_reads_back(tmp_path: Path) -> None:
    plan = Experiment(
        name="odd",
        data='a "b" \\ ü\x7f',
        model=Component(name="x", options={"a": (1, (2.5e-7, 3)), "b": {"c d": [True], "é": "\n"}, "e": []}),
        losses=(Component(name="y", options={"z": 1e30}), Component(name="y")),
        train=TrainConfig(learning_rate=1e-5),
    )
    (tmp_path / "odd.toml").write_text(experiment_toml(plan, ["a\nb"]), encoding="utf-8")
    read = load_experiment(tmp_path / "odd.toml")
    assert read.model_dump(mode="json") == plan.model_dump(mode="json")


def test_the_command_and_its_wrong_inputs(
    prepared: Path,
    tmp_path: Path,
    make_experiment: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mine.toml"
    table = '\n[tune]\n"model.hidden" = [[4], [5]]\nothers = false\n'
    file.write_text(experiment_toml(make_experiment(epochs=1)) + table)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["funnelcast", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out + printed.err

    call = ["tune", file, "--data", prepared, "--out", tmp_path / "out", "--trials", 2]
    code, text = run(*call)
    assert code == 0 and "mine trial 0: VALID NE" in text and "model.hidden=[5]" in text and "as it stands" in text
    assert (tmp_path / "out" / "mine.toml").read_text().startswith("# funnelcast tune ")
    assert run(*call, "--seed", 1) == (
        2,
        f"error: {tmp_path / 'out'}: the tuning there was begun with seed = 0, received 1; use another folder\n",
    )
    assert run(*call[:-1], 0)[0] == 2
    file.write_text(file.read_text() + '"model.hiddne" = [1]\n')
    code, text = run(*call)
    assert code == 2 and "unknown parameter 'model.hiddne'; did you mean 'model.hidden'? known: model.head" in text
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else find(name, *rest)
    )
    code, text = run(*call)
    assert code == 2 and "pip install 'funnelcast[tune]'" in text


def test_a_tuned_file_can_be_ablated_and_models_without_variants_cannot(
    prepared: Path, tmp_path: Path, make_experiment: Any
) -> None:
    board = ablate(make_experiment(epochs=1), prepared, tmp_path / "out", seeds=1)
    assert board["baseline"] == "mine" and [row["experiment"] for row in board["rows"]] == ["mine", "single_task_local"]
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(
        ConfigError,
        match=r"'mmoe' has no variants .*: apem, apem_dense, dr_jl, escm2, lightgbm, multi_ipw, single_task$",
    ):
        ablate(Experiment(name="m", model=Component(name="mmoe")), prepared, tmp_path / "out")
    assert not (tmp_path / "out").exists()
