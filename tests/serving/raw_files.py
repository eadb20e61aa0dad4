"""Raw files and a bundle that scores them, for all tests of `score_files`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bundles_on_disk import train_run

from funnelcast.export import export_run
from funnelcast.files import sha256
from funnelcast.serving import Bundle, plan, score_files_pieces


@pytest.fixture
def bundle(make_prepared: Callable[[], Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle, exported once."""
    kept = tmp_path_factory.getbasetemp() / "plain-bundle"
    if not kept.exists():
        export_run(train_run(tmp_path / "run", make_prepared(), hidden=[4]), "onnx", kept)
    return Bundle.load(kept)


def raw_rows(rows: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    items = [None if number == 8 else f"item {number}" for number in draw.integers(0, 9, rows)]
    tags = [["red", "blue"][: int(n)] for n in draw.integers(0, 3, rows)]
    pages = draw.choice(["home", "search", "other"], rows)
    return pa.table({"key": np.arange(rows) + 1000 * seed, "item": items, "tags": tags, "page": pages})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of 250 and 90 rows in row groups of 40, in parts of at most 100 rows and pieces of 30."""
    monkeypatch.setattr(plan, "PART_ROWS", 100)
    monkeypatch.setattr(score_files_pieces, "PIECE_ROWS", 30)
    monkeypatch.setattr(score_files_pieces, "READ_ROWS", 10)
    (tmp_path / "in").mkdir()
    for seed, rows in enumerate((250, 90)):
        pq.write_table(raw_rows(rows, seed), tmp_path / "in" / f"day-{seed}.parquet", row_group_size=40)
    (tmp_path / "in" / "notes.txt").write_text("no rows")
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.glob("part-*.parquet")}


def scored_pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many rows every call of a bundle scores."""
    honest, sizes = Bundle.score, []

    def noted(self: Bundle, table: pa.Table) -> Any:
        sizes.append(table.num_rows)
        return honest(self, table)

    monkeypatch.setattr(Bundle, "score", noted)
    return sizes


def before_piece(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], Any]) -> None:
    """Do something before a piece is scored, counted from 0 over all parts."""
    honest, calls = Bundle.score, iter(range(number + 1))

    def watched(self: Bundle, table: pa.Table) -> Any:
        if next(calls, None) == number:
            act()
        return honest(self, table)

    monkeypatch.setattr(Bundle, "score", watched)
