"""Reading logs: ids as they are written, folders that are no columns, and numbers that cannot be counted with."""

from __future__ import annotations

import json
import re
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.errors import DataError
from funnelcast.experiment.analysis import analyse
from funnelcast.experiment.analysis_page import write_analysis
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.covariate import Covariate
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.joined import Files, Joined, join_logs
from funnelcast.experiment.logs import open_log
from funnelcast.experiment.looks import Rules

from .logs_on_disk import World, at, write_lines

UPPER = [str(uuid.UUID(int=number * 2**100 + 10)).upper() for number in range(1, 5)]
DATES = ["2000-2-2", "2000-02-02", "2000-2-3", "1999-1-1"]
TIMES = ["0:00:00", "00:00:01", "1:2:3", "2:00:00"]
MOMENTS = ["2000-2-2 1:00:00", "2000-02-02T01:00:00Z", "2000-02-03T01:00:00+02:00", "2000-02-04 01:00:00"]


def exposures(users: list[Any], **more: list[Any]) -> dict[str, list[Any]]:
    names = ["AB"[number % 2] for number in range(len(users))]
    return {"time": [at(1 + number / 8) for number in range(len(users))], "user": users, "variant": names, **more}


def outcomes(users: list[Any], **more: list[Any]) -> dict[str, list[Any]]:
    return {"user": users, "time": [at(3)] * len(users), "click": [1] * len(users), **more}


def lines(path: Path, columns: dict[str, list[Any]]) -> str:
    return write_lines(path, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def parquet(path: Path, columns: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def join(shown: str, done: str, covariate: Covariate | None = None, **attribution: Any) -> Joined:
    return join_logs(Files((shown,), (done,), covariate, threads=1), Split({}), Attribution(**attribution))


def texts(path: str, column: str = "user") -> list[str | None]:
    with duckdb.connect() as connection:
        log = open_log(connection, [path], "exposures")
        return [row[0] for row in connection.execute(f"SELECT {log.text(column)} FROM {log.relation}").fetchall()]


@pytest.mark.parametrize("ids", [UPPER, DATES, TIMES, MOMENTS])
def test_ids_of_json_lines_are_text_as_they_are_written(tmp_path: Path, ids: list[str]) -> None:
    done = lines(tmp_path / "o.jsonl", outcomes(ids))
    logs = [
        parquet(tmp_path / "e.parquet", exposures(ids)),
        lines(tmp_path / "e.jsonl", exposures(ids)),
        lines(tmp_path / "mixed.jsonl", exposures([*ids, "anonymous", 7])),
    ]
    for shown in logs:
        assert texts(shown)[:4] == ids
        assert join(shown, done).counts["outcomes"]["kept"] == 4
    requests = lines(tmp_path / "r.jsonl", {"request_id": ids, "click": [1, 1, 1, 1]})
    shown = parquet(tmp_path / "r.parquet", exposures(["a", "b", "c", "d"], request_id=ids))
    assert join(shown, requests).counts["outcomes"]["kept"] == 4


def test_names_of_variants_and_experiments_are_text_as_they_are_written(tmp_path: Path) -> None:
    columns = exposures(["a", "b"], experiment=["2026-3-1"] * 2) | {"variant": UPPER[:2]}
    shown, done = lines(tmp_path / "e.jsonl", columns), lines(tmp_path / "o.jsonl", outcomes(["a", "b"]))
    split = Split(dict.fromkeys(UPPER[:2], 0.5), experiment="2026-3-1")
    joined = join_logs(Files((shown,), (done,), threads=1), split, Attribution())
    assert joined.arm.tolist() == [0, 1] and joined.experiment == "2026-3-1"


def test_whole_numbers_are_the_same_ids_in_every_column(tmp_path: Path) -> None:
    ids = [7, 8, 9, 10]
    columns: dict[str, Any] = {
        "whole.parquet": ids,
        "float.parquet": pa.array([7.0, 8.0, 9.0, 10.0, None]),
        "nan.parquet": pa.array([7.0, 8.0, 9.0, 10.0, float("nan")]),
        "decimal.parquet": pa.array([7, 8, 9, 10]).cast(pa.decimal128(21, 2)),
        "whole.jsonl": ids,
        "float.jsonl": [7.0, 8, 9.0, 10.0, None, 0.5],
        "mixed.jsonl": [7.0, 8, 9.0, "10", "anonymous", None, {"id": 7}],
    }
    done = [lines(tmp_path / "o.jsonl", outcomes(ids)), lines(tmp_path / "f.jsonl", outcomes([7.0, 8.0, 9.0, 10.5]))]
    for name, users in columns.items():
        write = parquet if name.endswith("parquet") else lines
        shown = write(tmp_path / name, exposures(users))
        assert texts(shown)[:4] == ["7", "8", "9", "10"], name
        assert [join(shown, one).counts["outcomes"]["kept"] for one in done] == [4, 3], name
    assert texts(str(tmp_path / "nan.parquet"))[4] is None
    assert texts(lines(tmp_path / "texts.jsonl", {"user": ["7.0", "007", -0.0, 1e3, 7.25, True]})) == [
        *("7.0", "007", "0", "1000", "7.25", "true")
    ]


def test_ids_of_many_digits_keep_all_of_them(tmp_path: Path) -> None:
    ids = [2**53 + 1, 2**53 + 2, 10**20 + 1, 10**20 + 2, 0.5]
    path = lines(tmp_path / "e.jsonl", exposures(ids))
    assert texts(path) == [str(number) for number in ids]
    done = lines(tmp_path / "o.jsonl", outcomes(ids[:4], event_id=ids[:4]) | {"user": ids[:1] * 4})
    assert join(path, done).counts["outcomes"]["repeated"] == 0


@pytest.mark.parametrize("name", ["e.parquet", "e.jsonl"])
def test_ids_that_have_lost_digits_are_refused(tmp_path: Path, name: str) -> None:
    columns = exposures([1.0, 2.0**53 + 2, 2.0**60, None])
    shown = (parquet if name == "e.parquet" else lines)(tmp_path / name, columns)
    done = lines(tmp_path / "o.jsonl", outcomes([1]))
    words = (
        r"column 'user' should hold text or whole numbers, .*, received '9007199254740994.0' in row 2, the first of 2$"
    )
    with pytest.raises(DataError, match=rf"exposures .*{name}: {words}"):
        join(shown, done)


@pytest.mark.parametrize(
    ("time", "read"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01 12:00:00"),
        ("2026-03-01 12:00:00.25", "2026-03-01 12:00:00.25"),
        ("2026-03-01T12:00:00+02:00", "2026-03-01 10:00:00"),
        ("2026-03-01", "2026-03-01 00:00:00"),
        ("2026-3-1 1:2:3", "2026-03-01 01:02:03"),
        ("03-01-2026", None),
        ("26-03-01", None),
        ("12:00:00", None),
        ("infinity", None),
    ],
)
def test_times_of_json_lines_are_read_or_refused_and_never_guessed(tmp_path: Path, time: str, read: str | None) -> None:
    shown = lines(tmp_path / "e.jsonl", exposures(["a", "b"]) | {"time": [time, time]})
    if read is None:
        with pytest.raises(DataError, match=rf"e\.jsonl: column 'time' should hold .*, received '{time}' in row 1, "):
            join(shown, lines(tmp_path / "o.jsonl", outcomes(["a"])))
        return
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        log = open_log(connection, [shown], "exposures")
        query = f"SELECT CAST({log.time('time')} AS VARCHAR) FROM {log.relation}"
        assert connection.execute(query).fetchall() == [(read,), (read,)]


def test_columns_that_are_no_ids_keep_their_types(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "user": ["a", "b"],
        "whole": [1, 2],
        "part": [1, 2.5],
        "flag": [True, None],
        "tags": [["2000-2-2"], []],
    }
    path = lines(tmp_path / "e.jsonl", columns | {"most": [2**64 - 1, -1], 'it\'s "quoted"': [1, 2]})
    with duckdb.connect() as connection:
        log = open_log(connection, [path], "exposures")
        assert [log.types[name] for name in ("whole", "part", "flag", "tags")] == [
            *("BIGINT", "DOUBLE", "BOOLEAN", "DATE[]")
        ]
        numbers = [log.number(name) for name in ("whole", "part", "flag", "most", 'it\'s "quoted"')]
        assert connection.execute(f"SELECT {', '.join(numbers)} FROM {log.relation}").fetchall() == [
            (1, 1, 1, 2.0**64, 1),
            (2, 2.5, None, -1, 2),
        ]


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    shown = lines(tmp_path / "e.jsonl", exposures(["a", "b"]))
    done = lines(tmp_path / "o.jsonl", outcomes(["a"], Click=[1]))
    with pytest.raises(DataError, match=r"o\.jsonl: columns should differ in more than upper .* 'Click', 'click'$"):
        join(shown, done)
    fine = lines(tmp_path / "fine.jsonl", outcomes(["a"], click_1=[2]))
    assert join(shown, fine).known[-1].count.tolist() == [[1, 2]]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_folders_are_no_columns(tmp_path: Path, kind: str) -> None:
    write = parquet if kind == "parquet" else lines
    shown = tmp_path / "variant=zzz" / f"e.{kind}"
    done = tmp_path / "hour=12" / "shard=0" / f"o.{kind}"
    copy = tmp_path / "hour=12" / "shard=1" / f"o.{kind}"
    for path in (shown, done, copy):
        path.parent.mkdir(parents=True)
    write(shown, exposures(["a", "b"]))
    write(done, outcomes(["a", "b"]))
    shutil.copy(done, copy)
    joined = join(str(shown), str(tmp_path / "hour=12" / "*" / f"o.{kind}"))
    assert joined.steps == ("click",) and list(joined.shares) == ["A", "B"]
    assert (joined.counts["outcomes"]["kept"], joined.counts["outcomes"]["repeated"]) == (2, 2)


def test_latencies_that_are_no_numbers_do_not_count(tmp_path: Path) -> None:
    shown, done, _ = World(users=200).write(tmp_path, service=False)
    table = pq.read_table(shown)
    latency = np.full(len(table), 3.0)
    latency[::3], latency[1::3] = np.nan, np.inf
    pq.write_table(table.append_column("latency_ms", pa.array(latency)), shown)
    found = analyse(Files((shown,), (done,), threads=1), Split({}), Attribution(), Rules())
    write_analysis(found, tmp_path / "page")
    service = json.loads((tmp_path / "page" / "ab.json").read_text())["service"]
    assert [(entry["latency_ms_p50"], entry["latency_ms_p99"]) for entry in service] == [(3, 3), (3, 3)]
    nothing = table.append_column("latency_ms", pa.array(np.full(len(table), np.nan)))
    pq.write_table(nothing, shown)
    assert join(shown, done).service == []


@pytest.mark.parametrize("amount", [1e308, 1e200, 2e50])
def test_amounts_that_cannot_be_squared_are_refused(tmp_path: Path, amount: float) -> None:
    shown = lines(tmp_path / "e.jsonl", exposures(["a", "b"]))
    words = f"column 'click' should hold finite numbers from 0 to 1e+50, or null, received '{amount:g}' in row 2"
    columns = outcomes(["a", "b"]) | {"click": [1.5, amount]}
    for done in (lines(tmp_path / "o.jsonl", columns), parquet(tmp_path / "o.parquet", columns)):
        with pytest.raises(DataError, match=re.escape(f"outcomes {done}: {words}")):
            join(shown, done)


def test_the_largest_amounts_are_analysed_without_a_warning(tmp_path: Path) -> None:
    shown, done, past = World(users=400, lift=0.5).write(tmp_path)
    table = pq.read_table(done)
    amounts = np.where(table["click"].to_numpy(zero_copy_only=False), 1e50, 0.0)
    pq.write_table(table.append_column("amount", pa.array(amounts)), done)
    before = pq.read_table(past)
    pq.write_table(before.set_column(1, "past", pa.array(before["past"].to_numpy() * 1e50)), past)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyse(Files((shown,), (done,), Covariate((past,)), threads=1), Split({}), Attribution(), Rules())
        write_analysis(found, tmp_path / "page")
    click, _, amount = found["steps"]
    assert amount["lifts"][0]["fixed"]["value"] == pytest.approx(click["lifts"][0]["fixed"]["value"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("12,5", "numbers, truth values or null, received '12,5' in row 2, the first of 2$"),
        ([1], r"numbers, truth values or null, received '\[1\]' in row 2, the first of 2$"),
        (1e200, r"numbers from -1e\+50 to 1e\+50, or null, received '1e\+200' in row 2, the first of 2$"),
    ],
)
def test_a_covariate_that_is_no_number_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    values = [12.5, value, value, None]
    shown = lines(tmp_path / "e.jsonl", exposures(["a", "b", "c", "d"], past=values))
    done = lines(tmp_path / "o.jsonl", outcomes(["a"]))
    past = lines(tmp_path / "p.jsonl", {"user": ["a", "b", "c", "d"], "past": values})
    with pytest.raises(DataError, match=rf"covariates .*p\.jsonl: column 'past' should hold {words}"):
        join(shown, done, Covariate((past,)), steps=("click",))
    with pytest.raises(DataError, match=rf"exposures .*e\.jsonl: column 'past' should hold {words}"):
        join(shown, done, Covariate(column="past"), steps=("click",))
    fine = lines(tmp_path / "fine.jsonl", {"user": ["a", "b", "c", "d"], "past": [True, "2.5", 3, None]})
    joined = join(shown, done, Covariate((fine,)), steps=("click",))
    assert joined.covariate is not None
    np.testing.assert_equal(joined.covariate, [1, 2.5, 3, np.nan])
