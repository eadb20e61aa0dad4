"""What is read of a bundle: only what its maker wrote, and only if it gives the scores that were written down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.bundles_on_disk import edit_json, refuse, sign, swell

from funnelcast.errors import ConfigError, DataError
from funnelcast.serving import Bundle
from funnelcast.serving.golden import TOLERANCE

RAW: dict[str, list[Any]] = {
    "item": ["item 3", None, "new"],
    "tags": [["red"], [], ["grey", "red", "blue"]],
    "page": ["home", None, "x"],
}


def edit_and_sign(bundle: Path, name: str, change: Callable[[Any], None]) -> None:
    edit_json(bundle / name, change)
    sign(bundle, name)


def means_the_same(damaged: bytearray, original: bytes) -> bool:
    """Whether two texts are the same JSON: another kind of blank changes nothing."""
    try:
        return bool(json.loads(damaged) == json.loads(original))
    except ValueError:
        return False


def test_damage_of_any_file_is_found(bundle: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for path in sorted(bundle.iterdir()):
        original = path.read_bytes()
        for _ in range(20 if path.name == "manifest.json" else 4):
            damaged = bytearray(original)
            damaged[draw.integers(len(damaged))] ^= 1 << int(draw.integers(8))
            path.write_bytes(damaged)
            if path.name != "manifest.json":
                refuse(bundle, "has changed or is damaged: sha256 should be [0-9a-f]{64}, received [0-9a-f]{64}")
            elif not means_the_same(damaged, original):
                refuse(bundle, "damaged|format should be|key '.*' is missing")
        for share in (0.0, 0.5, 0.99):
            path.write_bytes(original[: int(share * len(original))])
            wanted = "should have|damaged" if path.name != "manifest.json" else "damaged|JSON"
            refuse(bundle, wanted)
        path.unlink()
        refuse(bundle, f"{path.name}: should be .* but does not exist")
        path.write_bytes(original)
    Bundle.load(bundle)


def test_a_copy_that_is_not_complete_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    refuse(half, "manifest.json: should be the manifest of a bundle, but does not exist")
    for path in sorted(bundle.iterdir(), reverse=True)[:-1]:
        shutil.copy(path, half)
    refuse(half, "does not exist")
    refuse(tmp_path / "nowhere", "does not exist")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda m: m.update(format=2), "manifest.json: format should be 1, received 2"),
        (lambda m: m.update(target="trees"), "unknown target 'trees'; known: onnx, torch"),
        (lambda m: m.pop("target"), "its key 'target' is missing"),
        (lambda m: m["files"].update({"../../etc/passwd": m["files"]["README.md"]}), "received '../../etc/passwd'"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["README.md"]}), "alone, received '/etc/passwd'"),
        (lambda m: m["files"].update({"model.pt2": m["files"]["README.md"]}), "alone, received 'model.pt2'"),
        (lambda m: m["files"].pop("golden.json"), "should list 'golden.json', received"),
        (lambda m: m["files"].update({"golden.json": 3}), "key 'files.golden.json': Input should be .*, received 3"),
        (lambda m: m.update(files=[]), r"key 'files': Input should be a valid dictionary, received \[\]"),
        (lambda m: m.update(name=["shop"]), r"key 'name': Input should be a valid string, received \['shop'\]"),
        (lambda m: m["files"]["model.onnx"].update(bytes=1e999), r"key 'files.model.onnx.bytes': .*, received inf"),
        (lambda m: m["files"]["README.md"].update(bytes=7.0), r"key 'files.README.md.bytes': .*, received 7\.0"),
        (
            lambda m: m["files"]["README.md"].update(sha256="a\nb"),
            r"key 'files.README.md.sha256': .*, received 'a\\nb'",
        ),
        (lambda m: m["made_by"].update(torch=None), r"key 'made_by.torch': .* string, received None"),
        (lambda m: m["files"]["model.onnx"].update(bytes=7), r"model.onnx: should have 7 bytes, received [\d,]+"),
        (lambda m: m.update(run_sha256="0" * 64), "calibration.json: was fitted for other weights"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(bundle: Path, change: Callable[[Any], object], pattern: str) -> None:
    edit_json(bundle / "manifest.json", change)  # type: ignore[arg-type]
    if "target" in json.loads((bundle / "manifest.json").read_text()):
        sign(bundle)
    refuse(bundle, pattern)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "schema.json", "golden.json"])
def test_links_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.move(bundle / name, tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refuse(bundle, f"{name}: should be .*, received a symbolic link")


def test_a_folder_in_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "schema.json").unlink()
    (bundle / "schema.json").mkdir()
    refuse(bundle, "schema.json: should be a file of the bundle, received no regular file")


def test_huge_files_are_refused_before_they_are_read(bundle: Path) -> None:
    swell(bundle)
    refuse(bundle, "model.onnx: should have at most 2,147,483,648 bytes, received 3,221,225,472")
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(2 << 20)
    refuse(bundle, "manifest.json: should have at most 1,048,576 bytes")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": ' + "9" * 5000 + "}", "[]", "\x00"])
def test_hostile_json_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    refuse(bundle, "manifest.json: should be the manifest of a bundle, received")


def shift(record: Any, name: str, row: int, amount: float) -> None:
    record[name][row][0] += amount


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda g: shift(g, "reach", 5, 1e-4), "row 5 should have the reach .* within 1e-05, received"),
        (lambda g: shift(g, "transition", 0, -1e-4), "row 0 should have the transition"),
        (lambda g: shift(g, "reach", 0, float("nan")), "row 0 should have the reach"),
        (lambda g: shift(g, "ids", 2, 1), "row 2 should have the ids"),
        (lambda g: g["rows"][4].update(item="item 1"), "row 4 should have the ids"),
        (lambda g: g["rows"][4].update(item=3), "golden.json: should be golden rows"),
        (lambda g: g["types"].update(item="list<item: int64>"), "golden.json: should"),
        (lambda g: g["types"].update(item="dictionary"), "received: ValueError.*dictionary"),
        (lambda g: g["types"].update(item=""), "received: ValueError.*the type ''"),
        (lambda g: g["types"].pop("item"), "golden.json: should hold raw rows of the encoders, received"),
        (lambda g: g.update(ids=[]), "golden.json: 'ids' should be"),
        (lambda g: g.update(ids=0), "golden.json: 'ids' should be"),
        (lambda g: g["reach"].pop(), "'reach' should be"),
        (lambda g: g.update(rows=[]), r"golden.json: key 'rows' should hold 1 to \d+ raw rows, .*, received 0"),
        (
            lambda g: g.update(rows=g["rows"] * 9),
            r"golden.json: key 'rows' should hold 1 to (\d+) raw rows, .* received",
        ),
        (lambda g: g.update(value=[1.0]), "should hold ids, reach, transition, received ids, reach, transition, value"),
        (lambda g: g.update(format=7), "golden.json: format should be 1, received 7"),
    ],
)
def test_golden_rows_must_be_reproduced(bundle: Path, change: Callable[[Any], object], pattern: str) -> None:
    edit_and_sign(bundle, "golden.json", change)  # type: ignore[arg-type]
    refuse(bundle, pattern)


def test_encoders_of_another_schema_are_refused(bundle: Path) -> None:
    edit_and_sign(bundle, "encoders.json", lambda e: e["encoders"][0]["values"].append("item 9"))
    refuse(bundle, "encoders.json: should make the fields item, tags, page of schema.json in their sizes")


def test_hostile_encoders_are_refused(bundle: Path) -> None:
    shelf = {"kind": "hash", "name": "shelf", "column": "shelf", "buckets": float("inf"), "multi": None}
    edit_and_sign(bundle, "encoders.json", lambda e: e["encoders"].append(shelf))
    refuse(bundle, "encoders.json: should be an encoders file, but key 'encoders.3.buckets': .*, received inf")


def test_a_changed_calibration_is_refused(bundle: Path) -> None:
    edit_and_sign(bundle, "calibration.json", lambda c: c["steps"][0]["parameters"].update(slope=2.0))
    refuse(bundle, "calibration.json: has changed or is damaged")


def test_scores_do_not_depend_on_the_batch(bundle: Path) -> None:
    opened = Bundle.load(bundle, threads=2)
    table = pa.table({name: values * 300 for name, values in RAW.items()})
    together = opened.score(table)
    assert together.reach.shape == together.transition.shape == (900, 2) and together.value is None
    assert together.reach.dtype == np.float32
    assert (np.diff(together.reach, axis=1) <= 0).all()
    for row in range(3):
        alone = opened.score(table.slice(row, 1))
        np.testing.assert_allclose(alone.reach[0], together.reach[row + 600], rtol=0, atol=1e-6)
    none = opened.score(table.slice(0, 0))
    assert none.reach.shape == none.transition.shape == (0, 2)


def test_wrong_rows_name_the_column(bundle: Path) -> None:
    opened = Bundle.load(bundle)
    with pytest.raises(DataError, match="rows should have the column 'page'; known: item, tags"):
        opened.score(pa.table({name: RAW[name] for name in ("item", "tags")}))
    with pytest.raises(DataError, match="column 'tags' should hold lists, received type"):
        opened.score(pa.table({**RAW, "tags": ["red", "red", "red"]}))


def test_the_version_follows_the_content(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    opened, copy = Bundle.load(bundle), Bundle.load(tmp_path / "copy")
    assert opened.version == copy.version and len(opened.version) == 12
    (tmp_path / "copy" / "README.md").write_text("another card")
    sign(tmp_path / "copy", "README.md")
    assert Bundle.load(tmp_path / "copy").version != opened.version


def test_verify_returns_the_largest_difference(bundle: Path) -> None:
    assert 0.0 <= Bundle.load(bundle).verify() < TOLERANCE


def test_a_missing_runtime_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ONNX Runtime, .*pip install 'funnelcast\[export\]'"):
        Bundle.load(bundle)


def test_no_torch_is_loaded_to_score(bundle: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import pyarrow as pa
from funnelcast.serving import Bundle
scored = Bundle.load(Path({str(bundle)!r})).score(pa.table({RAW!r}))
assert scored.reach.shape == (3, 2)
heavy = {{"torch", "onnx", "duckdb", "sklearn", "matplotlib"}} & set(sys.modules)
print(*heavy)
sys.exit(len(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
