"""Pieces of parts: few rows, few bytes; and raw files that are damaged or do not fit, named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.serving.raw_files import bundle, checksums, folder, names, raw_rows, scored_pieces

from funnelcast.errors import ArtifactError, DataError
from funnelcast.serving import Bundle, score_files_pieces
from funnelcast.serving.plan import Plan
from funnelcast.serving.score_files import score_files as score

__all__ = ["bundle", "folder"]  # fixtures of another file


def damage(path: Path, row_group: int, column: int) -> None:
    """Overwrite the first page of a column chunk, head and all."""
    chunk = pq.read_metadata(path).row_group(row_group).column(column)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)


def long_text(rows: int, size: int) -> list[str]:
    return ["".join(row) for row in np.random.default_rng(0).choice(list("abcdefgh"), (rows, size))]


def test_a_piece_has_few_rows(bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = scored_pieces(monkeypatch)
    score(bundle, folder, tmp_path / "out")
    assert max(sizes) <= 30 and sum(sizes) == 340


@pytest.mark.parametrize("repeated", [False, True])
def test_pieces_of_long_rows_have_few_bytes_and_parts_stay(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    score(bundle, folder, tmp_path / "short", keep=["key"])
    text = long_text(1, 1000) * 250 if repeated else long_text(250, 1000)
    long = raw_rows(250).append_column("text", pa.array(text))
    pq.write_table(long, folder / "day-0.parquet", row_group_size=40)
    pq.write_table(long.slice(0, 90), folder / "day-1.parquet", row_group_size=40)
    monkeypatch.setattr(score_files_pieces, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(score_files_pieces, "READ_ROWS", 4)
    sizes = scored_pieces(monkeypatch)
    score(bundle, folder, tmp_path / "out", keep=["key", "text"])
    assert sum(sizes) == 340 and max(sizes) <= 9
    assert names(tmp_path / "out") == names(tmp_path / "short")
    parts = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert [part.num_rows for part in parts] == [80, 80, 90, 90]
    found = pa.concat_tables(parts)
    assert found["text"].to_pylist() == [*text, *text[:90]]
    np.testing.assert_allclose(found["reach_buy"].to_numpy()[:250], bundle.score(long).reach[:, 1], rtol=1e-5)
    score(bundle, folder, tmp_path / "again", keep=["key", "text"])
    assert checksums(tmp_path / "again") == checksums(tmp_path / "out")


def test_memory_holds_a_piece_and_neither_a_part_nor_a_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"key": np.arange(20_000), "text": long_text(20_000, 1000)}
    pq.write_table(pa.table(rows), tmp_path / "long.parquet", compression="none", use_dictionary=False)
    monkeypatch.setattr(score_files_pieces, "PIECE_BYTES", 1 << 20)
    plan, pool = Plan.of(tmp_path / "long.parquet"), pa.default_memory_pool()
    assert len(plan.parts) == 1 and plan.files[0].bytes > 20_000_000
    del rows
    before, held, starts, sizes = pool.bytes_allocated(), [], [], []
    for first, piece in score_files_pieces.pieces(tmp_path / "long.parquet", plan.files[0], plan.parts[0], ["text"]):
        held.append(pool.bytes_allocated() - before)
        starts.append(first)
        sizes.append(piece.num_rows)
    assert starts == [0, *np.cumsum(sizes)[:-1]] and sum(sizes) == 20_000
    assert 500_000 < max(held) < 6_000_000


def test_a_damaged_file_is_named_with_its_row_group(bundle: Bundle, folder: Path, tmp_path: Path, command: Any) -> None:
    damage(folder / "day-1.parquet", 1, 1)
    with pytest.raises(
        DataError, match=r"in/day-1.parquet: row group 1 should be readable, but is damaged: "
    ) as caught:
        score(bundle, folder, tmp_path / "out")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(folder / "day-1.parquet"))
    assert names(tmp_path / "out") == ["_PLAN.json", *(f"part-{number:05d}.parquet" for number in range(3))]
    code, _, error = command("score", str(bundle.folder), str(folder), str(tmp_path / "out"))
    assert code == 2 and error.startswith(f"error: {folder / 'day-1.parquet'}: row group 1") and error.count("\n") == 1


@pytest.mark.parametrize("junk", [b"A", b"!"])
def test_a_damaged_footer_is_told_as_one(bundle: Bundle, folder: Path, tmp_path: Path, junk: bytes) -> None:
    path = folder / "day-1.parquet"
    data = bytearray(path.read_bytes())
    start = data.index(b"ARROW:schema") + 20
    data[start : start + 200] = junk * 200
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"day-1.parquet: should be a Parquet file, received another or a damaged"
    ) as at:
        score(bundle, folder, tmp_path / "out")
    assert "\n" not in str(at.value)
    path.write_bytes(data[:-60] + b"\xff" * 52 + data[-8:])
    with pytest.raises(
        DataError, match=r"day-1.parquet: should be a Parquet file, received another or a damaged"
    ) as at:
        score(bundle, folder, tmp_path / "out")
    assert "\n" not in str(at.value)


def test_a_target_that_cannot_be_written_is_told_as_one(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("[Errno 28] No space left on device\nand another line")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(ArtifactError, match=r"out: scores could not be written: \[Errno 28\] No space left on device$"):
        score(bundle, folder, tmp_path / "out")


def test_the_row_that_does_not_fit_is_named(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    path, rows = folder / "day-1.parquet", raw_rows(90, 1)
    tags = [[1.0, 2.0] for _ in range(90)]
    tags[66] = [3.0, 1.5]
    tags[70] = [2.5]
    pq.write_table(rows.set_column(2, "tags", pa.array(tags)), path, row_group_size=40)
    with pytest.raises(DataError, match=r"day-1.parquet: row 67: column 'tags' should hold .*: Float value 1\.5") as at:
        score(bundle, folder, tmp_path / "out")
    assert str(at.value).startswith(str(path))
    pq.write_table(rows.set_column(2, "tags", rows["page"]), path, row_group_size=40)
    with pytest.raises(DataError, match=r"day-1.parquet: column 'tags' should hold lists, received type string$"):
        score(bundle, folder, tmp_path / "other")
