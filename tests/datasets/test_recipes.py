"""KuaiRand, Retrosheet, GA4 and Hillstrom on generated rows in the published layout."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from funnelcast.data.prepare import prepare
from funnelcast.datasets import ga4, hillstrom, kuairand, retrosheet
from funnelcast.errors import ConfigError
from funnelcast.registry import DATASETS
from funnelcast.schema import Schema

Rows = dict[str, list[Any]]


def funnel(row: int, n_steps: int) -> list[int]:
    """Row r reaches r % (n_steps + 1) steps, so every depth occurs in any n_steps + 1 rows in a row."""
    return [int(row % (n_steps + 1) > step) for step in range(n_steps)]


def rows_with(count: int, steps: tuple[str, ...], cell: Callable[[str, int], object], columns: list[str]) -> Rows:
    rows: Rows = {column: [cell(column, row) for row in range(count)] for column in columns}
    for step, name in enumerate(steps):
        rows[name] = [funnel(row, len(steps))[step] for row in range(count)]
    return rows


def kuairand_rows() -> Rows:
    """42 impressions, three a day from 2022-04-25 on."""

    def cell(column: str, row: int) -> object:
        day = datetime.date(2022, 4, 25) + datetime.timedelta(days=row // 3)
        special = {
            "time_utc": datetime.datetime(2022, 4, 24, 20) + datetime.timedelta(days=row // 3, minutes=row),
            "date": day,
            "video_tags": [None, "39", "39,43", "1,2,3"][row % 4],
            "upload_dt": datetime.date(2022, 4, 9 + row % 3),
            "video_duration": None if row % 7 == 0 else 5000.0 + row,
        }
        if column in special:
            return special[column]
        if column in kuairand.NUMBERS or column.startswith("outcome_") or column in ("hour", "is_live_streamer"):
            return row * 31 % 17
        return f"v{row % 5}"

    columns = ["time_utc", "date", "video_tags", *kuairand.IDS, *kuairand.CATEGORIES, *kuairand.NUMBERS]
    columns += ["outcome_is_like", "outcome_play_time_ms"]
    return rows_with(42, ("click", "long_view", "engage"), cell, columns)


def retrosheet_rows() -> Rows:
    """48 pitches, four a day around the borders of the parts."""
    days = [datetime.date(2022, 6, 26), datetime.date(2022, 6, 30), datetime.date(2022, 7, 1)]
    days += [datetime.date(2022, 7, 31), datetime.date(2022, 8, 1), datetime.date(2022, 10, 5)]

    def cell(column: str, row: int) -> object:
        if column == "game_date":
            return days[row // 8]
        if column in ("temp_f", "wind_speed_mph", "pitcher_pitch_count", "balls", "strikes", "inning"):
            return None if column == "temp_f" and row % 9 == 0 else row * 7 % 11
        return f"v{row % 4}"

    columns = ["game_id", "game_date", *retrosheet.PEOPLE, *retrosheet.CATEGORIES]
    columns += ["pitcher_pitch_count", "temp_f", "wind_speed_mph"]
    return rows_with(48, ("swing", "contact", "in_play", "hit", "extra_base_hit"), cell, columns)


def ga4_rows() -> Rows:
    """40 sessions of eight weeks."""

    def cell(column: str, row: int) -> object:
        if column == "week_start_date":
            return datetime.date(2020, 12, 7) + datetime.timedelta(weeks=row // 5)
        return f"v{row % 3}"

    steps = ("view_item", "begin_checkout", "add_payment_info", "purchase")
    return rows_with(40, steps, cell, ["week_start_date", *ga4.FIELDS])


def hillstrom_rows() -> Rows:
    def cell(column: str, row: int) -> object:
        return {"history": 29.99 + row, "spend": 0.0}.get(column, f"v{row % 3}")

    return rows_with(50, hillstrom.STEPS, cell, [*hillstrom.CATEGORIES, "history", "spend"])


def prepared(name: str, source: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], Schema]:
    description = DATASETS.create(name, options=options).describe(source, folder / "work")
    manifest = prepare(description, folder / "out")
    return manifest, Schema.load(folder / "out" / "schema.json")


def check_parts(manifest: dict[str, Any], rows: Rows, steps: list[str], parts: dict[str, list[int]]) -> None:
    """Compare rows and positives of every part with the rows that should be in it."""
    for part, members in parts.items():
        assert manifest["splits"][part]["rows"] == len(members)
        assert manifest["splits"][part]["positives"] == {step: sum(rows[step][r] for r in members) for step in steps}
    assert manifest["left_out"] == 0


def test_kuairand(tmp_path: Path) -> None:
    rows = kuairand_rows()
    pq.write_table(pa.table(rows), tmp_path / "impressions.parquet")
    manifest, schema = prepared("kuairand", tmp_path, tmp_path, min_count=1, statistics=["tab", "user_id*hour"])
    assert schema.step_names == ["click", "long_view", "engage"]
    parts = {"train": list(range(27)), "valid": list(range(27, 33)), "test": list(range(33, 42))}
    check_parts(manifest, rows, schema.step_names, parts)
    names = [field.name for field in schema.fields]
    assert len(names) == 4 + 33 + 1 + 6 + 2 * 4  # ids, categories, tags, numbers, (3 steps + count) a statistic
    assert not any("outcome" in name or name in ("date", "time_utc") for name in names)
    assert schema.fields[names.index("video_tags")].max_length == 3
    assert schema.fields[names.index("video_tags")].size == 2 + 5  # 39, 43, 1, 2, 3
    assert schema.has_user


def test_kuairand_refuses_statistics_of_what_is_no_feature() -> None:
    with pytest.raises(ConfigError, match=r"should name categorical features, received 'outcome_is_like'; known: "):
        kuairand.Kuairand(statistics=("tab*outcome_is_like",))


def test_retrosheet(tmp_path: Path) -> None:
    rows = retrosheet_rows()
    pq.write_table(pa.table(rows), tmp_path / "any_name.parquet")
    manifest, schema = prepared("retrosheet", tmp_path / "any_name.parquet", tmp_path, min_count=1)
    assert schema.step_names == ["swing", "contact", "in_play", "hit", "extra_base_hit"]
    parts = {"train": list(range(16)), "valid": list(range(16, 32)), "test": list(range(32, 48))}
    check_parts(manifest, rows, schema.step_names, parts)
    assert schema.n_fields == 4 + 19 + 3
    assert not {"game_id", "game_date", "season", "pitch_index_in_game"} & {field.name for field in schema.fields}


def test_ga4(tmp_path: Path) -> None:
    rows = ga4_rows()
    pq.write_table(pa.table(rows), tmp_path / "sessions.parquet")
    manifest, schema = prepared("ga4", tmp_path, tmp_path, min_count=1)
    parts = {"train": list(range(20)), "valid": list(range(20, 30)), "test": list(range(30, 40))}
    check_parts(manifest, rows, schema.step_names, parts)
    assert [field.size for field in schema.fields] == [2 + 3] * 4


@pytest.mark.parametrize("layout", ["csv", "parquet", "shuffled parquet"])
def test_hillstrom(tmp_path: Path, layout: str) -> None:
    rows = hillstrom_rows()
    table = pa.table(rows)
    if layout == "csv":  # the published file: no row_id, the number of the line counts
        pa_csv.write_csv(table, tmp_path / "emails.csv")
    else:
        table = table.append_column("row_id", pa.array(range(50), pa.uint32()))
        order = [row * 7 % 50 for row in range(50)] if layout.startswith("shuffled") else list(range(50))
        pq.write_table(table.take(order), tmp_path / "emails.parquet")
    manifest, schema = prepared("hillstrom", tmp_path, tmp_path)
    parts = {
        "train": [row for row in range(50) if row % 10 < 7],
        "valid": [row for row in range(50) if row % 10 == 7],
        "test": [row for row in range(50) if row % 10 > 7],
    }
    check_parts(manifest, rows, schema.step_names, parts)
    assert [field.name for field in schema.fields] == [*hillstrom.CATEGORIES, "history"]
    written = pq.read_table(tmp_path / "work" / "hillstrom.parquet")
    assert written["row_id"].to_pylist() == list(range(50))
    assert "spend" not in written.column_names
