"""Which bundle answers whom, and what the exposure log keeps of it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from tests.serving.http.conftest import ROW, make_client
from tests.serving.http.test_overload import held_scoring

from funnelcast import arrow
from funnelcast.errors import ArtifactError, ConfigError
from funnelcast.experiment.allocation import Allocation
from funnelcast.experiment.exposure import exposure_schema
from funnelcast.serving import Bundle
from funnelcast.serving.http import file_log, variants
from funnelcast.serving.http.file_log import FileLog, check_log
from funnelcast.serving.http.settings import LogSettings, Settings, load_settings
from funnelcast.serving.http.variants import Variants

SCHEMA = exposure_schema("latency_ms")
SHARES = {"first": 0.8, "second": 0.2}


@pytest.mark.parametrize(
    ("one", "all_rows", "expected"),
    [
        (0.0002, 0.0002 + 127 * 1e-5, 80),  # (1 ms - 0.2 ms) / 10 us
        (0.0002, 0.0003, 128),  # as many as were measured
        (0.0011, 0.0020, 0),  # one row takes too long
        (0.0003, 0.0003, 128),  # a row costs nothing that a clock can see
    ],
)
def test_rows_of_a_request_that_the_event_loop_scores(
    monkeypatch: pytest.MonkeyPatch, one: float, all_rows: float, expected: int
) -> None:
    monkeypatch.setattr(variants, "_seconds", lambda bundle, columns, rows: one if rows == 1 else all_rows)
    assert abs(variants._small_rows(Mock(), {}) - expected) <= 1  # floats


def test_a_user_gets_one_variant_and_its_scores(shop: Path) -> None:
    folders = [shop / "first", shop / "second"]
    versions = {folder.name: Bundle.load(folder).version for folder in folders}
    users = [f"user {number}" for number in range(40)] + [7]
    expected = Allocation.of(SHARES).assign(users, "spring")
    assert set(expected) == {"first", "second"}
    scores: dict[str, Any] = {}
    for _ in range(2):  # a second service, as after a restart
        with make_client(folders, shares=SHARES, experiment="spring") as client:
            for user, variant in zip(users, expected, strict=True):
                said = client.post({"user": user, "candidates": [ROW]}).json
                assert (said["variant"], said["model_version"]) == (variant, versions[variant])
                assert scores.setdefault(variant, said["reach"]) == said["reach"]
            assert client.post({"user": "7", "candidates": [ROW]}).json["variant"] == expected[-1]
            for none in ({}, {"user": None}, {"user": ""}):
                reply = client.post({"candidates": [ROW], **none})
                assert reply.status == 400 and reply.json["error"]["column"] == "user"
            assert client.call("GET", "/v2/models/second").status == 200
    assert scores["first"] != scores["second"]


def test_the_log_has_a_row_an_answer_of_a_user(shop: Path, tmp_path: Path) -> None:
    log = {"folder": tmp_path / "log", "scores": True}
    folders = [shop / "first", shop / "second"]
    with make_client(folders, shares=SHARES, experiment="spring", exposures=log) as client:
        said = [client.post({"user": f"u{k}", "candidates": [ROW] * 2}).json for k in range(20)]
        assert client.post({"user": "u0", "candidates": []}).status == 400
    table = pq.read_table(tmp_path / "log")
    assert table.schema.equals(exposure_schema("latency_ms", "error", "scores"))
    assert table["request_id"].to_pylist() == [one["request_id"] for one in said]
    assert table["variant"].to_pylist() == [one["variant"] for one in said]
    assert table["scores"].to_pylist()[3] == said[3]["reach"]["buy"]
    assert set(table["experiment"].to_pylist()) == {"spring"}
    assert min(table["latency_ms"].to_pylist()) > 0


def test_who_got_no_answer_from_a_failing_variant_is_logged_too(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ArtifactError("a score that is no number")

    folders = [shop / "first", shop / "second"]
    with make_client(folders, shares=SHARES, exposures={"folder": tmp_path / "log"}) as client:
        assert client.post({"user": "ann", "candidates": [ROW]}).status == 200
        monkeypatch.setattr(Bundle, "score_ids", fail)
        assert client.post({"user": "ann", "candidates": [ROW]}).status == 500
        assert client.post({"user": "ann", "candidates": []}).status == 400
        variant = Allocation.of(SHARES).assign(["ann"], "default")[0]
        text = client.call("GET", "/metrics").body.decode()
        assert f'funnelcast_failed_scores_total{{variant="{variant}"}} 1.0' in text
    table = pq.read_table(tmp_path / "log")
    assert table["error"].to_pylist() == [None, "ArtifactError"]
    assert table["variant"].to_pylist() == [variant] * 2 and table["latency_ms"][1].as_py() is None


def row(user: str) -> dict[str, Any]:
    return {"time": datetime.now(UTC), "user": user, "variant": "first"}


def test_a_full_queue_and_a_full_disk_lose_rows_that_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: dict[str, int] = {}

    def count(end: str, rows: int) -> None:
        counted[end] = counted.get(end, 0) + rows

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    log = FileLog(
        "exposures", tmp_path / "log", SCHEMA.names, lambda: SCHEMA, LogSettings(waiting=5, file_rows=2), count
    )
    monkeypatch.setattr(log, "_write", lambda rows: time.sleep(0.3))
    for number in range(30):
        log.add(row(f"u{number}"))
    log.close()
    assert counted["lost"] >= 20
    counted.clear()
    monkeypatch.undo()
    monkeypatch.setattr(arrow.pq, "write_table", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # a disk that can only be read
    log = FileLog("exposures", tmp_path / "log", SCHEMA.names, lambda: SCHEMA, LogSettings(file_rows=2), count)
    for number in range(3):
        log.add(row(f"u{number}"))
    log.close()
    assert counted == {"failed": 3}


def test_files_are_closed_by_rows(tmp_path: Path) -> None:
    counted: list[tuple[str, int]] = []
    log = FileLog(
        "exposures",
        tmp_path,
        SCHEMA.names,
        lambda: SCHEMA,
        LogSettings(file_rows=4),
        lambda end, rows: counted.append((end, rows)),
    )
    for number in range(10):
        log.add(row(f"u{number}"))
    log.close()
    assert counted == [("written", 4), ("written", 4), ("written", 2)]
    assert len(list(tmp_path.glob("exposures-*.parquet"))) == 3


def test_lines_of_json(tmp_path: Path) -> None:
    settings = LogSettings(format="jsonl", file_rows=2)
    log = FileLog("exposures", tmp_path, SCHEMA.names, lambda: SCHEMA, settings, lambda *_: None)
    for number in range(3):
        log.add({**row(f"u{number}"), "more": 1})
    log.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.name[-12:])
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert [path.name[-12:] for path in files] == ["000001.jsonl", "000002.jsonl"]
    assert [line["user"] for line in lines] == ["u0", "u1", "u2"]
    assert list(lines[0]) == SCHEMA.names and datetime.fromisoformat(lines[0]["time"]).tzinfo is not None


def test_parquet_is_refused_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_log, "has_arrow", lambda: False)
    check_log("exposures", LogSettings())
    check_log("exposures", LogSettings(folder=tmp_path, format="jsonl"))
    with pytest.raises(ConfigError, match=r"key 'exposures.format': 'parquet' needs PyArrow.* or take 'jsonl'"):
        check_log("exposures", LogSettings(folder=tmp_path))


def test_rows_of_many_candidates_make_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_log, "_SCORES", 100)
    settings = LogSettings(format="jsonl", file_rows=1000)
    log = FileLog("exposures", tmp_path, ["scores", "reach"], lambda: SCHEMA, settings, lambda *_: None)
    for _ in range(6):
        log.add({"scores": [0.5] * 30, "reach": {"click": [0.5] * 10, "buy": [0.5] * 10}, "user": "ann"})
    log.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.name[-12:])
    assert [len(path.read_text().splitlines()) for path in files] == [2, 2, 2]


def test_a_log_that_cannot_be_written_and_an_unknown_base_stop_the_start(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"key 'shadow.folder': '.*file' should be a folder, but .*: File exists"):
        check_log("shadow", LogSettings(folder=tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"key 'ab.base': no bundle has the name 'frist'; did you mean 'first'"):
        make_client([shop / "first"], ab={"page": True, "base": "frist"}, exposures={"folder": tmp_path / "log"})


def test_who_got_no_answer_in_time_is_logged_too(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [shop / "first", shop / "second"]
    one_thread = {"threads": 1}
    with make_client(folders, server=one_thread, shares=SHARES, exposures={"folder": tmp_path / "log"}) as client:
        with held_scoring(monkeypatch) as go:
            body = {"user": "ann", "candidates": [ROW] * 200}
            assert client.post(body, x_deadline_ms="60").status == 504
            assert client.post({**body, "user": "u" * 300}, x_deadline_ms="60").status == 504
            assert client.post({"candidates": [ROW] * 200}, x_deadline_ms="60").status == 504
            assert client.post({**body, "user": 0}, x_deadline_ms="60").status == 504
            go.set()
        assert client.post({**body, "user": 7}).status == 200
    table = pq.read_table(tmp_path / "log")
    assert table["user"].to_pylist() == ["ann", "0", "7"]
    assert table["error"].to_pylist() == ["deadline", "deadline", None]
    assert table["variant"][0].as_py() == Allocation.of(SHARES).assign(["ann"], "default")[0]


def test_logs_of_one_folder_do_not_overwrite_each_other(tmp_path: Path) -> None:
    logs = [
        FileLog("exposures", tmp_path, SCHEMA.names, lambda: SCHEMA, LogSettings(), lambda *_: None) for _ in range(3)
    ]
    for number, log in enumerate(logs):  # of one process number and within a second, as in containers
        log.add(row(f"u{number}"))
    for log in logs:
        log.close()
    assert sorted(pq.read_table(tmp_path)["user"].to_pylist()) == ["u0", "u1", "u2"]


@pytest.mark.parametrize(
    ("shares", "pattern"),
    [
        ({"first": 0.5, "second": 0.0, "third": 0.5}, "no bundle has the name 'third'; .*known: first, second"),
        ({"first": 0.5, "second": 0.0, "": 0.5}, "no bundle has the name ''; .*known: first, second"),
        ({"first": 1.0}, "'shares' should name every bundle, received none for 'second'"),
        ({"first": 0.5, "secnd": 0.5}, "key 'shares': no bundle has the name 'secnd'; did you mean 'second'"),
    ],
)
def test_shares_must_name_the_bundles(shop: Path, shares: dict[str, float], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        Variants.load([shop / "first", shop / "second"], Settings(shares=shares))


def test_bundles_need_names_of_their_own(shop: Path) -> None:
    with pytest.raises(ConfigError, match="different names, received 'first' twice"):
        Variants.load([shop / "first", shop / "first"], Settings())


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("strikt = true", "unknown key 'strikt'; did you mean 'strict'"),
        ("[server]\nport = 70000", "key 'server.port'.*received 70000"),
        ("[shares]\na = 0.5\nb = 0.6", "shares should be 0 or more with the sum 1"),
        ("[shares]\na = nan\nb = 1.0", "key 'shares.a': .*finite number; received nan"),
        ("[limits]\nrows = 0", "key 'limits.rows'"),
        ("strict = ", "should be TOML"),
    ],
)
def test_settings_that_are_wrong_name_the_key(tmp_path: Path, text: str, pattern: str) -> None:
    (tmp_path / "serve.toml").write_text(text)
    with pytest.raises(ConfigError, match=pattern) as caught:
        load_settings(tmp_path / "serve.toml")
    assert "serve.toml" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="should be a settings file"):
        load_settings(tmp_path / "nowhere.toml")
