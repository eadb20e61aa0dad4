"""`funnelcast runs` and `funnelcast report` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import Command
from tests.report.conftest import build
from tests.runs_on_disk import write_run


def row(output: str, word: str) -> list[str]:
    """The cells of the first table row that begins with a word."""
    lines = [line for line in output.splitlines() if line.startswith(f"│ {word} ")]
    return [cell.strip() for cell in lines[0].strip("│").split("│")]


def test_list_shows_state_and_scores_and_survives_broken_runs(command: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    training = write_run(tmp_path / "on", seed=1)
    (training / "manifest.json").unlink()
    (training / "report.json").unlink()
    (write_run(tmp_path / "bad") / "run.json").write_text("[red]{")
    code, output, errors = command("runs", "list", str(tmp_path))
    assert (code, errors) == (0, "")
    assert row(output, "good") == ["good", "complete", "esmm", "esmm", "3", "shop", "test", "0.7500 / -"]
    assert row(output, "on") == ["on", "training", "esmm", "esmm", "1", "shop", "-", "-"]
    assert row(output, "bad")[:3] == ["bad", "broken", "-"]
    assert "damaged JSON" in " ".join(output.split())


def test_list_of_nothing_says_so(command: Command, tmp_path: Path) -> None:
    code, output, _ = command("runs", "list", str(tmp_path))
    assert (code, output) == (0, f"no runs in {tmp_path}\n")
    code, _, errors = command("runs", "list", str(tmp_path / "nowhere"))
    assert code == 2
    assert "should be a folder, but does not exist" in errors


def test_show_prints_configuration_scores_and_files(command: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    code, output, _ = command("runs", "show", str(run))
    assert code == 0
    assert row(output, "model.options.hidden")[1] == "[8]"
    assert row(output, "click")[1:5] == ["reach", "900", "90", "0.75000"]
    assert row(output, "weights.safetensors")[1:3] == ["7", "changed"]
    assert row(output, "run.json")[2] == "as written"
    (run / "report.json").unlink()
    assert f"not evaluated yet: funnelcast evaluate {run}" in command("runs", "show", str(run))[1]
    code, _, errors = command("runs", "show", str(tmp_path))
    assert code == 2
    assert "run.json: should be the record of a run, but does not exist" in errors


def test_compare_marks_the_better_metric(command: Command, tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a", auc=0.5, hidden=8), write_run(tmp_path / "b", auc=0.75, hidden=16)
    code, output, _ = command("runs", "compare", str(first), str(second))
    assert code == 0
    assert row(output, "model.options.hidden")[1:] == ["[8]", "[16]"]
    auc = [line.split("│")[4:7] for line in output.splitlines() if "│ reach " in line and "│ auc " in line]
    assert [cell.strip() for cell in auc[0]] == ["0.500000", "0.750000 *", "+0.250000"]
    assert [cell.strip() for cell in auc[1]] == ["-", "-", "-"]
    assert "do not compare" not in output
    report = json.loads((second / "report.json").read_text())
    (second / "report.json").write_text(json.dumps({**report, "split": "valid"}))
    assert "the metrics do not compare: the reports have another split" in command(
        "runs", "compare", str(first), str(second)
    )[1]  # fmt: skip
    (second / "report.json").unlink()
    output = command("runs", "compare", str(second), str(second))[1]
    assert "the configurations are the same" in output
    assert f"no scores to compare: funnelcast evaluate {second}" in output


@pytest.mark.slow
def test_export_says_where_the_run_is(command: Command, tmp_path: Path) -> None:
    run, logs = write_run(tmp_path / "run"), tmp_path / "logs"
    code, output, _ = command("runs", "export", str(run), "--to", f"tensorboard={logs}")
    assert (code, output) == (0, f"exported to {logs / 'esmm-seed3'}\n")
    code, _, errors = command("runs", "export", str(run), "--to", "tensorbord=x")
    assert code == 2
    assert "unknown tracker 'tensorbord'; did you mean 'tensorboard'" in errors


def test_train_and_compare_refuse_a_wrong_tracker_before_they_begin(command: Command, tmp_path: Path) -> None:
    for words in (("train", "none.toml"), ("compare", "none.toml")):
        code, _, errors = command(*words, "--out", str(tmp_path / "out"), "--track", "mlflow")
        assert code == 2
        assert "a tracker should be name=place, received 'mlflow'" in errors
        assert not (tmp_path / "out").exists()


def test_report_writes_page_and_figures(command: Command, tmp_path: Path) -> None:
    folder = build(tmp_path / "comparison", [("a", "single_task", 0.5), ("b", "mmoe", 0.7)], rows=300, seeds=1)
    code, output, _ = command("report", str(folder), "--figures", str(tmp_path / "figures"))
    assert (code, output) == (0, f"report in {folder / 'report.html'}, figures in {tmp_path / 'figures'}\n")
    assert (tmp_path / "figures" / "funnel.svg").is_file()
    code, output, _ = command("report", str(folder / "runs" / "1-seed0"))
    assert (code, output) == (0, f"report in {folder / 'runs' / '1-seed0' / 'report.html'}\n")
    code, _, errors = command("report", str(tmp_path / "nowhere"))
    assert code == 2
    assert "should be a leaderboard, but does not exist" in errors
