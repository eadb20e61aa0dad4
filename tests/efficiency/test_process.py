"""A model's process: its answers, its errors, and its end."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.efficiency.process import MeasurementError, ModelProcess
from funnelcast.efficiency.worker import answer_words, explain_failure
from funnelcast.errors import ConfigError


def options(folder: Path, model: str = "esmm") -> dict[str, object]:
    train = TrainConfig(batch_size=64, device="cpu")
    experiment = Experiment(name="e", model=Component(name=model, options={"hidden": [4]}), train=train)
    return {
        "experiment": experiment.model_dump(mode="json"),
        "data": str(folder),
        "steps": 2,
        "threads": 1,
        "wall": False,
    }


@pytest.mark.slow
def test_a_process_answers_word_by_word(prepared: Path) -> None:
    with ModelProcess(options(prepared), {}) as process:
        facts = process.ask("start")
        assert (facts["train_rows"], facts["turn_rows"], facts["device"]) == (1000, 128, "cpu")
        assert facts["bytes"] == 4 * facts["parameters"]
        assert 0 < process.ask("train") < 60
        assert 0 < process.ask("score") < 60
        with pytest.raises(MeasurementError, match="KeyError: 'dance'"):
            process.ask("dance")
        assert process.ask("train") > 0  # it lives on


@pytest.mark.slow
def test_how_a_process_ended_is_told(prepared: Path) -> None:
    absent = ModelProcess(options(prepared), {}, module="funnelcast.nothing")
    with absent, pytest.raises(MeasurementError, match=r"ended with code 1: .*No module named funnelcast.nothing"):
        absent.ask("start")
    killed = ModelProcess(options(prepared), {})
    killed._process.kill()
    with killed, pytest.raises(MeasurementError, match="killed by the system, as happens where memory does not"):
        killed.ask("start")
    stopped = ModelProcess(options(prepared), {})
    stopped._process.terminate()
    with stopped, pytest.raises(MeasurementError, match="ended by SIGTERM: no word"):
        stopped.ask("start")


def test_every_word_gets_one_line() -> None:
    out = io.StringIO()

    def scarce() -> None:
        raise MemoryError

    answer_words(io.StringIO("one\ntwo\none\n"), out, {"one": lambda: {"a": 1}, "two": scarce})
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines == [{"value": {"a": 1}}, {"error": "memory does not suffice: MemoryError"}, {"value": {"a": 1}}]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("option 'x' is wrong"), "option 'x' is wrong"),
        (ValueError("bad\nsecond line"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (
            RuntimeError("can't allocate memory: 3 bytes"),
            "memory does not suffice: RuntimeError: can't allocate memory: 3 bytes",
        ),
        (RuntimeError("CUDA out of memory."), "memory does not suffice: RuntimeError: CUDA out of memory."),
    ],
)
def test_failures_are_one_line(error: Exception, text: str) -> None:
    assert explain_failure(error) == text
