"""Joining logs: hand-made rows of every kind, each of which is kept or counted for its reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.errors import ConfigError, DataError
from funnelcast.experiment.attribution import Attribution
from funnelcast.experiment.covariate import Covariate
from funnelcast.experiment.exposed_users import Split
from funnelcast.experiment.exposure import EXPOSURE_COLUMNS, exposure_schema
from funnelcast.experiment.joined import Files, Joined, join_logs

from .logs_on_disk import at, write_lines

HALVES = {"A": 0.5, "B": 0.5}


def seen(user: Any, variant: Any = "A", day: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"time": at(day), "user": user, "variant": variant, **more}


def did(user: Any, day: float, click: Any = 1, **more: Any) -> dict[str, Any]:
    return {"user": user, "time": at(day), "click": click, **more}


def join(
    folder: Path,
    exposures: list[Any],
    outcomes: list[Any],
    split: Split = Split(HALVES),  # noqa: B008
    attribution: Attribution = Attribution(),  # noqa: B008
    covariate: Covariate | None = None,
) -> Joined:
    files = Files(
        (write_lines(folder / "exposures.jsonl", exposures),),
        (write_lines(folder / "outcomes.jsonl", outcomes),),
        covariate,
        threads=1,
    )
    return join_logs(files, split, attribution)


def totals(joined: Joined) -> dict[int, tuple[float, list[float]]]:
    """User number -> exposures and outcomes."""
    exposed, events = np.zeros(len(joined.arm)), np.zeros((len(joined.arm), len(joined.steps)))
    for cells, known in zip(joined.exposed, joined.known, strict=True):
        exposed[cells.user] += cells.count
        events[known.user] += known.count
    return {user: (exposed[user], events[user].tolist()) for user in range(len(joined.arm))}


BOTH = [seen("a"), seen("b", "B")]


def test_every_row_is_kept_or_counted_once(tmp_path: Path) -> None:
    exposures = [
        *[seen("a", day=1.0), seen("a", day=2.5), seen("b", "B", 1.5)],
        *[seen(None), seen("", "B"), seen("c", None), seen("d") | {"time": None}, seen("e", "C")],
        seen("a", day=1.0),  # repeated
        *[seen("f", "A", 1.2), seen("f", "B", 2.0)],  # crossed
    ]
    outcomes = [
        *[did("a", 0.5), did("a", 1.0), did("a", 3.0), did("b", 2.0, None), did("b", 2.2, True)],
        *[did(None, 1.0), did("b", 2.0) | {"time": None}, did("stranger", 2.0), did("f", 2.0)],
        did("a", 3.0),  # repeated
    ]
    joined = join(tmp_path, exposures, outcomes)
    assert joined.counts["exposures"] == {
        **{"rows": 11, "without_user": 2, "without_variant": 1, "without_time": 1, "unknown_variant": 1},
        **{"unknown_variants": ["C"], "repeated": 1, "users_crossed": 1, "users_seen": 3, "kept": 3},
    }
    assert joined.counts["outcomes"] == {
        **{"rows": 10, "without_key_or_time": 2, "repeated": 1, "without_exposure": 2, "before_exposure": 1},
        **{"late": 0, "kept": 4, "joined_by": "user", "other_experiment": 0},
    }
    assert joined.arm.tolist() == [0, 1]
    assert totals(joined) == {0: (2.0, [2.0]), 1: (1.0, [1.0])}
    assert joined.days == [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
    assert joined.newcomers.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_an_outcome_belongs_to_the_last_exposure_before_it_and_the_window_starts_there(tmp_path: Path) -> None:
    exposures = [seen("a", day=1.0), seen("a", day=3.0), seen("b", "B")]
    outcomes = [did("a", 1.4), did("a", 2.6), did("a", 3.4), did("a", 4.4)]
    day = Attribution(window=timedelta(days=1))
    joined = join(tmp_path, exposures, outcomes, attribution=day)
    assert (joined.counts["outcomes"]["late"], joined.counts["outcomes"]["kept"]) == (2, 2)
    endless = join(tmp_path, exposures, outcomes)
    assert totals(endless)[0] == (2.0, [4.0])
    # By the day they happened, 1, 2, 3 and 4; by the day of their exposure, 1 and 3.
    assert [known.count.sum() for known in endless.known] == [1, 1, 1, 1]
    assert [caused.count.sum() for caused in endless.caused] == [2, 0, 2, 0]


def test_the_end_of_the_window_still_counts(tmp_path: Path) -> None:
    joined = join(tmp_path, BOTH, [did("a", 2.0)], attribution=Attribution(window=timedelta(days=1)))
    assert joined.counts["outcomes"]["kept"] == 1


def test_crossed_users_can_stay_with_their_first_variant(tmp_path: Path) -> None:
    exposures = [*BOTH, seen("f", "B", 1.2), seen("f", "A", 2.0)]
    joined = join(tmp_path, exposures, [did("f", 2.5)], Split(HALVES, crossed="first"))
    assert joined.arm.tolist() == [0, 1, 1]
    assert totals(joined)[2] == (2.0, [1.0])
    assert joined.counts["exposures"]["users_crossed"] == 1


def test_outcomes_join_by_request_where_both_logs_have_it(tmp_path: Path) -> None:
    exposures = [
        *[seen("a", request_id="r1"), seen("a", day=2.0, request_id="r2"), seen("b", "B", request_id="r3")],
        seen("b", "B", day=4.0, request_id="r3"),  # the same request, logged again
    ]
    outcomes = [
        *[{"request_id": "r1", "click": 1, "buy": 0}, {"request_id": "r1", "click": 0, "buy": 1}],
        *[{"request_id": "r2", "click": 1, "buy": 0}, {"request_id": None, "click": 1}, {"request_id": "r9"}],
    ]
    joined = join(tmp_path, exposures, outcomes)
    assert joined.steps == ("click", "buy")
    assert totals(joined) == {0: (2.0, [2.0, 1.0]), 1: (1.0, [0.0, 0.0])}
    assert joined.counts["exposures"]["repeated"] == 1
    assert joined.counts["outcomes"]["joined_by"] == "request_id"
    assert joined.counts["outcomes"]["without_exposure"] == 1
    assert [caused.count.sum() for caused in joined.caused] == [2, 1]


def test_a_time_in_the_outcome_of_a_request_is_looked_at(tmp_path: Path) -> None:
    exposures = [seen("a", request_id="r1", day=2.0), seen("b", "B", request_id="r2")]
    outcomes = [{"request_id": "r1", "time": at(day), "click": 1} for day in (1.0, 2.5, 9.0)]
    joined = join(tmp_path, exposures, outcomes, attribution=Attribution(window=timedelta(days=3)))
    counts = joined.counts["outcomes"]
    assert (counts["before_exposure"], counts["kept"], counts["late"]) == (1, 1, 1)


def test_one_experiment_of_a_log_is_taken(tmp_path: Path) -> None:
    exposures = [seen(user, "AB"[number % 2], experiment=name) for number, user in enumerate("abcd") for name in "xy"]
    with pytest.raises(DataError, match="holds several experiments, name one; known: x, y"):
        join(tmp_path, exposures, [did("a", 2)])
    with pytest.raises(DataError, match="experiment 'z' has no rows; known: x, y"):
        join(tmp_path, exposures, [did("a", 2)], Split(HALVES, experiment="z"))
    assert join(tmp_path, exposures, [did("a", 2)], Split(HALVES, experiment="y")).counts["exposures"]["kept"] == 4
    with pytest.raises(DataError, match="column 'experiment' is missing"):
        join(tmp_path, BOTH, [did("a", 2)], Split(HALVES, experiment="y"))


def test_the_log_of_the_schema_can_be_read(tmp_path: Path) -> None:
    rows = {
        **{"time": [1_772_355_600_000_000, 1_772_355_600_000_001], "user": ["a", "b"], "experiment": ["x", "x"]},
        **{"variant": ["A", "B"], "request_id": ["1", "2"], "model_version": ["m", "m"]},
        **{"candidates": [["i"], ["j", "k"]], "scores": [[0.5], [0.25, 0.5]], "latency_ms": [1.0, 3.0]},
        "error": [None, "timeout"],
    }
    optional = [column.name for column in EXPOSURE_COLUMNS if not column.needed]
    table = pa.table(rows, schema=exposure_schema(*optional))
    pq.write_table(table, tmp_path / "exposures.parquet")
    outcomes = write_lines(tmp_path / "outcomes.jsonl", [{"request_id": "2", "click": 1}])
    joined = join_logs(Files((str(tmp_path / "*.parquet"),), (outcomes,), threads=1), Split({}), Attribution())
    assert joined.shares == {"A": 0.5, "B": 0.5}
    assert joined.days == [date(2026, 3, 1)]
    assert [entry["error_share"] for entry in joined.service] == [0, 1]
    assert [entry["latency_ms_p50"] for entry in joined.service] == [1, 3]


def test_ids_are_text_whatever_their_type(tmp_path: Path) -> None:
    joined = join(tmp_path, [seen(1), seen("x", "B"), seen("y", "B")], [did(1, 2), did("x", 2)])
    assert joined.counts["outcomes"]["kept"] == 2


def test_times_with_a_zone_are_brought_to_utc(tmp_path: Path) -> None:
    exposures = [seen("a") | {"time": "2026-03-02T01:00:00+02:00"}, seen("b", "B")]
    joined = join(tmp_path, exposures, [did("a", 3)])
    assert joined.days[0] == date(2026, 3, 1) and joined.newcomers[0].tolist() == [1, 1]


def test_a_covariate_comes_from_a_file_or_from_the_first_exposure(tmp_path: Path) -> None:
    past = write_lines(tmp_path / "past.jsonl", [{"user": "b", "past": 2.5}, {"user": "z", "past": 1}])
    joined = join(tmp_path, BOTH, [did("a", 2)], covariate=Covariate((past,)))
    assert joined.covariate is not None
    np.testing.assert_equal(joined.covariate, [np.nan, 2.5])
    assert joined.counts["covariates"] == {"column": "past", "users_with": 1, "users_without": 1}
    exposures = [seen("a", day=2, past=9), seen("a", day=1, past=4), seen("b", "B", past=None)]
    joined = join(tmp_path, exposures, [did("a", 2)], covariate=Covariate(column="past"))
    assert joined.covariate is not None
    np.testing.assert_equal(joined.covariate, [4, np.nan])


@pytest.mark.parametrize(
    ("rows", "covariate", "words"),
    [
        ([{"user": "a", "p": 1}, {"user": "a", "p": 2}], Covariate(column="p"), "one row a user, received two or more"),
        (
            [{"user": "a", "p": 1, "q": 2}],
            Covariate(),
            "covariate should be named, received none; covariates have: p, q",
        ),
        ([{"user": "a", "p": 1}], Covariate(column="q"), "column 'q' is missing"),
        ([{"user": "a", "p": "x"}], Covariate(), "column 'p' should hold numbers or truth values, received VARCHAR"),
        ([{"p": 1}], Covariate(), "column 'user' is missing"),
    ],
)
def test_a_wrong_covariate_is_one_clear_error(
    tmp_path: Path, rows: list[Any], covariate: Covariate, words: str
) -> None:
    past = write_lines(tmp_path / "past.jsonl", rows)
    with pytest.raises(DataError, match=words):
        join(tmp_path, BOTH, [did("a", 2)], covariate=Covariate((past,), covariate.column))


GOOD = [did("a", 2.0)]


@pytest.mark.parametrize(
    ("exposures", "outcomes", "words"),
    [
        ([{"time": at(1), "variant": "A"}], GOOD, "column 'user' is missing; needed: time, user, variant; known: time"),
        ([{"time": at(1), "user": "a", "varient": "A"}], GOOD, "did you mean 'varient'"),
        ([seen(None), seen(None, "B")], GOOD, "should have exposures with a user and a variant, received none in 2"),
        ([seen("a") | {"time": None}, seen("b", "B") | {"time": ""}], GOOD, "can be used, received none in 2 rows"),
        ([seen("a") | {"time": 1772355600}], GOOD, "'time' should hold timestamps or text .* received BIGINT"),
        (["{broken", "{"], GOOD, "exposures .* should be readable JSON lines, received"),
        ([], GOOD, "exposures .* should have at least one row, received an empty file"),
        (BOTH, [], "outcomes .* should have at least one row, received an empty file"),
        (BOTH, [{"user": "a", "click": 1}], "column 'time' is missing; needed: user, time"),
        (BOTH, [{"user": "a", "time": at(2)}], "should have a column a step, received user, time"),
        (BOTH, [did("a", 2.0, "yes")], "column 'click' should hold numbers or truth values, received VARCHAR"),
        (BOTH, [did("a", 2.0, [1])], "column 'click' should hold numbers or truth values, received BIGINT"),
    ],
)
def test_a_wrong_log_is_one_clear_error(tmp_path: Path, exposures: list[Any], outcomes: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        join(tmp_path, exposures, outcomes)
    assert "\n" not in str(caught.value)


def test_numbers_have_to_be_finite(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": ["a"], "time": [at(2)], "click": [float("nan")]}), tmp_path / "o.parquet")
    files = Files((write_lines(tmp_path / "e.jsonl", BOTH),), (str(tmp_path / "o.parquet"),), threads=1)
    words = "column 'click' should hold finite numbers from 0 to 1e.50, or null, received"
    with pytest.raises(DataError, match=rf"o\.parquet: {words} 'nan' in row 1$"):
        join_logs(files, Split(HALVES), Attribution())
    with pytest.raises(DataError, match=rf"outcomes\.jsonl: {words} 'yes' in row 2$"):
        join(tmp_path, BOTH, [did("a", 2), did("a", 3, "yes"), did("a", 4, False)])


def test_outcomes_are_not_below_0(tmp_path: Path) -> None:
    outcomes = [did("a", 2), did("a", 3, -1), did("a", 3, -1), did("a", 4, -2.5)]
    with pytest.raises(
        DataError,
        match=r"column 'click' should hold finite numbers from 0 to 1e.50, or null, "
        r"received '-1(\.0)?' in row 2, the first of 3$",
    ):
        join(tmp_path, BOTH, outcomes)
    assert join(tmp_path, BOTH, [did("a", 2, 0), did("a", 3, 12.5)]).counts["outcomes"]["kept"] == 2


WANTED = "column 'time' should hold timestamps, text such as 2026-03-01T12:00:00Z, or null, received"


@pytest.mark.parametrize("value", ["2026-13-45", "soon", "NaN", "99999-01-01", "5", 1772355600])
def test_a_time_that_is_none_is_one_clear_error(tmp_path: Path, value: Any) -> None:
    wrong = [*BOTH, seen("c") | {"time": value}]
    with pytest.raises(DataError, match=rf"exposures .*exposures\.jsonl: {WANTED} '{value}' in row 3$"):
        join(tmp_path, wrong, GOOD)
    for more in ({}, {"request_id": "r"}):
        exposures = [row | more for row in BOTH]
        outcomes = [did("a", 2.0, **more), did("a", 2.0, **more) | {"time": value}]
        with pytest.raises(DataError, match=rf"outcomes .*outcomes\.jsonl: {WANTED} '{value}' in row 2$"):
            join(tmp_path, exposures, outcomes)


def test_a_wrong_time_is_found_in_the_file_that_has_it(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "e1.jsonl", [*BOTH, seen("c", experiment="x")])
    second = write_lines(
        tmp_path / "e2.jsonl",
        [seen("d", experiment="x"), *(seen("e", experiment=name) | {"time": "soon"} for name in "yx")],
    )
    outcomes = write_lines(tmp_path / "o.jsonl", GOOD)
    files = Files((first, second), (outcomes,), threads=2)
    with pytest.raises(DataError, match=rf"exposures .*e2\.jsonl: {WANTED} 'soon' in row 3$"):
        join_logs(files, Split(HALVES, experiment="x"), Attribution())
    with pytest.raises(DataError, match=rf"exposures .*e2\.jsonl: {WANTED} 'soon' in row 2, the first of 2$"):
        join_logs(files, Split({"all": 1.0}, pooled=True), Attribution())
    for value, shown in (("x" * 1000, r"x{60}\.\.\."), ("infinity", "infinity")):
        written = {"time": [at(1), value], "user": ["a", "b"], "variant": ["A", "B"]}
        pq.write_table(pa.table(written), tmp_path / "e.parquet")
        with pytest.raises(DataError, match=rf"exposures .*e\.parquet: {WANTED} '{shown}' in row 2$"):
            join_logs(Files((str(tmp_path / "e.parquet"),), (outcomes,), threads=1), Split(HALVES), Attribution())


def test_a_time_after_all_users_is_said(tmp_path: Path) -> None:
    split = Split(HALVES, since=datetime(2026, 3, 3, tzinfo=UTC))
    with pytest.raises(
        DataError,
        match="users who were first seen at or after 2026-03-03T00:00:00Z, received none: the latest first exposure of "
        "a user is of 2026-03-02T00:00:00Z, the latest of all of 2026-03-05T00:00:00Z",
    ):
        join(tmp_path, [seen("a"), seen("b", "B", 2), seen("b", "B", 5)], GOOD, split)


def test_a_share_of_a_variant_that_does_not_occur_is_a_slip_where_another_has_none(tmp_path: Path) -> None:
    exposures = [seen("a", "control"), seen("b", "treatment", 2)]
    slip = {"control": 0.5, "tretment": 0.5}
    with pytest.raises(
        ConfigError,
        match="shares should be of variants of the exposures, received one of 'tretment'; did you mean 'treatment'",
    ):
        join(tmp_path, exposures, GOOD, Split(slip))
    assert join(tmp_path, exposures, GOOD, Split(slip, known=True)).arm.tolist() == [0]
    later = Split({"treatment": 0.5, "new": 0.5}, since=datetime(2026, 3, 2, tzinfo=UTC))
    assert join(tmp_path, exposures, GOOD, later).arm.tolist() == [0]
    third = Split({"control": 0.4, "treatment": 0.4, "third": 0.2})
    assert join(tmp_path, exposures, GOOD, third).arm.tolist() == [0, 1]
    two = Split({"control": 0.4, "new": 0.6})
    assert join(tmp_path, [seen("a", "control")], GOOD, two).arm.tolist() == [0]


def test_wrong_options_are_one_clear_error(tmp_path: Path) -> None:
    for shares in ({"A": 1.0}, {"A": 0.5, "B": 0.6}, {"A": 1.5, "B": -0.5}):
        with pytest.raises(ConfigError, match="shares should be two or more, above 0 with the sum 1, received"):
            Split(shares)
    with pytest.raises(DataError, match="base should be one of the variants, received 'C'; known: A, B"):
        join(tmp_path, BOTH, GOOD, Split(HALVES, base="C"))
    with pytest.raises(DataError, match="column 'order' is missing"):
        join(tmp_path, BOTH, GOOD, attribution=Attribution(("click", "order")))
    with pytest.raises(DataError, match="needs that column in the exposures"):
        join(tmp_path, BOTH, [{"request_id": "r", "click": 1}], attribution=Attribution(join="request_id"))
    with pytest.raises(DataError, match="window should be above 0"):
        Attribution(window=timedelta(0))
    with pytest.raises(DataError, match="steps should be named once"):
        Attribution(("click", "click"))
    exposures = (write_lines(tmp_path / "e.jsonl", BOTH),)
    for files, words in (
        (
            Files(exposures, ("nowhere*.jsonl",)),
            "outcomes: 'nowhere.*' should match at least one file, received",
        ),
        (Files((str(tmp_path),), exposures), "exposures: '.*' should be a file, received nothing there"),
        (Files((__file__,), exposures), "should end in one of .parquet, .pq, .jsonl, .ndjson, .json, received"),
    ):
        with pytest.raises(DataError, match=words):
            join_logs(files, Split(HALVES), Attribution())
    for limits, words in (({"threads": 0}, "threads should be at least 1"), ({"memory_limit": "1 MB"}, "memory limit")):
        with pytest.raises(ConfigError, match=words):
            join_logs(Files(exposures, exposures, **limits), Split(HALVES), Attribution())


def test_files_of_two_formats_do_not_mix(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "e.jsonl", BOTH)
    pq.write_table(pa.table({"time": [at(1)], "user": ["c"], "variant": ["A"]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="files should be of one format"):
        join_logs(Files((first, str(tmp_path / "e.parquet")), (first,)), Split(HALVES), Attribution())
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=r"exposures .*bad\.parquet: should be readable Parquet, received"):
        join_logs(Files((str(tmp_path / "bad.parquet"),), (first,)), Split(HALVES), Attribution())


def test_a_file_that_breaks_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "exposures.parquet"
    rows = {"time": [at(1)] * 5000, "user": [sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(5000)]}
    rows["variant"] = ["A", "B"] * 2500
    pq.write_table(pa.table(rows), path, compression="zstd", use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 1000] = bytes(1000)
    path.write_bytes(damaged)
    outcomes = write_lines(tmp_path / "outcomes.jsonl", GOOD)
    with pytest.raises(DataError, match=r"exposures\.parquet.*: should be readable logs, received") as caught:
        join_logs(Files((str(path),), (outcomes,), threads=1), Split(HALVES), Attribution())
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate\nmore words")

    monkeypatch.setattr("funnelcast.experiment.joined.find_users", full)
    with pytest.raises(ConfigError, match="memory limit should be larger for these logs, received 1GB: Out of Memory"):
        join(tmp_path, BOTH, GOOD)
