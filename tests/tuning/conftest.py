"""Small experiments with a small space, and the command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from funnelcast.config import Component, Experiment, TrainConfig, TuneConfig

MakeExperiment = Callable[..., Experiment]
Start = Callable[..., "subprocess.Popen[str]"]
SPACE = {"model.hidden": [[4], [6], [4, 3]], "train.batch_size": [64, 128], "others": False}


@pytest.fixture
def make_experiment() -> MakeExperiment:
    """Return a function that makes an experiment of one small network a step."""

    def make(name: str = "mine", space: dict[str, Any] = SPACE, **train: Any) -> Experiment:
        config = TrainConfig(**{"epochs": 2, "batch_size": 128, "patience": 0, "device": "cpu", **train})
        model = Component(name="single_task", options={"hidden": [4], "width": 2})
        return Experiment(name=name, model=model, train=config, tune=TuneConfig.model_validate(space))

    return make


@pytest.fixture
def start(prepared: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `funnelcast tune` on an experiment that takes a while; none outlives the test."""
    (tmp_path / "mine.toml").write_text(
        '[model]\nname = "single_task"\nhidden = [4]\nwidth = 2\n'
        '[train]\nepochs = 3\nbatch_size = 16\npatience = 0\ndevice = "cpu"\ncheckpoint_steps = 20\n'
        '[tune]\n"model.hidden" = [[4], [6], [4, 3]]\n"train.batch_size" = [16, 8]\n'
        '"train.learning_rate" = { kind = "log_uniform", low = 1e-4, high = 1e-2 }\nothers = false\n'
    )
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "funnelcast", "tune", str(tmp_path / "mine.toml"), "--data", str(prepared)]
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "out"), *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
