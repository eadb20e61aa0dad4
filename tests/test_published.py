"""Published results: what the file says, and the commands that put them beside ours on files of the true layouts."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from funnelcast.cli import main
from funnelcast.published import HEADING, PublishedTable, published, published_markdown, published_table, tables
from funnelcast.registry import MODELS

from .datasets.test_ali_ccp import feature_list
from .datasets.test_aliexpress import write as write_aliexpress

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# Models of other libraries that funnelcast does not have.
FOREIGN = {"omoe", "metaheac"}


def test_table_3_of_the_paper_and_its_gains() -> None:
    """The paper's own gains over Single-Task, worked out by it, agree with the values that stand here."""
    (table,) = [table for table in tables() if table.source.startswith("APEM paper")]
    gains = {
        "shared_bottom": (0.15, 3.56),
        "mmoe": (1.45, 3.53),
        "ple": (1.74, 5.72),
        "aitm": (0.72, 6.32),
        "esmm": (1.71, 5.36),
        "escm2": (1.05, 4.11),
        "apem": (1.79, 7.07),
    }
    base = table.values["single_task"]
    for model, expected in gains.items():
        own = [(value / start - 1) * 100 for value, start in zip(table.values[model], base, strict=True)]
        assert own == pytest.approx(expected, abs=0.006), model


def test_every_table_names_models_and_probabilities() -> None:
    keys = [(table.dataset, table.protocol, table.source) for table in tables()]
    assert len(set(keys)) == len(keys) == 6
    for table in tables():
        assert set(table.values) <= {*MODELS.names(), *FOREIGN}
        assert all(0.5 < value < 1 for values in table.values.values() for value in values)
        assert table.note


def test_only_the_same_protocol_and_steps_match() -> None:
    assert len(published("ali_ccp", "aitm", ["click", "purchase"])) == 12
    assert published("ali_ccp", "aitm", ["purchase", "click"]) == []
    assert published("ali_ccp", "other", ["click", "purchase"]) == []
    assert published("synthetic", None, ["click"]) == []
    row = next(row for row in published("aliexpress_us", "official_split", ["click", "conversion"]))
    assert row["model"] == "single_task" and row["source"].startswith("Multitask-Recommendation-Library")
    assert row["steps"][1] == {"name": "conversion", "space": "reach", "metric": "auc", "value": 0.8637}


def test_a_model_has_one_value_a_step() -> None:
    table = tables()[0].model_dump() | {"values": {"esmm": (0.6,)}}
    with pytest.raises(ValidationError, match="'esmm' should have 2 values, received 1"):
        PublishedTable.model_validate(table)


def test_nothing_is_written_where_nothing_was_published() -> None:
    boards: list[dict[str, Any]] = [{}, {"published": []}]
    for board in boards:
        assert published_markdown(board) == "" and published_table(board) is None


def test_both_formats_say_whose_numbers_they_are() -> None:
    board = {"published": published("ali_ccp", "aitm", ["click", "purchase"])}
    text = published_markdown(board)
    assert text.splitlines()[1] == f"**{HEADING}.**"
    assert "| model | click reach AUC | purchase reach AUC | source |" in text
    assert "| apem\\_without\\_asrg | 0.6178 | 0.6379 | APEM paper, tables 3 and 4 |" in text
    assert "PaddleRec, its run of AITM: One run." in text
    table = published_table(board)
    assert table is not None and table.row_count == 12
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    assert HEADING in console.export_text()


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["funnelcast", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0


def write_ali_ccp(folder: Path, rows: int) -> None:
    """Four files in the raw layout: 18 fields, a user's features in the common file, and rows with a purchase alone."""
    draw = random.Random(3)
    folder.mkdir()
    own, common = ("205", "206", "207", "216", "508", "509", "702", "853", "301"), ("101", "121", "122", "124", "129")
    for part in ("train", "test"):
        keys = [f"{draw.getrandbits(64):016x}" for _ in range(30)]
        shared = [(key, feature_list([(f, f"{f}{draw.randrange(4)}") for f in common])) for key in keys]
        samples = []
        for number in range(rows):
            item = draw.randrange(9)
            click = draw.random() < 0.2 + 0.05 * item
            buy = draw.random() < (0.4 if click else 0.02)
            listed = feature_list([(f, f"{f}{item if f == '205' else draw.randrange(6)}") for f in own])
            samples.append(f"{number},{click:d},{buy:d},{draw.choice(keys)},9,{listed}\n")
        (folder / f"sample_skeleton_{part}.csv").write_text("".join(samples), encoding="utf-8")
        lines = "".join(f"{key},{len(common)},{listed}\n" for key, listed in shared)
        (folder / f"common_features_{part}.csv").write_text(lines, encoding="utf-8")


def check(out: Path, protocol: str, models: list[str]) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert board["protocol"] == protocol
    assert [row["experiment"] for row in board["rows"]] == models
    assert HEADING in (out / "leaderboard.md").read_text(encoding="utf-8")
    report = json.loads((out / "runs" / f"{models[0]}-seed0" / "report.json").read_text(encoding="utf-8"))
    assert report["protocol"] == protocol
    return board


@pytest.mark.slow
def test_the_commands_of_ali_ccp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ali_ccp(tmp_path / "raw", 700)
    data, out = tmp_path / "data", tmp_path / "out"
    run(monkeypatch, "prepare", "ali_ccp", data, "--source", tmp_path / "raw", "--set", "protocol=aitm")
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["audit"]["action"] == "drop" and manifest["audit"]["rows"] > 0
    files = [EXPERIMENTS / "ali_ccp" / f"{name}.toml" for name in ("single_task", "shared_bottom")]
    run(monkeypatch, "compare", *files, "--data", data, "--out", out, "--seeds", "1", "--set", "train.epochs=1")
    board = check(out, "aitm", ["single_task", "shared_bottom"])
    assert len(board["published"]) == 12
    printed = capsys.readouterr().out
    assert HEADING in printed and "0.6436" in printed


@pytest.mark.slow
def test_the_commands_of_aliexpress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_aliexpress(tmp_path / "raw" / "AliExpress_NL", train=800, test=200)
    data, out = tmp_path / "data", tmp_path / "out"
    run(monkeypatch, "prepare", "aliexpress", data, "--source", tmp_path / "raw", "--set", "country=NL")
    files = [EXPERIMENTS / "aliexpress" / f"{name}.toml" for name in ("single_task", "esmm")]
    run(monkeypatch, "compare", *files, "--data", data, "--out", out, "--seeds", "1", "--set", "train.epochs=1")
    board = check(out, "official_split", ["single_task", "esmm"])
    assert [row["model"] for row in board["published"]] == [
        *("single_task", "shared_bottom", "omoe", "mmoe", "ple", "aitm", "metaheac")
    ]
