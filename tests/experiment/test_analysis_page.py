"""The pages of an analysed experiment and of a design, and their commands."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from funnelcast.errors import ArtifactError
from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.analysis_page import to_markdown, to_rich_table, write_analysis
from funnelcast.experiment.analysis_report import analysis_html
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files
from funnelcast.experiment.looks import Rules
from funnelcast.report.daily_figure import daily_figure
from funnelcast.report.figures import Line

from ..conftest import Command
from .logs_on_disk import World, at, write_lines

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}",
    "\u202eevil --> <!--",
    "a|b`$x$",
]


def measured(folder: Path, world: World, seed: int = 0, service: bool = True) -> dict[str, Any]:
    exposures, outcomes, _ = world.write(folder, seed, service)
    split = Split({world.names[0]: 1 - 0.5, world.names[1]: 0.5})
    return analyse(Files((exposures,), (outcomes,), threads=1), split, Attribution(), Rules(planned_lift=0.3))


class Tags(HTMLParser):
    """Tags with the names of their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("logs"), World(users=1500, lift=0.4))


def test_the_page_holds_every_section_and_needs_no_network(record: dict[str, Any]) -> None:
    source = analysis_html(record)
    page = Tags(source)
    ids = re.findall(r' id="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    for section in ("verdict", "split", "step-1", "step-2", "service", "rows"):
        assert f'<section id="{section}">' in source
    assert "://" not in re.sub(r'http://www\.w3\.org/\S+"', "", source)
    assert "default-src 'none'" in source
    text = " ".join(page.words)
    assert "<h1>spring</h1>" in source
    for words in ("treatment is better than control: +", "latency ms, median", "New users a day", "p after Holm"):
        assert words in text


def test_every_figure_has_a_text_and_a_table(record: dict[str, Any]) -> None:
    figures = re.findall(r"<figure>.*?</figure>", analysis_html(record), flags=re.DOTALL)
    assert len(figures) == 2 + 2 * 2
    for figure in figures:
        assert re.search(r'role="img" aria-label="[^"]{20,}"><svg', figure)
        assert re.search(r"<details>.*<td>.*</details>", figure, flags=re.DOTALL)


def test_without_latency_and_errors_there_is_no_section_of_them(tmp_path: Path) -> None:
    bare = analysis_html(measured(tmp_path, World(users=300), service=False))
    assert '<section id="service">' not in bare


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(tmp_path: Path, name: str) -> None:
    hostile = World(users=300, names=(name, name + "2"), steps=(name + "3", name + "4"))
    plain = World(users=300, names=("a", "b"), steps=("c", "d"))
    first, second = (measured(tmp_path / part, world) for part, world in (("h", hostile), ("p", plain)))
    for found in (first, second):
        found["experiment"] = name if found is first else "e"
    assert Tags(analysis_html(first)).tags == Tags(analysis_html(second)).tags
    assert name in " ".join(Tags(analysis_html(first)).words)
    rows = [line for line in to_markdown(first).splitlines() if line.startswith("| ")]
    assert len(rows) == len([line for line in to_markdown(second).splitlines() if line.startswith("| ")])


def test_tables_say_what_the_record_holds(record: dict[str, Any]) -> None:
    text = to_markdown(record)
    lift = record["steps"][0]["lifts"][0]["sequence"]
    low, high = lift["interval"]
    assert f"{lift['value'] * 100:+.2f} % [{low * 100:+.2f}, {high * 100:+.2f}]" in text
    assert "| per exposure | control | treatment | lift, always-valid | p after Holm | decision |" in text
    assert "| buy per click |" in text
    assert f"| exposures | read | {record['counts']['exposures']['rows']:,} |" in text
    assert text.count("| 2026-03-0") == 5
    console = Console(width=250)
    with console.capture() as captured:
        console.print(to_rich_table(record))
    assert "better" in captured.get() and "2026-03-01 to 2026-03-05" in captured.get()


def test_few_events_are_said_and_not_drawn(tmp_path: Path) -> None:
    exposures = [{"time": at(1), "user": user, "variant": "AB"[i % 2]} for i, user in enumerate("abcdef")]
    files = Files(
        (write_lines(tmp_path / "e.jsonl", exposures),),
        (write_lines(tmp_path / "o.jsonl", [{"time": at(2), "user": "a", "click": 1}]),),
        threads=1,
    )
    found = analyse(files, Split({}), Attribution(), Rules())
    texts = {sentence["about"]: sentence["text"] for sentence in found["verdict"]["sentences"]}
    assert texts["click"] == "Nothing can be said of B yet: an arm has no events."
    source = analysis_html(found)
    assert "There is nothing to draw" in source and "undefined" in source
    assert "undefined" in to_markdown(found)


def test_a_folder_that_cannot_be_made_is_one_clear_error(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ArtifactError, match="taken: should be a folder, but cannot be made"):
        write_analysis(record, tmp_path / "taken")


def test_analyse_from_the_command_line(tmp_path: Path, command: Command) -> None:
    exposures, outcomes, past = World(users=1500, lift=0.4).write(tmp_path / "logs")
    logs = ["--exposures", exposures, "--outcomes", outcomes, "--threads", "1"]
    code, output, _ = command(
        *["abtest", "analyse", *logs, "--covariates", past, "--share", "control=0.5", "--share", "treatment=0.5"],
        *["--window-hours", "24", "--planned-lift", "0.3", "--out", str(tmp_path / "out")],
    )
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ab.html", "ab.json", "ab.md"]
    record = json.loads((tmp_path / "out" / "ab.json").read_text())
    assert (record["format"], record["window_hours"], record["base"]) == (1, 24, "control")
    assert "click: treatment is better than control" in output
    first = {name: (tmp_path / "out" / name).read_bytes() for name in ("ab.html", "ab.json", "ab.md")}
    command(
        *["abtest", "analyse", *logs, "--covariates", past, "--share", "control=0.5", "--share", "treatment=0.5"],
        *["--window-hours", "24", "--planned-lift", "0.3", "--out", str(tmp_path / "out")],
    )
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in first}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "control:0.5"], "--share should be variant=number, received 'control:0.5'"),
        (["--share", "control=0.9", "--share", "treatment=0.3"], "two or more, above 0 with the sum 1, received"),
        *[
            (
                ["--share", f"control={share}", "--share", "treatment=1"],
                f"shares should be two or more, above 0 with the sum 1, received {float(share)} for 'control'",
            )
            for share in ("nan", "inf", "-inf", "-0.5")
        ],
        (
            ["--share", "control=0.5", "--share", "tretment=0.5"],
            "shares should be of variants of the exposures, received one of 'tretment'; did you mean 'treatment'?",
        ),
        (["--since", "2027-01-01"], "the latest first exposure of a user is of 2026-03-0"),
        (
            ["--share", "control=0.5", "--share", "control=0.5"],
            "--share should name every variant once, received 'control=0.5'",
        ),
        (["--crossed", "keep"], "--crossed should be one of drop, first, received 'keep'"),
        (["--join", "time"], "--join should be one of auto, user, request_id, received 'time'"),
        (["--per", "visit"], "--per should be one of exposure, user, received 'visit'"),
        (["--window-hours", "0"], "--window-hours should be above 0, received 0.0"),
        (["--step", "clik"], "column 'clik' is missing; needed: clik; did you mean 'click'?"),
        (["--base", "C"], "base should be one of the variants, received 'C'"),
        (["--experiment", "autumn"], "experiment 'autumn' has no rows; known: spring"),
        (["--memory", "much"], "memory limit should be a number with KB, MB"),
        (["--covariate", "age"], "column 'age' is missing"),
    ],
)
def test_wrong_options_of_analyse_are_one_line(
    tmp_path: Path, command: Command, words: list[str], message: str
) -> None:
    exposures, outcomes, _ = World(users=40).write(tmp_path)
    logs = ["--exposures", exposures, "--outcomes", outcomes, "--threads", "1"]
    code, _, errors = command("abtest", "analyse", *logs, *words, "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_design_from_rates(tmp_path: Path, command: Command) -> None:
    code, output, _ = command(
        *["abtest", "design", "--rate", "click=0.2", "--rate", "buy=0.01", "--users-per-day", "5000"],
        *["--users", "100000", "--out", str(tmp_path / "design")],
    )
    assert code == 0 and "52,755" in output
    record = json.loads((tmp_path / "design" / "design.json").read_text())
    click = record["steps"][0]["plain"]
    assert click["one_look"]["users"] == 52_755
    assert click["one_look"]["days"] == 11
    assert click["one_look"]["arms"] == {"control": 26_378, "treatment": 26_378}
    assert click["always_valid"]["users"] > 1.8 * click["one_look"]["users"]
    assert click["one_look"]["detectable_lift"] == pytest.approx(0.0361, abs=1e-4)
    assert "| click | 20 % |" in (tmp_path / "design" / "design.md").read_text()


def test_design_from_histories(tmp_path: Path, command: Command, prepared: Path) -> None:
    exposures, outcomes, past = World(users=400).write(tmp_path)
    code, output, _ = command(
        *["abtest", "design", "--exposures", exposures, "--outcomes", outcomes, "--covariates", past],
        *["--threads", "1", "--base", "control", "--lift", "0.1"],
    )
    assert code == 0
    assert "click, covariate" in output and "days" in output and "the covariate explains" in output
    code, output, _ = command("abtest", "design", "--data", str(prepared), "--per", "user")
    assert code == 0
    assert (
        "history of 20 users and 1,600 exposures" in " ".join(output.split())
        and "days" not in output.split("history")[0]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one source should be given: --rate, or --data, or --exposures with --outcomes"),
        (["--rate", "click=0.2", "--data", "x"], "one source should be given"),
        (["--exposures", "x.parquet"], "one source should be given"),
        (["--rate", "click"], "--rate should be step=number, received 'click'"),
        (["--rate", "click=2"], "rate of 'click' should be above 0 and below 1, received 2.0"),
        (["--rate", "click=0.2", "--users-per-day", "0"], "--users-per-day should be above 0 and finite, received 0.0"),
        (
            ["--rate", "click=0.2", "--users-per-day", "nan"],
            "--users-per-day should be above 0 and finite, received nan",
        ),
        (
            ["--rate", "click=0.2", "--users-per-day", "inf"],
            "--users-per-day should be above 0 and finite, received inf",
        ),
        (
            ["--rate", "click=0.2", "--share", "a=nan", "--share", "b=1"],
            "shares should be two or more, above 0 with the sum 1, received nan for 'a'",
        ),
        (
            ["--rate", "click=0.9", "--lift", "0.5"],
            "rate of 'click' with the lift should be at most 1, received 0.9 * (1 + 0.5) = 1.35",
        ),
        (["--rate", "click=0.2", "--base", "C"], "--base should be one of control, treatment, received 'C'"),
        (["--rate", "click=0.2", "--lift", "0"], "lift should be above 0, received 0.0"),
        (["--rate", "click=0.2", "--users", "0"], "users should be at least 1, received 0"),
        (["--data", "nowhere"], "nowhere/schema.json"),
    ],
)
def test_wrong_options_of_design_are_one_line(command: Command, words: list[str], message: str) -> None:
    code, _, errors = command("abtest", "design", *words)
    assert code == 2
    assert message in errors and errors.count("\n") == 1


def test_users_before_a_time_are_left_out_on_the_command_line(tmp_path: Path, command: Command) -> None:
    exposures, outcomes, _ = World(users=300).write(tmp_path / "logs")
    words = ["--exposures", exposures, "--outcomes", outcomes, "--threads", "1", "--out", str(tmp_path / "out")]
    code, _, errors = command("abtest", "analyse", *words, "--since", "2026-03-03T00:00:00")
    assert code == 0, errors
    record = json.loads((tmp_path / "out" / "ab.json").read_text())
    assert record["counts"]["exposures"]["users_before"] > 0 and record["days"][0]["date"] == "2026-03-03"
    assert "first seen too early, left out" in (tmp_path / "out" / "ab.html").read_text()


def test_one_day_has_whole_days_below_it_and_intervals_that_can_be_seen() -> None:
    one = daily_figure("one", [Line(0, [1], [0.1])], [[(0.05, 0.15)]], "rate")
    texts = re.findall(r"<text[^>]*>([^<]*)<", one)
    assert texts[: texts.index("day")] == ["1"]
    assert "stroke-opacity:0.5;stroke-width:1.5" in one


def test_all_rows_that_were_counted_are_seen_without_scrolling(record: dict[str, Any]) -> None:
    _, rows = analysis_html(record).split("What was counted</h2>")
    assert "users in several variants" in rows and 'class="scroll long"' not in rows
