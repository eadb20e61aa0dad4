"""AliExpress from generated files in the layout of Multitask-Recommendation-Library."""

from __future__ import annotations

import csv
import hashlib
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from funnelcast.data.prepare import prepare
from funnelcast.datasets.aliexpress import CATEGORIES, NUMBERS, SEARCH, AliExpress
from funnelcast.errors import ConfigError, DataError
from funnelcast.schema import Schema


def in_valid(search: int, percent: int = 10) -> bool:
    """The rule of the split, worked out apart: the last eight bytes of the MD5, little-endian."""
    digest = hashlib.md5(str(search).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little") % 100 < percent


def write(folder: Path, train: int = 600, test: int = 80, seed: int = 0, drop: str = "") -> dict[str, list[list[str]]]:
    """Write train.csv and test.csv and return their rows; every search shows four items."""
    draw, written = random.Random(seed), {}
    folder.mkdir(parents=True, exist_ok=True)
    heads = [SEARCH, *CATEGORIES, *NUMBERS, "click", "conversion"]
    for part, count in (("train", train), ("test", test)):
        rows = []
        for row in range(count):
            click = draw.random() < 0.4
            buy = click and draw.random() < 0.4
            cells = [str(row // 4), *(str(draw.randrange(5)) for _ in CATEGORIES)]
            cells += [f"{draw.choice([0.0, draw.random()]):.6g}" for _ in NUMBERS]
            rows.append([*cells, *(f"{int(label)}{'.0' if part == 'test' else ''}" for label in (click, buy))])
        written[part] = rows
        kept = [number for number, head in enumerate(heads) if head != drop]
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([row[number] for number in kept] for row in [heads, *rows])
    return written


def test_official_test_and_a_stable_tenth_of_the_searches(tmp_path: Path) -> None:
    rows = write(tmp_path / "raw" / "AliExpress_FR")
    description = AliExpress(country="FR", buckets=4).describe(tmp_path / "raw", tmp_path / "work")
    manifest = prepare(description, tmp_path / "out")
    held_out = [row for row in rows["train"] if in_valid(int(row[0]))]
    assert 0 < len(held_out) < 120 and len(held_out) % 4 == 0
    parts = {"train": [row for row in rows["train"] if row not in held_out], "valid": held_out, "test": rows["test"]}
    for part, members in parts.items():
        assert manifest["splits"][part]["rows"] == len(members)
        assert manifest["splits"][part]["positives"] == {
            "click": sum(float(row[-2]) == 1 for row in members),
            "conversion": sum(float(row[-1]) == 1 for row in members),
        }
    schema = Schema.load(tmp_path / "out" / "schema.json")
    assert (schema.dataset, schema.protocol) == ("aliexpress_fr", "official_split")
    assert [field.name for field in schema.fields] == [*CATEGORIES, *NUMBERS]
    assert manifest["description"]["protocol"] == "official_split"
    first = pq.read_table(tmp_path / "work" / "aliexpress_test.parquet").slice(0, 1).to_pylist()[0]
    assert first["split"] == "test" and first["categorical_3"] == int(rows["test"][0][3])
    assert first["numerical_63"] == float(rows["test"][0][79])


def test_the_countrys_own_folder_will_do_as_well(tmp_path: Path) -> None:
    write(tmp_path / "NL", train=40, test=8)
    assert AliExpress().describe(tmp_path / "NL", tmp_path / "work").name == "aliexpress_nl"
    with pytest.raises(DataError, match=r"should hold train\.csv, test\.csv, missing: train\.csv, test\.csv\. Where"):
        AliExpress().describe(tmp_path, tmp_path / "work")


def test_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "short", train=8, test=8, drop="numerical_7")
    with pytest.raises(DataError, match=r"train\.csv: should have the column\(s\) numerical_7, received only"):
        AliExpress().describe(tmp_path / "short", tmp_path / "work")
    write(tmp_path / "wrong", train=8, test=8)
    text = (tmp_path / "wrong" / "test.csv").read_text(encoding="utf-8")
    (tmp_path / "wrong" / "test.csv").write_text(text.replace("\n1,", "\nx,", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.csv: should be a readable table, received: .*x") as caught:
        AliExpress().describe(tmp_path / "wrong", tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["aliexpress_train.parquet"]  # nothing half-written


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'valid_percent' should be in 1\.\.50, received 60"):
        AliExpress(valid_percent=60)
