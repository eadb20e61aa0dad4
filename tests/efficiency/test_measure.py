"""Several models in turns: the record, failures beside successes, and wrong options."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from funnelcast.cli import main
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.efficiency import measure as module
from funnelcast.efficiency.measure import measure
from funnelcast.efficiency.page import speed_curves, to_markdown, to_rich_table, write_efficiency
from funnelcast.efficiency.process import MeasurementError
from funnelcast.errors import ConfigError


def experiment(name: str, model: str = "esmm") -> Experiment:
    return Experiment(name=name, model=Component(name=model), train=TrainConfig(batch_size=64, device="cpu"))


class FakeProcess:
    """Answers with times from a list, and notes who was asked what."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012
    environments: list[dict[str, str]] = []  # noqa: RUF012
    seconds: dict[str, list[float]] = {}  # noqa: RUF012
    process_bytes: int | None = 1000

    def __init__(self, options: dict[str, Any], environment: dict[str, str]) -> None:
        self.name, self.wall = options["experiment"]["name"], options["wall"]
        self.times = list(self.seconds.get(self.name, [1.0] * 20))
        FakeProcess.environments.append(environment)

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, word: str) -> Any:
        self.asked.append((self.name, word))
        if self.name == f"bad-{word}":
            raise MeasurementError(f"no {word} today")
        facts = {
            "unit": "fit" if self.name == "trees" else "epoch",
            "parameters": 7,
            "bytes": 28,
            "device": "cpu",
            "train_rows": 300,
            "turn_rows": 100,
        }
        peaks = {"peak_bytes": 2048, "score_peak_bytes": None, "score_peak_bytes_reason": "because"}
        if word == "peaks":
            return facts | peaks | {"process_bytes": self.process_bytes}
        return facts if word == "start" else self.times.pop(0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    monkeypatch.setattr(module, "ModelProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "asked", [])
    monkeypatch.setattr(FakeProcess, "environments", [])
    return FakeProcess


def test_models_take_turns_and_the_median_counts(
    prepared: Path, fake: type[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    # train and score alternate, so that train takes 1, 4, 2 seconds and score 0.5 each
    monkeypatch.setattr(FakeProcess, "seconds", {"a": [1.0, 0.5, 4.0, 0.5, 2.0, 0.5]})
    record = measure([experiment("a"), experiment("b")], prepared, steps=5, turns=3)
    assert fake.asked[:2] == [("a", "peaks"), ("b", "peaks")]
    assert fake.asked[2:4] == [("a", "start"), ("b", "start")]
    assert fake.asked[4:] == [("a", "train"), ("b", "train"), ("a", "score"), ("b", "score")] * 3
    row = record["rows"][0]
    assert row["train_rows_per_second"] == 50 and row["train_rows_per_second_interval"] == [25, 100]
    assert row["seconds_per_epoch"] == 6 and row["seconds_per_epoch_interval"] == [3, 12]
    assert row["score_rows_per_second"] == 200 and row["score_rows_per_second_interval"] == [200, 200]
    assert (row["experiment"], row["model"], row["parameters"], row["bytes"], row["peak_bytes"]) == (
        "a",
        "esmm",
        7,
        28,
        2048,
    )
    assert row["score_peak_bytes"] is None and row["score_peak_bytes_reason"] == "because"
    assert (record["format"], record["clock"], record["failures"]) == (1, "cpu", [])
    # freed memory goes back where peaks are read, and stays as the command line has it where time is
    assert ["MALLOC_MMAP_MAX_" in environment for environment in fake.environments] == [True, True, False, False]


def test_a_fit_is_timed_as_a_whole_and_has_no_epoch(
    prepared: Path, fake: type[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProcess, "seconds", {"trees": [4.0, 0.5, 2.0, 0.5, 8.0, 0.5]})
    record = measure([experiment("a"), experiment("trees", "lightgbm")], prepared, turns=3)
    row = record["rows"][1]
    assert row["seconds_per_fit"] == 4 and row["seconds_per_fit_interval"] == [2, 8]  # of all 300 rows, not of 100
    assert row["train_rows_per_second"] == 75 and row["train_rows_per_second_interval"] == [37.5, 150]
    assert row["score_rows_per_second"] == 200 and row["batch_size"] is None
    assert "seconds_per_epoch" not in row and record["rows"][0]["batch_size"] == 64
    text = to_markdown(record)
    assert "| experiment | epoch, CPU s | whole fit, CPU s | train rows/s |" in text
    assert "| trees | - | **4 [2, 8]** | 75 [38, 150] | **200 [200, 200]** |" in text
    assert "| a | **3 [3, 3]** | - | **100 [100, 100]** |" in text and "trees have no epoch" in text
    record["rows"][1]["train_rows_per_second"] = 1e6  # trees are never the best of a column of epochs
    assert "| **100 [100, 100]** |" in to_markdown(record)
    assert "2: trees (whole fit)" in speed_curves(record)
    alone = to_markdown(record | {"rows": record["rows"][:1]})
    assert "whole fit" not in alone and "trees" not in alone


def test_more_threads_are_timed_by_the_wall(prepared: Path, fake: type[FakeProcess]) -> None:
    record = measure([experiment("a")], prepared, turns=1, threads=2)
    assert (record["clock"], record["threads"], record["environment"]["threads"]) == ("wall", 2, 2)
    assert all(environment["OMP_NUM_THREADS"] == "2" for environment in fake.environments)


@pytest.mark.parametrize("word", ["peaks", "start", "train", "score"])
def test_a_failure_leaves_the_others_alone(prepared: Path, fake: type[FakeProcess], word: str) -> None:
    lines: list[str] = []
    plans = [experiment("a"), experiment(f"bad-{word}", "mmoe"), experiment("c")]
    record = measure(plans, prepared, turns=2, announce=lines.append)
    assert [row["experiment"] for row in record["rows"]] == ["a", "c"]
    assert record["failures"] == [{"experiment": f"bad-{word}", "model": "mmoe", "reason": f"no {word} today"}]
    assert f"bad-{word}: failed: no {word} today" in lines
    assert fake.asked.count((f"bad-{word}", word)) == 1  # it is not asked again
    assert f"bad-{word} failed: no {word} today" in to_markdown(record)


def test_all_may_fail(prepared: Path, fake: type[FakeProcess], tmp_path: Path) -> None:
    record = measure([experiment("bad-peaks")], prepared)
    assert record["rows"] == [] and len(record["failures"]) == 1
    write_efficiency(record, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["efficiency.json", "efficiency.md"]


def test_want_of_memory_is_found_before_all_stand_side_by_side(
    prepared: Path, fake: type[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda: 1500)
    with pytest.raises(ConfigError, match=r"hold 2 models side by side, which take 2\.0 kB, but 1\.5 kB are available"):
        measure([experiment("a"), experiment("b")], prepared)
    assert ("a", "start") not in fake.asked
    assert len(measure([experiment("a")], prepared)["rows"]) == 1
    monkeypatch.setattr(FakeProcess, "process_bytes", None)
    assert len(measure([experiment("a"), experiment("b")], prepared)["rows"]) == 2


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a", "a"], {}, "unique and at least one, received: a"),
        ([], {}, "unique and at least one, received: "),
        (["a"], {"steps": 0}, "steps should be at least 1, received 0"),
        (["a"], {"turns": 0}, "turns should be at least 1, received 0"),
        (["a"], {"threads": -1}, "threads should be at least 1, received -1"),
    ],
)
def test_wrong_options_are_refused(prepared: Path, names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure([experiment(name) for name in names], prepared, **options)


def test_pages_hold_the_numbers(prepared: Path, fake: type[FakeProcess], tmp_path: Path) -> None:
    record = measure([experiment("a_1"), experiment("b")], prepared, turns=2)
    text = to_markdown(record)
    assert "| a\\_1 | 3 [3, 3] | 100 [100, 100] | 100 [100, 100] | 7 | 28B | 2.0 kB | undefined |" in text
    assert "CPU time, 1 thread" in text
    console = Console(width=200)
    with console.capture() as captured:
        console.print(to_rich_table(record))
    assert "a_1" in captured.get() and "2.0 kB" in captured.get()
    write_efficiency(record, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "efficiency.json").read_text()) == record
    root = ElementTree.fromstring((tmp_path / "out" / "efficiency.svg").read_text())
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Training", "Scoring", "parameters", "1: a_1", "2: b"} <= set(texts)


@pytest.mark.slow
def test_the_command_measures_real_models(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "[train]\nbatch_size = 64\ndevice = 'cpu'\n[model]\n"
    (tmp_path / "small.toml").write_text(f"{head}name = 'esmm'\nhidden = [4]\n")
    (tmp_path / "wrong.toml").write_text(f"{head}name = 'esmm'\nhiden = [4]\n")
    (tmp_path / "huge.toml").write_text(f"{head}name = 'esmm'\nhidden = [10000000, 1000000]\n")
    (tmp_path / "trees.toml").write_text("[model]\nname = 'lightgbm'\nrounds = 5\nnum_leaves = 4\n")
    files = [str(tmp_path / f"{name}.toml") for name in ("small", "wrong", "huge", "trees")]
    out = ["--data", str(prepared), "--out", str(tmp_path / "out"), "--steps", "3", "--turns", "3"]
    monkeypatch.setattr(sys, "argv", ["funnelcast", "efficiency", *files, *out])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "all 4 experiments should be measured, but 2 failed" in captured.err
    record = json.loads((tmp_path / "out" / "efficiency.json").read_text())
    reasons = {failure["experiment"]: failure["reason"] for failure in record["failures"]}
    assert "no option 'hiden'; did you mean 'hidden'" in reasons["wrong"]
    assert reasons["huge"].startswith("memory does not suffice")
    row, trees = record["rows"]
    assert (trees["unit"], trees["train_rows"], trees["turn_rows"]) == ("fit", 1000, 3 * 1024 - 72)
    assert trees["parameters"] <= 2 * 5 * 4 and trees["bytes"] > 100 * trees["parameters"]
    assert trees["seconds_per_fit"] == pytest.approx(statistics.median(trees["turn_seconds"]["train"]))
    assert row["experiment"] == "small" and row["turn_rows"] == 3 * 64
    assert len(row["turn_seconds"]["train"]) == len(row["turn_seconds"]["score"]) == 3
    speeds = [row["turn_rows"] / seconds for seconds in row["turn_seconds"]["train"]]
    assert row["train_rows_per_second"] == pytest.approx(statistics.median(speeds))
    assert row["seconds_per_epoch"] == pytest.approx(1000 / statistics.median(speeds))
