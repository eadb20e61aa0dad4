"""The page: complete, self-contained, readable without its figures, and safe against hostile names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from funnelcast.errors import ArtifactError
from funnelcast.report import write_report

EXPERIMENTS = [("single", "single_task", 0.5), ("mmoe", "mmoe", 0.7), ("apem", "apem", 0.8)]
VOID = {"meta", "br", "link", "img", "hr", "input"}

Make = Callable[..., Path]


class Page(HTMLParser):
    """Collects tags, ids and text; refuses tags that do not close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_holds_every_section(shop: Path) -> None:
    assert shop.name == "report.html"
    page = Page(shop)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for section in ("verdict", "funnel", "leaderboard", "step-1", "step-2", "step-3", "training", "origin"):
        assert section in ids
    for words in (
        "shop: comparison of 3 experiments",
        "apem has a mean reach AUC of",
        "click reach AUC",
        "buy transition AUC",
        "ROC, local space",
        "Error to the true probability",
        "buy: normalised entropy on VALID",
        "Loss on TRAIN",
        "torch 2.13.0",
        "Configuration of mmoe",
    ):
        assert words in page.text


def test_the_first_step_has_one_space(make_comparison: Make) -> None:
    page = Page(write_report(make_comparison(EXPERIMENTS, steps=("click",))))
    assert "entire space" in page.text
    assert "local space" not in page.text


def test_the_page_opens_without_network_and_with_its_own_script_alone(everything: Path) -> None:
    page = Page(everything)
    assert not {"link", "iframe", "img", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert attributes.get("href", "#").startswith("#")
    assert "http" not in page.source.replace("http-equiv", "")
    assert "@import" not in page.source
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", page.source))
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_every_figure_has_a_text_and_a_table(shop: Path) -> None:
    page = Page(shop)
    figures = page.source.count("<figure>")
    # The funnel; the seeds of three steps; ROC, precision-recall and reliability a space; three entropies and the loss.
    assert figures == 1 + 3 + 3 + 6 + 6 + 4
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == figures
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    for figure in re.findall(r"<figure>.*?</figure>", page.source, flags=re.DOTALL):
        assert re.search(r"<details>.*<td>.*</details>", figure, flags=re.DOTALL)


def test_links_lead_to_sections(shop: Path) -> None:
    page = Page(shop)
    ids = {attributes.get("id") for _, attributes in page.tags}
    targets = [attributes["href"][1:] for attributes in page.all("a")]
    assert len(targets) == 8
    assert set(targets) <= ids


def test_light_and_dark_have_all_colours(shop: Path) -> None:
    source = shop.read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", source))
    dark = source[source.index("prefers-color-scheme: dark") :]
    for block in (source[: source.index("prefers-color-scheme")], dark[: dark.index("* { box-sizing")]):
        assert used <= set(re.findall(r"(--[a-z0-9]+):", block))


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "\"><img src=x onerror='alert(1)'>",
        "{{ 7 * 7 }}{% raw %}",
        r"$\frac{1}{0}$ & </svg></style>",
        "购买-😀-" + "x" * 300,
        "\u202eevil --> <!--",
    ],
)
def test_hostile_names_are_only_text(make_comparison: Make, name: str) -> None:
    folder = make_comparison(
        [(name, "single_task", 0.5), (name + "2", "apem", 0.8)],
        steps=(name, "buy"),
        dataset=name,
        rows=300,
        seeds=1,
        everything=True,
    )
    plain = make_comparison(
        [("a", "single_task", 0.5), ("a2", "apem", 0.8)],
        steps=("s", "buy"),
        dataset="d",
        rows=300,
        seeds=1,
        everything=True,
        folder=folder / "plain",
    )
    page, reference = Page(write_report(folder)), Page(write_report(plain))
    # The same elements in the same order: no name has become one.
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in reference.tags]
    assert [sorted(attributes) for _, attributes in page.tags] == [sorted(a) for _, a in reference.tags]
    assert " ".join(name.split()) in page.text
    figures = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)
    assert all(ElementTree.fromstring(figure).tag == "svg" for figure in figures)


def test_the_same_folder_gives_the_same_bytes(shop: Path) -> None:
    first = shop.read_bytes()
    assert write_report(shop.parent).read_bytes() == first


@pytest.mark.slow
def test_a_page_of_24_experiments_and_five_steps_stays_small_and_readable(make_comparison: Make) -> None:
    many = [(f"model_{i}", "single_task" if i == 5 else "apem", 0.4 + i / 60) for i in range(24)]
    steps = ("impression", "click", "cart", "checkout", "buy")
    folder = make_comparison(many, steps=steps, seeds=3, rows=6000, epochs=8, everything=True, fields=30)
    page = write_report(folder)
    assert page.stat().st_size < 2_000_000
    source = page.read_text(encoding="utf-8")
    legends = [re.findall(r"<bdi>(.*?)</bdi>", found) for found in re.findall(r'<ul class="legend">.*?</ul>', source)]
    assert max(map(len, legends)) == 8
    assert "model_5" in legends[0]  # the baseline
    roc = re.search(r"<h4>ROC, entire space</h4>.*?</figure>", source, flags=re.DOTALL)
    assert roc is not None
    assert len(set(re.findall(r"var\(--s\d\)", roc.group()))) == 8
    assert all(f"<bdi>{name}</bdi>" in roc.group() for name, _, _ in many)


def test_the_best_value_is_bold(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=3000, seeds=1)
    source = write_report(folder).read_text(encoding="utf-8")
    rows = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))["rows"]
    best = max(rows, key=lambda row: row["steps"][2]["reach"]["auc"]["mean"])
    assert f"<strong>{best['steps'][2]['reach']['auc']['mean']:.4f}</strong>" in source


def test_without_truth_there_is_no_error_to_it(make_comparison: Make) -> None:
    page = Page(write_report(make_comparison(EXPERIMENTS, truth=False)))
    assert "Error to the true probability" not in page.text


def test_one_seed_has_no_spread(make_comparison: Make) -> None:
    page = Page(write_report(make_comparison(EXPERIMENTS, seeds=1)))
    assert "With one seed each, the spread over seeds is not known." in page.text


def test_undefined_metrics_say_why(make_comparison: Make) -> None:
    page = Page(write_report(make_comparison(EXPERIMENTS, rows=4, seeds=1)))
    assert "Reach AUC is undefined in every run" in page.text
    assert "There is nothing to draw" in page.text
    assert re.search(r"normalised entropy is undefined: only one class: \d positives of \d rows\.", page.text)
    assert "nan" not in page.text.lower().split()


def test_runs_that_are_not_on_the_leaderboard_are_left_out(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=100, seeds=1)
    expected = write_report(folder).read_bytes()
    other = folder / "runs" / "0-older"
    other.mkdir()
    report = json.loads((folder / "runs" / "0-seed0" / "report.json").read_text(encoding="utf-8"))
    (other / "report.json").write_text(json.dumps({**report, "experiment": "older"}), encoding="utf-8")
    assert write_report(folder).read_bytes() == expected


def test_missing_and_damaged_files_are_named(make_comparison: Make, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"leaderboard\.json: should be a leaderboard, but does not exist"):
        write_report(tmp_path)
    folder = make_comparison(EXPERIMENTS, rows=100)
    (folder / "runs" / "1-seed1" / "curves.json").unlink()
    with pytest.raises(ArtifactError, match=r"1-seed1/curves\.json: should be the curves of a run, but does not exist"):
        write_report(folder)
    (folder / "runs" / "1-seed1" / "report.json").unlink()
    with pytest.raises(ArtifactError, match="should hold a report of experiment 'mmoe' seed 1, but has none"):
        write_report(folder)
    (folder / "leaderboard.json").write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(ArtifactError, match="format should be 1, received 2"):
        write_report(folder)
    assert not list(folder.glob("*.html"))
