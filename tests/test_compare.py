"""A comparison: what is taken from an earlier call, what is found at once, and how it stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from funnelcast.compare import compare
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.evaluate import evaluate
from funnelcast.run import Run


def experiment(name: str = "esmm", **options: Any) -> Experiment:
    config = TrainConfig(epochs=1, batch_size=256, device="cpu")
    return Experiment(name=name, model=Component(name=name, options={"hidden": [4], **options}), train=config)


def test_a_report_of_valid_is_not_taken_for_one_of_test(prepared: Path, tmp_path: Path) -> None:
    plans, out = [experiment("single_task"), experiment("esmm")], tmp_path / "out"
    board = compare(plans, prepared, out, seeds=1)
    for name in ("single_task", "esmm"):
        evaluate(Run(out / "runs" / f"{name}-seed0"), PreparedData(prepared), Split.VALID)
    again = compare(plans, prepared, out, seeds=1)
    assert again["split"] == board["split"] == "test"
    assert [row["steps"] for row in again["rows"]] == [row["steps"] for row in board["rows"]]


def test_a_report_on_other_data_is_not_taken(prepared: Path, make_prepared: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    board = compare([experiment()], prepared, out, seeds=1)
    other = PreparedData(make_prepared("other", seed=8))
    evaluate(Run(out / "runs" / "esmm-seed0"), other)
    assert compare([experiment()], prepared, out, seeds=1)["rows"][0]["steps"] == board["rows"][0]["steps"]


def test_an_evaluation_that_was_killed_is_made_again(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def killed(_scores: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("funnelcast.evaluate.funnel_curves", killed)
        with pytest.raises(KeyboardInterrupt):
            compare([experiment()], prepared, out, seeds=1)
    compare([experiment()], prepared, out, seeds=1)
    assert json.loads((out / "runs" / "esmm-seed0" / "curves.json").read_text())["steps"]


def test_intervals_and_tests_come_from_the_saved_scores(prepared: Path, tmp_path: Path) -> None:
    plans, out = [experiment("single_task"), experiment("esmm")], tmp_path / "out"
    board = compare(plans, prepared, out, seeds=2)
    first, second = (row["steps"][0]["reach"]["auc"] for row in board["rows"])
    assert first["interval"][0] < first["mean"] < first["interval"][1]
    assert (first["test"]["against"], second["test"]["against"]) == ("esmm", "single_task")
    assert first["test"]["difference"] == pytest.approx(first["mean"] - second["mean"])
    assert 0 <= first["test"]["delong_p"] == second["test"]["delong_p"] <= first["test"]["holm_p"]
    assert board["statistics"] == {"alpha": 0.05, "resamples": 1000, "clusters": "user"}
    assert json.loads((out / "leaderboard.json").read_text()) == board
    assert "single\\_task" in (out / "leaderboard.tex").read_text()
    assert board["power"][0]["sentence"] in (out / "leaderboard.md").read_text().replace("With", "with")


def test_a_run_without_saved_scores_is_evaluated_again(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    board = compare([experiment()], prepared, out, seeds=1)
    scores = out / "runs" / "esmm-seed0" / "scores.safetensors"
    scores.unlink()  # as a version that kept none left it
    again = compare([experiment()], prepared, out, seeds=1)
    assert scores.is_file()
    assert again["rows"][0]["steps"] == board["rows"][0]["steps"]


def test_a_wrong_option_is_found_before_the_first_training(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option 'hiden'"):
        compare([experiment(), experiment("single_task", hiden=[3])], prepared, tmp_path / "out", seeds=1)
    wrong = experiment("single_task").model_copy(
        update={"losses": (Component(name="reach_bce", options={"step_weights": [1.0]}),)}
    )
    with pytest.raises(ConfigError, match="a list of 2"):
        compare([experiment(), wrong], prepared, tmp_path / "out", seeds=1)
    assert not (tmp_path / "out").exists()


def test_another_experiment_of_the_same_name_is_refused(prepared: Path, tmp_path: Path) -> None:
    compare([experiment()], prepared, tmp_path / "out", seeds=1)
    with pytest.raises(ConfigError, match=r"esmm-seed0: cannot go on, the run there has another experiment"):
        compare([experiment(width=3)], prepared, tmp_path / "out", seeds=1)


@pytest.fixture
def started(prepared: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A comparison of five endless experiments, two at a time, that has just written its first two checkpoints."""
    for number in range(5):
        (tmp_path / f"plan{number}.toml").write_text(
            "[model]\nname = 'esmm'\n[train]\nepochs = 100000\nbatch_size = 64\npatience = 0\ncheckpoint_steps = 10\n"
        )
    command = [sys.executable, "-m", "funnelcast", "compare", *map(str, sorted(tmp_path.glob("plan*.toml")))]
    command += ["--data", str(prepared), "--out", str(tmp_path / "out"), "--seeds", "1", "--jobs", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 100
        while len(list((tmp_path / "out").glob("runs/*/checkpoint.json"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of the group have ended, as they should
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_ctrl_c_begins_no_waiting_training(started: subprocess.Popen[bytes], tmp_path: Path) -> None:
    os.killpg(started.pid, signal.SIGINT)  # what a terminal does
    assert started.wait(timeout=60) == 130
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2


@pytest.mark.slow
def test_no_training_outlives_a_killed_comparison(started: subprocess.Popen[bytes], tmp_path: Path) -> None:
    started.kill()
    started.wait()
    deadline = time.monotonic() + 60
    for folder in (tmp_path / "out" / "runs").iterdir():
        while True:
            try:
                with Run(folder).lock():
                    break
            except ArtifactError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert (folder / "checkpoint.json").exists()
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2
