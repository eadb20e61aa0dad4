"""Kills, Ctrl-C and two commands at once: nothing is lost, repeated or trained beyond the budget."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from funnelcast.config import load_experiment
from funnelcast.data.shards import PreparedData
from funnelcast.space import identity
from funnelcast.train import fit
from funnelcast.tuning.work import best_epoch

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.slow


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


def finished(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob("mine/trial-*/manifest.json")]


def check_budget(out: Path, trials: int) -> list[dict[str, Any]]:
    """What holds however often the search was stopped."""
    (study,) = json.loads((out / "tuning.json").read_text())["studies"]
    found: list[dict[str, Any]] = study["trials"]
    assert study["finished"] == trials == len(found) and study["failed"] == 0
    assert len({identity(trial["parameters"]) for trial in found}) == trials
    assert sorted(path.name for path in (out / "mine").glob("trial-*")) == sorted(f"trial-{n}" for n in range(trials))
    for trial in found:
        assert trial["state"] in ("finished", "pruned") and trial["epochs"]
    return found


def test_a_killed_search_goes_on_and_ends_as_an_unbroken_one(start: Start, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    end(start("--trials", "4"))
    unbroken = check_budget(out, 4)
    out.rename(tmp_path / "unbroken")

    process = start("--trials", "4")
    wait_for(process, lambda: (out / "mine" / "trial-0" / "checkpoint.json").exists())
    process.kill()
    process.communicate()
    step = json.loads((out / "mine" / "trial-0" / "checkpoint.json").read_text())["state"]["step"]
    assert step >= 20 and not finished(out)

    process = start("--trials", "4")
    wait_for(process, lambda: len(finished(out)) >= 1 and (out / "mine" / "trial-1" / "checkpoint.json").exists())
    process.kill()
    process.communicate()
    kept = {path.name: (path / "run.json").stat().st_mtime_ns for path in finished(out)}
    assert "trial-0" in kept

    text = end(start("--trials", "4"))
    assert "trial 0" not in text.split("\nVALID")[0]
    trials = check_budget(out, 4)
    assert all((out / "mine" / name / "run.json").stat().st_mtime_ns == at for name, at in kept.items())
    for trial, former in zip(trials, unbroken, strict=True):
        assert trial | {"seconds": 0} == former | {"seconds": 0}
    run = fit(tmp_path / "again", PreparedData(prepared), load_experiment(out / "mine.toml"))
    epochs = json.loads((run.folder / "history.json").read_text())["epochs"]
    assert best_epoch(epochs)["valid_mean_ne"] == min(t["score"] for t in trials if t["state"] == "finished")


def test_two_commands_and_their_workers_share_one_study(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = start("--trials", "5", "--workers", "2")
    two = start("--trials", "5", "--workers", "2")
    texts = [end(one), end(two)]
    trials = check_budget(out, 5)
    lines = [line for text in texts for line in text.splitlines() if line.startswith("mine trial ")]
    assert sorted(line.split()[2] for line in lines) == [f"{number}:" for number in range(5)]
    assert trials[0]["state"] == "finished"


def test_a_killed_worker_is_named_and_its_trial_taken_up(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("--trials", "3", "--workers", "2")
    wait_for(process, lambda: len([*out.glob("mine/trial-*/checkpoint.json")]) == 2)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2 and "a process that trained was killed" in error
    end(start("--trials", "3"))
    check_budget(out, 3)


def test_ctrl_c_leaves_a_checkpoint_and_names_the_command(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("--trials", "2")
    wait_for(process, lambda: (out / "mine" / "trial-0" / "checkpoint.json").exists())
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130 and "stopped; go on with: funnelcast tune" in error
    assert (out / "mine" / "trial-0" / "checkpoint.json").exists()
    end(start("--trials", "2"))
    check_budget(out, 2)
