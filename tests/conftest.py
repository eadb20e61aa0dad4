"""A small prepared folder, written by hand so that its row groups are tiny."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from funnelcast.cli import main
from funnelcast.data.encode import Encoders, Multi, Vocabulary
from funnelcast.files import sha256, write_json
from funnelcast.schema import Field, Schema, Step

Maker = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]

ROWS = {"train": 1000, "valid": 300, "test": 300}
GROUP = 40  # rows of a row group: TRAIN has 25 of them, so 4 buffers of 8 groups
GROUPS_PER_FILE = 10


def _schema() -> Schema:
    return Schema(
        dataset="handmade",
        fields=(Field(name="item", size=9), Field(name="tags", size=6, max_length=3), Field(name="page", size=4)),
        steps=(
            Step(name="click", reach_rate=0.5, transition_rate=0.5),
            Step(name="buy", reach_rate=0.2, transition_rate=0.4),
        ),
        has_user=True,
    )


def _table(rows: int, draw: np.random.Generator) -> pa.Table:
    item = draw.integers(0, 9, rows)
    click = draw.random(rows) < 0.2 + 0.6 * (item > 4)
    buy = click & (draw.random(rows) < 0.4)
    lengths = draw.integers(1, 4, rows)
    return pa.table(
        {
            "field.item": pa.array(item, pa.int32()),
            "field.tags": pa.array([draw.integers(1, 6, n).tolist() for n in lengths], pa.list_(pa.int32())),
            "field.page": pa.array(draw.integers(0, 4, rows), pa.int32()),
            "label.click": pa.array(click.astype(np.int8)),
            "label.buy": pa.array(buy.astype(np.int8), mask=draw.random(rows) < 0.1),
            "user": pa.array(draw.integers(0, 20, rows)),
        }
    )


@pytest.fixture
def make_prepared(tmp_path: Path) -> Maker:
    """Return a function that writes a prepared folder."""

    def make(name: str = "data", seed: int = 0, rows: dict[str, int] = ROWS) -> Path:
        folder = tmp_path / name
        draw = np.random.default_rng(seed)
        splits = {}
        for split, count in rows.items():
            (folder / split).mkdir(parents=True)
            table, files = _table(count, draw), []
            for number, start in enumerate(range(0, count, GROUP * GROUPS_PER_FILE)):
                path = folder / split / f"part-{number:05d}.parquet"
                part = table.slice(start, GROUP * GROUPS_PER_FILE)
                pq.write_table(part, path, row_group_size=GROUP)
                files.append(
                    {"path": f"{split}/{path.name}", "rows": part.num_rows, "bytes": path.stat().st_size}
                    | {"sha256": sha256(path)}
                )
            splits[split] = {"rows": count, "files": files}
        _schema().save(folder / "schema.json")
        Encoders(
            [
                Vocabulary("item", "item", pa.array([f"item {number}" for number in range(7)])),
                Vocabulary("tags", "tags", pa.array(["red", "green", "blue", "grey"]), Multi(None, 3)),
                Vocabulary("page", "page", pa.array(["home", "search"])),
            ]
        ).save(folder / "encoders.json")
        checksums = {file: sha256(folder / file) for file in ("schema.json", "encoders.json")}
        write_json(folder / "manifest.json", {"format": 1, "dataset": "handmade", "splits": splits, "files": checksums})
        return folder

    return make


@pytest.fixture
def prepared(make_prepared: Maker) -> Path:
    """A prepared folder of 1,600 rows and two steps."""
    return make_prepared()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run side by side, one thread each."""
    torch.set_num_threads(1)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `funnelcast ...` in this process; returns exit code, output and errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["funnelcast", *words])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
