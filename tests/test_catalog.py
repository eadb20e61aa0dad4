"""Runs on disk: found, described and compared, whatever state they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs_on_disk import write_run

from funnelcast.catalog import (
    ReportRecord,
    check_files,
    compare_configurations,
    compare_metrics,
    find_runs,
    flatten,
    read_run,
)
from funnelcast.errors import ArtifactError
from funnelcast.files import sha256


def damage(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes a key."""
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def put_a_folder_there(run: Path) -> None:
    (run / "run.json").unlink()
    (run / "run.json").mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (lambda run: (run / "run.json").unlink(), "should be the record of a run, but does not exist"),
    "empty record": (lambda run: (run / "run.json").write_text(""), "received damaged JSON"),
    "a list": (lambda run: (run / "run.json").write_text("[1]"), "received JSON without keys"),
    "binary": (lambda run: (run / "run.json").write_bytes(b"\xff\xfe\x00"), "received damaged JSON"),
    "format": (lambda run: damage(run / "run.json", format=2), "format should be 1, received 2"),
    "no seed": (lambda run: damage(run / "run.json", seed=None), "its key 'seed' is missing"),
    "seed": (lambda run: damage(run / "run.json", seed="many"), "key 'seed'"),
    "experiment": (lambda run: damage(run / "run.json", experiment=5), "key 'experiment'"),
    "option": (
        lambda run: damage(run / "run.json", experiment={"name": "a", "model": {"name": "esmm"}, "trian": {}}),
        "unknown key 'experiment.trian'",
    ),
    "weights": (lambda run: (run / "weights.safetensors").unlink(), "weights.safetensors: is missing"),
    "manifest": (lambda run: (run / "manifest.json").write_text("{}"), "format should be 1, received None"),
    "files": (lambda run: damage(run / "manifest.json", files=[1]), "'files' should be a record of checksums"),
    "report": (lambda run: damage(run / "report.json", steps=7), "key 'steps'"),
    "step": (lambda run: damage(run / "report.json", steps=[{"name": "a"}]), "key 'steps.0.reach' is missing"),
    "folder": (put_a_folder_there, "run.json: should be the record of a run, but cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_listed_with_its_reason(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "a" / "good")
    make_broken, reason = BROKEN[name]
    make_broken(write_run(tmp_path / "b" / "bad"))
    good, bad = find_runs(tmp_path)
    assert (good.folder.name, good.state, good.reason) == ("good", "complete", "")
    assert (bad.folder.name, bad.state) == ("bad", "broken")
    assert reason in bad.reason


def test_runs_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    write_run(tmp_path / "z")
    training = write_run(tmp_path / "comparison" / "runs" / "esmm-seed0", seed=0)
    (training / "manifest.json").unlink()
    (training / "report.json").unlink()
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "manifest.json").write_text("{}")
    first, second = find_runs(tmp_path)
    assert (first.folder, first.state, first.report) == (training, "training", None)
    assert (second.folder, second.state) == (tmp_path / "z", "complete")
    assert second.record is not None
    assert second.record.experiment.model.name == "esmm"
    assert second.report is not None
    assert [step.reach["auc"] for step in second.report.steps] == [0.75, None]


def test_a_run_is_found_in_its_own_folder_and_a_missing_folder_is_named(tmp_path: Path) -> None:
    (entry,) = find_runs(write_run(tmp_path / "run"))
    assert entry.state == "complete"
    with pytest.raises(ArtifactError, match="should be a folder, but does not exist"):
        list(find_runs(tmp_path / "nowhere"))


def test_files_are_held_against_the_manifest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "schema.json").unlink()
    found = {name: (size, state) for name, size, _, state in check_files(run)}
    assert found["run.json"] == ((run / "run.json").stat().st_size, "as written")
    assert found["schema.json"] == (None, "missing")
    assert found["weights.safetensors"] == (7, "changed")
    assert found["report.json"][1] == "not in the manifest"
    assert {digest for name, _, digest, _ in check_files(run) if name == "run.json"} == {sha256(run / "run.json")}


def test_flatten_by_hand() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [], "e": [{"f": 2}, {"g": [3]}]}) == {
        "a.b": 1,
        "a.c": {},
        "d": [],
        "e.0.f": 2,
        "e.1.g": [3],
    }


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.integers() | st.lists(st.integers(), max_size=3)))
def test_a_flat_record_stays_as_it_is(record: dict[str, Any]) -> None:
    assert record == {} or flatten(record) == record


def test_configurations_differ_in_dotted_keys(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", seed=1, hidden=8)
    b = write_run(tmp_path / "b", seed=2, hidden=16)
    damage(b / "run.json", environment={"torch": "2.14.0"})
    found = {d.key: (d.first, d.second) for d in compare_configurations(read_run(a), read_run(b))}
    assert found == {
        "model.options.hidden": ("[8]", "[16]"),
        "seed": ("1", "2"),
        "environment.torch": ("2.13.0", "2.14.0"),
        "environment.cores": ("2", "-"),
    }
    assert compare_configurations(read_run(a), read_run(a)) == []


def report(**metrics: float | None) -> ReportRecord:
    steps = [{"name": "buy", "reach": metrics, "transition": {}}]
    return ReportRecord.model_validate({"split": "test", "steps": steps})


def test_the_better_metric_is_found_by_its_own_direction() -> None:
    first = report(auc=0.7, ne=0.9, pcoc=0.8, ece=0.1, brier=None, rows=5, gauc=0.6)
    second = report(auc=0.8, ne=0.95, pcoc=1.1, ece=0.1, brier=0.2, rows=6, logloss=0.3)
    found = {row.metric: (row.first, row.second, row.better) for row in compare_metrics(first, second)}
    assert found == {
        "auc": (0.7, 0.8, 2),
        "ne": (0.9, 0.95, 1),
        "pcoc": (0.8, 1.1, 2),
        "ece": (0.1, 0.1, 0),
        "brier": (None, 0.2, 0),
        "gauc": (0.6, None, 0),
        "logloss": (None, 0.3, 0),
    }


def test_errors_to_the_truth_have_a_space_of_their_own() -> None:
    values = {"auc": 0.7, "error": {"rmse": 0.1}, "potential_error": {"rmse": 0.2}}
    steps = [{"name": "buy", "reach": {}, "transition": values}]
    record = ReportRecord.model_validate({"split": "test", "steps": steps})
    assert [(row.space, row.first) for row in compare_metrics(record, record)] == [
        ("transition", 0.7),
        ("transition error", 0.1),
        ("transition potential error", 0.2),
    ]
