"""The pages of a simulated A/B test, and its command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from funnelcast.cli import main
from funnelcast.experiment.simulate import Plan, simulate
from funnelcast.experiment.simulation_page import daily_curves, summary_lines, to_markdown, to_rich_table
from funnelcast.experiment.traffic import Traffic

from .conftest import MakeRun

SMALL = Traffic(days=2, users=80, candidates=8)


def test_the_table_says_what_the_record_holds(make_run: MakeRun) -> None:
    record = simulate((make_run(), make_run("shared_bottom")), Plan(SMALL, show=2))
    text = to_markdown(record)
    cart = record["steps"][1]
    low, high = cart["lift"]["interval"]
    assert f"{cart['lift']['value'] * 100:+.2f} % [{low * 100:+.2f}, {high * 100:+.2f}]" in text
    assert f"{cart['rates']['oracle']['value'] * 100:.3f} ±" in text
    assert "| a showing | A: logistic-2 | B: shared\\_bottom-2 |" in text
    assert "| a showing | day 1 | day 2 |" in text
    assert "2 of 8 candidates shown by reach of cart; users split by hash" in text
    console = Console(width=250)
    with console.capture() as captured:
        console.print(to_rich_table(record))
    assert f"{cart['lift']['expected'] * 100:+.2f} %" in captured.get()


def test_the_words_name_the_split_and_what_is_missing(make_run: MakeRun) -> None:
    run = make_run(seed=5)
    lines = summary_lines(simulate((run, run), Plan(SMALL)))
    assert lines[0].startswith("users of A and B: ") and "as planned" in lines[0]
    assert lines[1].startswith("of the way from random to oracle ranking")
    assert lines[2] == f"no TEST reach AUC in the report of {run.folder} and {run.folder}; see 'funnelcast evaluate'"
    paired = summary_lines(simulate((run, run), Plan(SMALL, paired=True)))
    assert "cart: no interval of the lift: the two arms do not differ in any cluster" in paired


def test_the_figure_is_a_document_with_a_panel_a_step(make_run: MakeRun) -> None:
    plan = Plan(SMALL, values={"click": 1.0, "cart": 5.0})
    root = ElementTree.fromstring(daily_curves(simulate((make_run(), make_run()), plan)))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"click", "cart", "value", "A: logistic-2", "day"} <= set(texts)
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 3
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids))


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["funnelcast", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_writes_json_markdown_and_a_figure(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(model).folder) for model in ("logistic", "shared_bottom")]
    options = ["--days", "2", "--users", "60", "--candidates", "6", "--rank-by", "click", "--seed", "3"]
    assert command(monkeypatch, "abtest", "simulate", *runs, *options, "--out", str(tmp_path / "out")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["abtest.json", "abtest.md", "abtest.svg"]
    record = json.loads((tmp_path / "out" / "abtest.json").read_text())
    assert (record["format"], record["days"], record["show"], record["rank_by"]) == (1, 2, 5, "click")
    assert "users of A and B" in capsys.readouterr().out
    options = ["--days", "1", "--users", "60", "--candidates", "3", "--value", "click=1", "--value", "cart=5"]
    assert command(monkeypatch, "abtest", "simulate", *runs, *options) == 0
    assert "expected value" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--days", "0"], "days should be at least 1, received 0"),
        (["--candidates", "0"], "candidates should be at least 1, received 0"),
        (["--rank-by", "buy"], "unknown step 'buy'"),
        (["--value", "click"], "--value should be step=number, received 'click'"),
        (["--show", "60"], "at most the 50 candidates, received 60"),
    ],
)
def test_wrong_options_are_one_clear_error(
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    run = str(make_run().folder)
    assert command(monkeypatch, "abtest", "simulate", run, run, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
