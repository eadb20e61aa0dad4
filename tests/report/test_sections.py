"""Sections that depend on optional files, on one run's folder, and the SVG files of figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from funnelcast.errors import ArtifactError
from funnelcast.report import write_report
from funnelcast.report.source import choose_drawn, ranking

EXPERIMENTS = [("single", "single_task", 0.5), ("mmoe", "mmoe", 0.7), ("apem", "apem", 0.8)]
OPTIONAL = {
    "calibration": "Calibration: before and after",
    "slices": "Scores on TEST of the rows with one value",
    "importance": "Importance of fields",
    "decomposition": "Which step loses the customer",
    "gates": "Selector gates",
    "efficiency": "peak memory, bytes",
}

Make = Callable[..., Path]


def sections(page: Path) -> list[str]:
    return re.findall(r'<section id="([^"]+)">', page.read_text(encoding="utf-8"))


def test_the_sections_stand_in_order(everything: Path) -> None:
    extra = ["slices", "importance", "decomposition", "selectors", "efficiency"]
    first = ["verdict", "funnel", "leaderboard", "step-1", "step-2", "step-3", "training"]
    assert sections(everything) == [*first, *extra, "origin"]


def test_what_is_not_there_is_left_out(shop: Path) -> None:
    source = shop.read_text(encoding="utf-8")
    assert sections(shop)[-2:] == ["training", "origin"]
    for words in OPTIONAL.values():
        assert words not in source


def test_a_leaderboard_without_tests_has_no_table_of_them(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=300, seeds=1)
    board = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    for row in board["rows"]:
        for step in row["steps"]:
            for space in ("reach", "transition"):
                step[space]["auc"].pop("test", None)
    (folder / "leaderboard.json").write_text(json.dumps(board), encoding="utf-8")
    assert "Tests of the differences" not in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_optional_file_brings_its_section(make_comparison: Make, name: str) -> None:
    folder = make_comparison(EXPERIMENTS, rows=600, seeds=1, everything=True)
    for path in [*folder.glob("runs/*/*.json"), folder / "efficiency.json"]:
        if path.stem in OPTIONAL and path.stem != name:
            path.unlink()
    source = write_report(folder).read_text(encoding="utf-8")
    for other, words in OPTIONAL.items():
        assert (words in source) == (other == name)


def test_statistics_stand_in_words_in_the_leaderboard_and_in_a_table(everything: Path) -> None:
    source = everything.read_text(encoding="utf-8")
    board = json.loads((everything.parent / "leaderboard.json").read_text(encoding="utf-8"))
    low, high = board["rows"][2]["steps"][2]["reach"]["auc"]["interval"]
    assert f"{low:.4f} to {high:.4f}</small>" in source
    assert "<sup>**†</sup>" in source
    assert "** better than the best other experiment, paired t-test over seeds" in source
    assert "† better by seeds and rows together, p &lt; 0.05 after Holm" in source
    assert "p = 0.0040 after Holm&#39;s correction: significant at 0.05." in source
    assert "positives a difference under 0.012 in buy&#39;s AUC cannot be seen. It predicts" in source
    assert re.search(r"Tests of the differences.*<td>&lt; 0.0001</td>", source, flags=re.DOTALL)
    assert "Statistics: alpha 0.05, resamples 2000, clusters user." in source


def test_slices_far_below_and_published_results_are_told(everything: Path) -> None:
    source = everything.read_text(encoding="utf-8")
    assert "click: reach AUC 0.5123 on apem column 2 against 0.7000 overall." in source
    assert re.search(
        r"<h3>Published by other laboratories, not measured here</h3>.*<th scope=\"col\">click reach AUC</th>.*"
        r"<bdi>single elsewhere</bdi></th><td>0.6543</td><td>Somebody 2020</td>.*Somebody 2020: their own split",
        source,
        flags=re.DOTALL,
    )
    board, *others = re.findall(r"<table.*?</table>", source[source.index('id="leaderboard"') :], flags=re.DOTALL)
    assert "elsewhere" not in board and any("elsewhere" in table for table in others)


def figure(source: str, title: str) -> str:
    found = re.search(rf"<figure>\s*<h4>{title}</h4>.*?</figure>", source, flags=re.DOTALL)
    assert found is not None
    return found.group()


def test_errors_within_fields_are_drawn_and_tabulated(everything: Path) -> None:
    found = figure(everything.read_text(encoding="utf-8"), "Field-ECE, entire space")
    assert "Calibration error within the values of 2 fields" in found
    assert found.count("<circle") == 4
    assert found.count("<tr>") == 1 + 3 * 2  # two fields of three experiments
    assert "<td>page</td><td>0.010000</td><td>0.005000</td><td>0.3000</td><td>0.3000</td><td>75 %</td>" in found


def test_undefined_errors_within_fields_are_said_and_none_are_left_out(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=300, seeds=1, everything=True)
    for i, path in enumerate(sorted(folder.glob("runs/*/calibration.json"))):
        record = json.loads(path.read_text(encoding="utf-8"))
        for field in record["fields"]:
            for step in field["steps"]:
                for when in ("before", "after"):
                    step[when]["reach"] = dict.fromkeys(step[when]["reach"])
        if i:
            del record["fields"]  # as older versions have written it
        path.write_text(json.dumps(record), encoding="utf-8")
    source = write_report(folder).read_text(encoding="utf-8")
    found = figure(source, "Field-ECE, entire space")
    assert "There is nothing to draw" in found and found.count("<tr>") == 1 + 2
    assert found.count("<td>undefined</td>") == 2 * 5


def test_the_gates_are_drawn_and_told_as_inspect_does(everything: Path) -> None:
    source = everything.read_text(encoding="utf-8")
    found = re.search(r'<section id="selectors">.*?</section>', source, flags=re.DOTALL)
    assert found is not None
    assert "drift of the selection rate: moderate shift, PSI 0.1200 (0.0010 by chance)" in found.group()
    for title in ("The gate function in training", "step 0, layer 1: rows by selection rate", "Drift of the gates"):
        assert found.group().count(f"<h4>{title}</h4>") == 2  # of two experiments
    # The map is drawn once, by one of the two ways.
    assert re.findall(r"<h4>(Map by .*?)</h4>", found.group()) == [
        "Map by t-SNE: selection rate",
        "Map by t-SNE: last step reached",
    ]


def test_predicted_rates_follow_from_pcoc(everything: Path) -> None:
    source = everything.read_text(encoding="utf-8")
    board = json.loads((everything.parent / "leaderboard.json").read_text(encoding="utf-8"))
    step, row = board["funnel"][1], board["rows"][2]
    predicted = row["steps"][1]["transition"]["pcoc"]["mean"] * step["local_positives"] / step["local_rows"]
    assert f"predicted {predicted * 100:.4g} %" in source


def test_checksums_and_data_stand_in_the_origin(everything: Path) -> None:
    source = everything.read_text(encoding="utf-8")
    assert "20" + "b" * 62 in source  # weights of experiment 2, seed 0
    assert "d" * 64 in source


def test_the_page_of_one_run(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=600, seeds=1, everything=True) / "runs" / "2-seed0"
    page = write_report(folder)
    assert page == folder / "report.html"
    source = page.read_text(encoding="utf-8")
    assert "<h1>shop: apem, seed 0</h1>" in source
    assert "one run" in source
    assert "there is no other experiment to compare it with" in source
    assert "Figures show the first seed" not in source
    assert {"slices", "importance", "decomposition", "selectors"} <= set(sections(page))


def test_a_run_that_is_not_evaluated_says_what_to_do(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=100, seeds=1) / "runs" / "0-seed0"
    (folder / "report.json").unlink()
    with pytest.raises(ArtifactError, match=r"the run has no report\.json; make it with 'funnelcast evaluate"):
        write_report(folder)


def test_curves_of_an_older_version_have_no_precision(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=600, seeds=1)
    for path in folder.glob("runs/*/curves.json"):
        curves = json.loads(path.read_text(encoding="utf-8"))
        for step in curves["steps"]:
            del step["reach"]["pr"], step["transition"]["pr"]
        path.write_text(json.dumps(curves), encoding="utf-8")
    source = write_report(folder).read_text(encoding="utf-8")
    panel = re.search(r"<h4>Precision and recall, entire space</h4>(.*?)</figure>", source, flags=re.DOTALL)
    assert panel is not None
    assert "There is nothing to draw" in panel.group(1)


def test_a_history_without_epochs_has_no_training_section(make_comparison: Make) -> None:
    folder = make_comparison(EXPERIMENTS, rows=300, seeds=1)
    for path in folder.glob("runs/*/history.json"):
        path.write_text('{"loss": [], "epochs": []}', encoding="utf-8")
    assert "training" not in sections(write_report(folder))


def test_figures_are_files_of_their_own(make_comparison: Make, tmp_path: Path) -> None:
    folder = make_comparison(EXPERIMENTS, rows=600, seeds=1, everything=True)
    figures = tmp_path / "some" / "figures"
    page = write_report(folder, figures).read_text(encoding="utf-8")
    files = sorted(figures.iterdir())
    assert len(files) == page.count('<div role="img"')
    assert {"funnel.svg", "step-2-transition-pr.svg", "training-loss.svg", "efficiency.svg"} <= {f.name for f in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
        assert '<rect width="100%" height="100%" fill="#ffffff"/>' in text
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "mmoe" in (figures / "step-1-reach-roc.svg").read_text(encoding="utf-8")


def test_a_folder_of_figures_that_cannot_be_made_is_named(make_comparison: Make, tmp_path: Path) -> None:
    folder = make_comparison(EXPERIMENTS, rows=300, seeds=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="should be a folder, but cannot be made"):
        write_report(folder, tmp_path / "file")


def board(baseline: str | None, **aucs: tuple[float | None, float | None]) -> dict[str, object]:
    rows = [
        {"experiment": name, "steps": [{"reach": {"auc": {"mean": value}}} for value in values]}
        for name, values in aucs.items()
    ]
    return {"baseline": baseline, "funnel": [{"name": "a"}, {"name": "b"}], "rows": rows}


def test_up_to_eight_experiments_are_all_drawn() -> None:
    names = [f"m{i}" for i in range(8)]
    assert choose_drawn(board(None, **dict.fromkeys(names, (0.5, None)))) == {name: i for i, name in enumerate(names)}


def test_of_more_the_baseline_and_the_best_of_every_step_are_drawn() -> None:
    # Step a is led by m0, m1, ..., step b by m11, m10, ...; the baseline is the middle of both.
    aucs: dict[str, tuple[float | None, float | None]] = {f"m{i}": (0.9 - i / 100, 0.6 + i / 100) for i in range(12)}
    chosen = choose_drawn(board("m5", **aucs))
    assert list(chosen) == ["m0", "m1", "m2", "m5", "m8", "m9", "m10", "m11"]
    assert list(chosen.values()) == list(range(8))


def test_experiments_without_an_auc_come_last() -> None:
    record = board(None, a=(0.5, None), b=(0.6, None), c=(None, None))
    assert ranking(record) == ["b", "a", "c"]  # the last step with an AUC is the first
    assert ranking(board(None, a=(0.5, 0.4), b=(0.6, None))) == ["a", "b"]
