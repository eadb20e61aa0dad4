"""The leaderboard and its writers, with numbers worked by hand."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from funnelcast.errors import DataError
from funnelcast.leaderboard import build_leaderboard, error_table, summary, to_csv, to_json, to_markdown, to_rich_table
from funnelcast.tables import columns, footnotes

STEPS = ("click", "cart", "buy")


def make_report(
    experiment: str, model: str, seed: int, aucs: tuple[float | None, ...], steps: tuple[str, ...] = STEPS
) -> dict[str, Any]:
    """A report whose transition AUC is 0.1 below its reach AUC."""

    def space(auc: float | None, i: int, rows: int) -> dict[str, Any]:
        return {
            "rows": rows,
            "positives": 100 - 30 * i,
            "auc": auc,
            **({"auc_reason": "only one class: 0 positives of 9 rows"} if auc is None else {}),
            "ne": 0.9 + 0.01 * i,
            "pcoc": 1.0 + 0.1 * seed,
            "error": {"explained_variance": 0.5, "bias": 0.01},
        }

    return {
        "format": 1,
        "experiment": experiment,
        "model": model,
        "dataset": "shop",
        "split": "test",
        "seed": seed,
        "rows": 1000,
        "parameters": {"single_task": 1_530_000, "ple": 1_700_000}.get(model, 99),
        "train_rows_per_second": 85_000.0 + 1000 * seed,
        "score_rows_per_second": 400_000.0,
        "train_seconds": 12.0 + seed,
        "epochs": 2,
        "best_epoch": 1,
        "steps": [
            {
                "name": name,
                "rows": 1000,
                "positives": 100 - 30 * i,
                "reach": space(auc, i, 1000),
                "transition": space(None if auc is None else auc - 0.1, i, 1000 if i == 0 else 130 - 30 * i),
            }
            for i, (name, auc) in enumerate(zip(steps, aucs, strict=True))
        ],
    }


@pytest.fixture
def reports() -> list[dict[str, Any]]:
    return [
        make_report("alone", "single_task", 1, (0.60, 0.70, 0.80)),
        make_report("ple-small", "ple", 1, (0.66, 0.70, 0.72)),
        make_report("alone", "single_task", 0, (0.62, 0.70, 0.84)),
        make_report("ple-small", "ple", 0, (0.64, 0.74, None)),
    ]


def test_summary_by_hand() -> None:
    two = summary([0.6, 0.62])
    assert two["std"] == pytest.approx(0.02 / 2**0.5)
    # t of one degree of freedom: tan(0.95 pi / 2) = 12.706; std / sqrt(2) = 0.01.
    assert two["interval"] == [pytest.approx(0.61 - 0.12706, abs=1e-5), pytest.approx(0.61 + 0.12706, abs=1e-5)]
    assert summary([0.6]) == {"mean": 0.6, "std": None, "values": [0.6], "undefined": 0, "interval": None}
    nothing = {"mean": None, "std": None, "values": [None, None], "undefined": 2, "interval": None}
    assert summary([None, None]) == nothing


def test_rows_keep_the_order_given_and_seeds_are_sorted(reports: list[dict[str, Any]]) -> None:
    board = build_leaderboard(reports)
    assert (board["format"], board["dataset"], board["split"], board["row_count"]) == (1, "shop", "test", 1000)
    assert (board["seeds"], board["baseline"]) == ([0, 1], "alone")
    assert [(row["experiment"], row["model"], row["runs"]) for row in board["rows"]] == [
        ("alone", "single_task", 2),
        ("ple-small", "ple", 2),
    ]
    alone = board["rows"][0]
    assert alone["steps"][0]["reach"]["auc"]["values"] == [0.62, 0.60]
    assert alone["steps"][0]["reach"]["auc"]["mean"] == pytest.approx(0.61)
    assert alone["steps"][0]["transition"]["auc"]["mean"] == pytest.approx(0.51)
    assert alone["steps"][0]["reach"]["pcoc"]["mean"] == pytest.approx(1.05)
    assert alone["steps"][2]["reach"]["error"]["bias"]["mean"] == pytest.approx(0.01)
    assert alone["train_rows_per_second"] == 85_500
    assert board["funnel"][2] == {
        "name": "buy",
        "rows": 1000,
        "positives": 40,
        "local_rows": 70,
        "local_positives": 40,
    }


def test_t32_undefined_values_are_left_out_with_a_count(reports: list[dict[str, Any]]) -> None:
    buy = build_leaderboard(reports)["rows"][1]["steps"][2]["reach"]
    assert [buy["auc"][key] for key in ("mean", "std", "values", "undefined")] == [0.72, None, [None, 0.72], 1]


def test_gain_is_relative_to_single_task_in_percent(reports: list[dict[str, Any]]) -> None:
    ple = build_leaderboard(reports)["rows"][1]["steps"]
    assert ple[0]["reach"]["auc_gain"] == pytest.approx((0.65 / 0.61 - 1) * 100)
    assert ple[0]["transition"]["auc_gain"] == pytest.approx((0.55 / 0.51 - 1) * 100)
    without = build_leaderboard([report for report in reports if report["model"] != "single_task"])
    assert without["baseline"] is None
    assert without["rows"][0]["steps"][0]["reach"]["auc_gain"] is None


def test_the_baseline_may_be_named(reports: list[dict[str, Any]]) -> None:
    board = build_leaderboard(reports, baseline="ple-small")
    alone, own = board["rows"]
    assert board["baseline"] == "ple-small" and own["steps"][0]["reach"]["auc_gain"] == 0.0
    assert alone["steps"][0]["reach"]["auc_gain"] == pytest.approx((0.61 / 0.65 - 1) * 100)
    with pytest.raises(DataError, match=r"an experiment of the table, received 'ple-smal'; did you mean 'ple-small'"):
        build_leaderboard(reports, baseline="ple-smal")


def test_gain_agrees_with_the_table_of_the_paper() -> None:
    """Table 3, Ali-CCP: Single-Task 0.6089 / 0.6011, APEM 0.6198 / 0.6436, gains 1.79 % and 7.07 %."""
    board = build_leaderboard(
        [
            make_report("single", "single_task", 0, (0.6089, 0.6011), ("click", "buy")),
            make_report("apem", "apem", 0, (0.6198, 0.6436), ("click", "buy")),
        ]
    )
    click, buy = board["rows"][1]["steps"]
    assert round(click["reach"]["auc_gain"], 2) == 1.79
    assert round(buy["reach"]["auc_gain"], 2) == 7.07


def test_reports_that_do_not_belong_together_are_refused(reports: list[dict[str, Any]]) -> None:
    def changed(**keys: Any) -> list[dict[str, Any]]:
        return [*reports, {**make_report("apem", "apem", 0, (0.6, 0.7, 0.8)), **keys}]

    with pytest.raises(DataError, match="needs at least one report"):
        build_leaderboard([])
    with pytest.raises(DataError, match="'apem' seed 0: dataset should be 'shop' as in the others, received 'ali'"):
        build_leaderboard(changed(dataset="ali"))
    with pytest.raises(DataError, match="split should be 'test'"):
        build_leaderboard(changed(split="valid"))
    with pytest.raises(DataError, match="rows should be 1000"):
        build_leaderboard(changed(rows=999))
    with pytest.raises(DataError, match="seed 1: each seed of an experiment should come once"):
        build_leaderboard([*reports, reports[0]])
    with pytest.raises(DataError, match="model should be 'single_task' as in its other runs, received 'apem'"):
        build_leaderboard(changed(experiment="alone", seed=7))
    other = copy.deepcopy(reports[0])
    other["seed"] = 9
    other["steps"][1]["positives"] = 71
    with pytest.raises(DataError, match="steps with their rows and positives should be"):
        build_leaderboard([*reports, other])


def test_heads_name_the_space(reports: list[dict[str, Any]]) -> None:
    heads = [column.head for column in columns(build_leaderboard(reports))]
    assert heads == [
        "click reach AUC",
        "click reach gain",
        "cart reach AUC",
        "cart reach gain",
        "cart transition AUC",
        "buy reach AUC",
        "buy reach gain",
        "buy transition AUC",
        "parameters",
        "train rows/s",
    ]


def test_markdown_marks_the_best_of_each_column(reports: list[dict[str, Any]]) -> None:
    lines = to_markdown(build_leaderboard(reports)).splitlines()
    alone, ple = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4])
    assert ple[:3] == ["ple-small", "**0.6500 ±0.0141**", "+6.56 %"]
    assert alone[1:3] == ["0.6100 ±0.0141", "-"]
    assert (alone[6], ple[6]) == ("**0.8200 ±0.0283**", "0.7200")
    assert (alone[9], ple[9]) == ("**1.5 M**", "1.7 M")
    assert (alone[10], ple[10]) == ("85.5 k", "85.5 k")  # a tie has no winner
    assert "seeds 0, 1" in lines[5]


@pytest.fixture
def with_truth(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Errors of the transitions: `alone` 0.01 and 0.03 by seed, `ple-small` twice that; potential + 0.1."""
    for report in reports:
        error = {0: 0.01, 1: 0.03}[report["seed"]] * (2 if report["experiment"] == "ple-small" else 1)
        for step in report["steps"]:
            step["transition"]["error"] = {"explained_variance": 0.5, "rmse": error, "bias": 0.01}
            step["transition"]["potential_error"] = {"explained_variance": 0.4, "rmse": error + 0.1, "bias": -0.02}
    return reports


def test_errors_to_the_truth_by_hand(with_truth: list[dict[str, Any]]) -> None:
    board = build_leaderboard(with_truth)
    alone = board["rows"][0]["steps"][1]["transition"]
    assert alone["error"]["rmse"]["mean"] == pytest.approx(0.02)
    assert alone["error"]["rmse"]["std"] == pytest.approx(0.01 * 2**0.5)
    assert alone["potential_error"]["rmse"]["mean"] == pytest.approx(0.12)
    shown = {column.head: column for column in columns(board) if column.head.endswith("error")}
    assert list(shown) == [
        "cart transition error",
        "cart potential error",
        "buy transition error",
        "buy potential error",
    ]
    assert shown["cart transition error"].texts == ["0.0200 ±0.0141", "0.0400 ±0.0283"]
    assert shown["buy potential error"].texts == ["0.1200 ±0.0141", "0.1400 ±0.0283"]
    assert shown["buy potential error"].best == {0}  # the smaller one
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert float(lines[1]["buy transition rmse mean"]) == pytest.approx(0.04)
    assert float(lines[1]["buy potential rmse mean"]) == pytest.approx(0.14)
    assert float(lines[1]["buy potential bias mean"]) == pytest.approx(-0.02)
    assert "**0.1200 ±0.0141**" in to_markdown(board)
    assert "root mean squared errors to the truth over all rows" in to_markdown(board)


def test_errors_to_the_truth_have_a_printed_table_of_their_own(with_truth: list[dict[str, Any]]) -> None:
    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    board = build_leaderboard(with_truth)
    console.print(to_rich_table(board))
    assert isinstance(console.file, io.StringIO)
    assert "error" not in console.file.getvalue()
    console.print(error_table(board))
    assert "0.1400 ±0.0283" in console.file.getvalue()


def test_without_the_truth_there_are_no_error_columns(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        for step in report["steps"]:
            del step["reach"]["error"], step["transition"]["error"]
    board = build_leaderboard(reports)
    assert error_table(board) is None
    assert "error" not in to_csv(board) and "rror" not in to_markdown(board)


def test_a_report_without_the_potential_error_leaves_its_experiment_undefined(with_truth: list[dict[str, Any]]) -> None:
    for step in with_truth[1]["steps"]:  # one seed of ple-small, evaluated before potential rates were known
        del step["transition"]["potential_error"]
    shown = {column.head: column.texts for column in columns(build_leaderboard(with_truth))}
    assert shown["buy potential error"] == ["0.1200 ±0.0141", "undefined"]


def test_markdown_escapes_names() -> None:
    board = build_leaderboard([make_report("a|b *c* <i>_$x$\n# d", "ple", 0, (0.6, 0.7, 0.8))])
    row = to_markdown(board).splitlines()[2]
    assert row.startswith(r"| a\|b \*c\* \<i>\_\$x\$ # d |")


def test_undefined_everywhere_is_printed_as_such() -> None:
    board = build_leaderboard([make_report("ple", "ple", s, (0.6, None, None)) for s in (0, 1)])
    assert columns(board)[1].texts == ["undefined"]
    assert "| undefined |" in to_markdown(board)


def test_csv_has_one_line_an_experiment(reports: list[dict[str, Any]]) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(build_leaderboard(reports)))))
    assert [line["experiment"] for line in lines] == ["alone", "ple-small"]
    assert float(lines[1]["click reach auc mean"]) == pytest.approx(0.65)
    assert lines[1]["buy reach auc std"] == ""
    assert lines[1]["buy reach auc undefined"] == "1"
    assert float(lines[0]["buy transition bias mean"]) == pytest.approx(0.01)


def test_json_returns_the_same_record(reports: list[dict[str, Any]]) -> None:
    board = build_leaderboard(reports)
    assert json.loads(to_json(board)) == board


def with_evidence(board: dict[str, Any]) -> dict[str, Any]:
    """The board with an interval beside every AUC, and every second row significantly better in all of them."""
    for i, row in enumerate(board["rows"]):
        for step in row["steps"]:
            for space in ("reach", "transition"):
                test = {"against": "x", "difference": 0.02, "interval": [0.01, 0.03], "paper_mark": bool(i % 2)}
                test |= {"t_p": 0.004, "wilcoxon_p": 0.06, "delong_p": 0.01, "holm_p": 0.03, "holm_mark": bool(i % 2)}
                step[space]["auc"] |= {"interval": [0.6412, 0.6698], "test": test}
    board["statistics"] = {"alpha": 0.05, "resamples": 1000, "clusters": "user"}
    sentence = "with 575 positives a difference under 0.020 in buy's reach AUC cannot be seen"
    board["power"] = [{"step": "buy", "space": "reach", "positives": 575, "smallest_difference": 0.0199}]
    board["power"][0]["sentence"] = sentence
    return board


def test_one_seed_is_said_to_have_no_test_over_seeds(reports: list[dict[str, Any]]) -> None:
    assert "** better" in footnotes(build_leaderboard(reports))[0]
    single = footnotes(build_leaderboard([report for report in reports if report["seed"] == 0]))
    assert single == ["One seed each: no test over seeds, so a lead may be luck of the seed."]
    assert footnotes(build_leaderboard(reports[:1])) == []


def test_csv_has_the_tests_and_the_smallest_difference(reports: list[dict[str, Any]]) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(with_evidence(build_leaderboard(reports))))))
    second = {key.removeprefix("buy reach auc "): value for key, value in lines[1].items() if "buy reach auc " in key}
    assert (second["low"], second["high"], second["against"]) == ("0.6412", "0.6698", "x")
    assert [second[key] for key in ("difference", "t_p", "wilcoxon_p", "delong_p", "holm_p")] == [
        "0.02",
        "0.004",
        "0.06",
        "0.01",
        "0.03",
    ]
    assert (second["paper_mark"], second["holm_mark"], second["smallest_difference"]) == ("True", "True", "0.0199")
    assert lines[0]["buy reach ne low"] != ""


def test_markdown_has_intervals_marks_and_the_power_below(reports: list[dict[str, Any]]) -> None:
    text = to_markdown(with_evidence(build_leaderboard(reports)))
    assert r"| **0.6500\*\* ±0.0141** [0.6412..0.6698 †] |" in text
    assert "| 0.6100 ±0.0141 [0.6412..0.6698] |" in text
    assert text.endswith("With 575 positives a difference under 0.020 in buy's reach AUC cannot be seen.\n")


def test_terminal_table_with_all_marks_fits_into_120_columns() -> None:
    steps, aucs = ("click", "authorization", "conversion"), (0.6, 0.7, 0.8)
    names = (("alone", "single_task"), ("shared_bottom_wide", "ple"))
    reports = [
        make_report(name, model, seed, tuple(auc + seed / 100 for auc in aucs), steps)
        for name, model in names
        for seed in (0, 1)
    ]
    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    console.print(to_rich_table(with_evidence(build_leaderboard(reports))))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("0.6050** ±0.0071") == 2 == text.count("0.6050 ±0.0071")
    assert text.count("0.6412..0.6698 †") == 5 and text.count("0.6412..0.6698") == 10  # none is broken over two lines
    assert "With 575 positives" in text and "** better than the best other experiment" in text
    assert max(map(len, text.splitlines())) <= 120


def test_terminal_table_fits_into_120_columns_without_loss() -> None:
    steps = ("click", "authorization", "conversion")
    aucs = {"alone": (0.6, 0.7, 0.8), "shared_bottom_wide": (0.65, 0.72, 0.83)}
    reports = [
        make_report(name, model, seed, tuple(auc + seed / 100 for auc in aucs[name]), steps)
        for name, model in (("alone", "single_task"), ("shared_bottom_wide", "ple"))
        for seed in (0, 1)
    ]
    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    console.print(to_rich_table(build_leaderboard(reports)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "shared_bottom_wide" in text
    assert "0.6550 ±0.0071" in text
    assert "+8.26 %" in text
    assert "1.5 M" in text
    assert len(re.findall(r"\d ±\d", text)) == text.count("±")  # no cell is broken over two lines


@pytest.mark.parametrize("width", [200, 110])
def test_a_name_is_broken_only_where_the_terminal_is_too_narrow(width: int) -> None:
    name = "apem_with_field_gates_and_average_of_the_last_tenth"
    steps = ("click", "authorization", "conversion")
    reports = [make_report(name, "ple", seed, (0.6 + seed / 100, 0.7, 0.8), steps) for seed in (0, 1)]
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(to_rich_table(build_leaderboard(reports)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert (name in text) == (width == 200)
    assert text.count("0.6050 ±0.0071") == 1  # the numbers stay whole, the name gives way
    assert max(map(len, text.splitlines())) <= width


def test_terminal_table_prints_names_as_they_are() -> None:
    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    console.print(to_rich_table(build_leaderboard([make_report("[red]a[/b]", "ple", 0, (0.6, 0.7, 0.8))])))
    assert isinstance(console.file, io.StringIO)
    assert "[red]a[/b]" in console.file.getvalue()
