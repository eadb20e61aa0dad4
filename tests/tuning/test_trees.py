"""A search for boosted trees, which have no epochs, alone and beside a model that has some."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from funnelcast.cli import main
from funnelcast.config import Component, Experiment, TrainConfig, TuneConfig, load_experiment
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError, DataError
from funnelcast.tuning import tune
from funnelcast.tuning.folder import Settings, open_folder
from funnelcast.tuning.result import experiment_toml
from funnelcast.tuning.search import plan_search, tunable
from funnelcast.tuning.study import Claim, Study, open_storage
from funnelcast.tuning.work import best_epoch

SPACE = {"model.num_leaves": [3, 4, 5, 6], "others": False}


def trees(space: dict[str, Any] | None = None, name: str = "trees", **options: Any) -> Experiment:
    model = Component(name="lightgbm", options={"rounds": 60, "patience": 5, **options})
    return Experiment(name=name, model=model, tune=TuneConfig.model_validate(space or {}))


def test_options_of_the_loop_are_no_part_of_the_search(prepared: Path) -> None:
    schema, plan = PreparedData(prepared).schema, trees()
    search = plan_search(plan, schema, trials=1, grid=False)
    assert set(search.space) == {
        f"model.{option}"
        for option in (
            "num_leaves",
            "learning_rate",
            "min_data_in_leaf",
            "feature_fraction",
            "lambda_l2",
            "largest_category",
        )
    }
    assert not search.left_out and search.start["model.largest_category"] == 0
    assert "model.max_bin" in tunable(plan) and all(name.startswith("model.") for name in tunable(plan))
    with pytest.raises(ConfigError, match=r"unknown parameter 'train.batch_size'; known: model.bagging_fraction, "):
        plan_search(trees({"train.batch_size": [64]}), schema, trials=1, grid=False)


def test_the_best_file_is_compared_beside_that_of_a_model_with_epochs(
    prepared: Path,
    tmp_path: Path,
    make_experiment: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    neural = '\n[tune]\n"model.hidden" = [[4], [5], [6]]\nothers = false\n'
    own = '\n[tune]\n"model.num_leaves" = [3, 4, 5, 6]\nothers = false\n'
    (tmp_path / "mine.toml").write_text(experiment_toml(make_experiment()) + neural)
    (tmp_path / "trees.toml").write_text(experiment_toml(trees()) + own)

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["funnelcast", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        assert exit_.value.code == 0, printed.err
        return printed.out

    files, out = [tmp_path / "trees.toml", tmp_path / "mine.toml"], tmp_path / "tuned"
    text = run("tune", *files, "--data", prepared, "--out", out, "--trials", 3, "--epochs", 1)
    assert "trees trial 0: VALID NE" in text and " rounds, " in text and "in epoch 1, " in text
    record = json.loads((out / "tuning.json").read_text())
    of_mine, of_trees = record["studies"]
    assert (of_mine["finished"], of_trees["finished"]) == (3, 3) and record["settings"]["epochs"] == 1
    for trial in of_trees["trials"]:
        history = json.loads((out / "trees" / f"trial-{trial['number']}" / "history.json").read_text())
        assert trial["state"] == "finished" and trial["epochs"] == []
        assert (
            trial["score"] == best_epoch(history["epochs"])["valid_mean_ne"] == history["epochs"][-1]["valid_mean_ne"]
        )
        assert trial["seconds"] == history["train_seconds"] > 0
    best = load_experiment(out / "trees.toml")
    assert best.model.options == {"rounds": 60, "patience": 5} | {
        name.removeprefix("model."): value for name, value in of_trees["best"]["parameters"].items()
    }
    written = (out / "trees.toml").read_text()
    assert "of the trees that are kept: " in written and "[train]" not in written and "[optimizer]" not in written
    run("compare", out / "mine.toml", out / "trees.toml", "--data", prepared, "--out", tmp_path / "both", "--seeds", 1)
    again = json.loads((tmp_path / "both" / "runs" / "trees-seed0" / "history.json").read_text())
    assert again["epochs"][-1]["valid_mean_ne"] == of_trees["best"]["score"]  # bit by bit
    rows = json.loads((tmp_path / "both" / "leaderboard.json").read_text())["rows"]
    assert [row["experiment"] for row in rows] == ["mine", "trees"]


def test_epochs_are_the_business_of_those_that_have_some(prepared: Path, tmp_path: Path, make_experiment: Any) -> None:
    first, second, out = trees(SPACE), trees(SPACE, "more"), tmp_path / "out"

    def epochs() -> Any:
        kept = json.loads((out / "settings.json").read_text())["epochs"]
        assert json.loads((out / "tuning.json").read_text())["settings"]["epochs"] == kept
        return kept

    with pytest.raises(ConfigError, match="epochs should be at least 1, received 0"):
        tune([first], prepared, out, trials=1, epochs=0)
    tune([first], prepared, out, trials=1)
    assert epochs() is None
    tune([make_experiment(epochs=1)], prepared, out, trials=1)
    assert epochs() == 1
    tune([second], prepared, out, trials=1, epochs=7)
    assert epochs() == 1
    with pytest.raises(ConfigError, match="begun with epochs = 1, received 2"):
        tune([make_experiment(epochs=2)], prepared, out, trials=1)
    studies = json.loads((out / "tuning.json").read_text())["studies"]
    assert [study["experiment"] for study in studies] == ["mine", "more", "trees"]


def test_trees_are_never_given_up(tmp_path: Path, prepared: Path) -> None:
    search = plan_search(trees(SPACE), PreparedData(prepared).schema, trials=3, grid=False)
    settings = Settings(dataset="d", data_sha256="0", sampler="tpe", epochs=100, seed=0, prune=True)
    open_folder(tmp_path / "out", settings, (search,))
    study = Study(tmp_path / "out", open_storage(tmp_path / "out"), search, settings, 3)
    for number, score in enumerate((0.1, 0.2, 0.9)):
        held = study.claim()
        assert isinstance(held, Claim)
        study.report(number, [{"epoch": rounds, "valid_mean_ne": score} for rounds in (1, 9)], 2.0)
        assert not study.falls_behind(number) and not study.optuna.trials[number].intermediate_values
        study.finish(number, score)
        held.lock.close()


def test_what_only_devices_read_is_written(tmp_path: Path) -> None:
    plan = trees().model_copy(update={"train": TrainConfig(device="cpu")})
    (tmp_path / "trees.toml").write_text(experiment_toml(plan))
    assert load_experiment(tmp_path / "trees.toml").train == plan.train
    assert '[train]\ndevice = "cpu"\n' in experiment_toml(plan) and "epochs" not in experiment_toml(plan)


def test_without_a_score_no_trial_is_the_best() -> None:
    points = [{"epoch": 1, "valid_mean_ne": None}, {"epoch": 2, "valid_mean_ne": None}]
    with pytest.raises(DataError, match="VALID has one class at every step"):
        best_epoch(points)
    assert best_epoch([*points, {"epoch": 3, "valid_mean_ne": 0.5}])["epoch"] == 3
