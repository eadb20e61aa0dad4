"""What a second command over the same folder may meet: other inputs, missing parts, plans of other versions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bundles_on_disk import edit_json
from tests.serving.raw_files import before_piece, bundle, checksums, folder, names, raw_rows, scored_pieces

from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.files import write_json
from funnelcast.serving import Bundle, score_files
from funnelcast.serving.score_files import score_files as score

__all__ = ["bundle", "folder"]  # fixtures of another file


def stop() -> None:
    raise KeyboardInterrupt


def footer(path: Path) -> bytes:
    data = path.read_bytes()
    return data[-8 - int.from_bytes(data[-8:-4], "little") :]


def test_values_that_traded_places_make_another_input(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = folder / "day-0.parquet", raw_rows(250)
    plain: dict[str, Any] = {"row_group_size": 40, "compression": "none", "use_dictionary": False}
    pq.write_table(rows, path, **plain)
    size, end = path.stat().st_size, footer(path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_piece(patch, 4, stop)
        score(bundle, folder, tmp_path / "out")
    assert checksums(tmp_path / "out")
    pages = rows["page"].to_pylist()
    here, there = pages.index("home"), pages.index("search")
    pages[here], pages[there] = pages[there], pages[here]
    pq.write_table(rows.set_column(3, "page", pa.array(pages)), path, **plain)
    assert (
        max(here, there) < 40
        and path.stat().st_size == size
        and footer(path) == end
        and not pq.read_table(path).equals(rows)
    )
    with pytest.raises(ConfigError, match=r"scores of other files \(day-0.parquet differs in modified_ns\); choose"):
        score(bundle, folder, tmp_path / "out")


def test_a_copy_that_keeps_the_times_is_the_same_input(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_piece(patch, 4, stop)
        score(bundle, folder, tmp_path / "out")
    done = len(checksums(tmp_path / "out"))
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    sizes = scored_pieces(monkeypatch)
    assert score(bundle, tmp_path / "copy", tmp_path / "out") == 340
    assert done == 1 and sum(sizes) == 340 - 80


def test_a_file_more_or_less_is_named(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    score(bundle, folder, tmp_path / "out")
    shutil.copy2(folder / "day-1.parquet", folder / "day-2.parquet")
    with pytest.raises(
        ConfigError, match=r"other files and other parts \(day-2.parquet is new\); choose another folder"
    ):
        score(bundle, folder, tmp_path / "out")
    (folder / "day-2.parquet").unlink()
    (folder / "day-1.parquet").unlink()
    with pytest.raises(
        ConfigError, match=r"other files and other parts \(day-1.parquet is gone\); choose another folder"
    ):
        score(bundle, folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("piece", "name", "written"),
    [
        (0, "day-1", ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]),
        (5, "day-0", ["part-00000.parquet"]),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_changes_meanwhile_is_refused(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, piece: int, name: str, written: list[str], gone: bool
) -> None:
    path, out = folder / f"{name}.parquet", folder.parent / "out"
    before_piece(monkeypatch, piece, path.unlink if gone else lambda: os.utime(path, ns=(1, 1)))
    what = "cannot be read any more: No such file or directory" if gone else "was written again"
    with pytest.raises(DataError, match=rf"{name}.parquet: should stay as it was when the command began, but {what}$"):
        score(bundle, folder, out)
    assert names(out) == ["_PLAN.json", *written]


def test_a_plan_of_another_version(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(bundle, folder, out)

    def age(record: Any) -> None:
        record["format"] = 1
        for file in record["files"]:
            del file["modified_ns"]

    edit_json(out / "_PLAN.json", age)
    before = checksums(out)
    with pytest.raises(
        ConfigError, match="holds scores by another version of funnelcast, plan format 1 instead of 2; choose another"
    ):
        score(bundle, folder, out)
    for path in out.glob("part-*"):
        path.unlink()
    assert score(bundle, folder, out) == 340 and checksums(out) == before


def test_success_goes_before_another_plan_is_written(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    score(bundle, folder, out)
    for path in out.glob("part-*"):
        path.unlink()

    def watched(path: Path, value: Any) -> None:
        assert not (out / "_SUCCESS").exists()
        write_json(path, value)

    monkeypatch.setattr(score_files, "write_json", watched)
    before_piece(monkeypatch, 4, stop)
    with pytest.raises(KeyboardInterrupt):
        score(bundle, folder, out, keep=["key"])
    assert names(out) == ["_PLAN.json", "part-00000.parquet"]
    score(bundle, folder, out, keep=["key"])
    assert (out / "_SUCCESS").exists()


def test_parts_that_are_missing_beside_success_are_scored_again(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    score(bundle, folder, out)
    before = checksums(out)
    (out / "part-00002.parquet").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_piece(patch, 0, stop)
        score(bundle, folder, out)
    assert not (out / "_SUCCESS").exists()
    sizes = scored_pieces(monkeypatch)
    score(bundle, folder, out)
    assert sum(sizes) == 90 and checksums(out) == before and (out / "_SUCCESS").exists()


def test_success_stays_where_a_command_is_refused_and_goes_from_damaged_parts(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score(bundle, folder, out)
    with pytest.raises(ConfigError, match="holds scores of another keep; choose another folder"):
        score(bundle, folder, out, keep=["key"])
    assert (out / "_SUCCESS").exists()
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"part-00001.parquet: is damaged, remove it"):
        score(bundle, folder, out)
    assert not (out / "_SUCCESS").exists()
