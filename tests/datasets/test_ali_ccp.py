"""Ali-CCP from generated files in the raw layout: control-character separators, dirty rows, broken lines."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from funnelcast.data.prepare import prepare
from funnelcast.datasets.ali_ccp import COMMON, SKELETON, AliCcp
from funnelcast.errors import ConfigError, DataError
from funnelcast.schema import Schema

Entries = list[tuple[str, str]]


def feature_list(entries: Entries) -> str:
    return "\x01".join(f"{field}\x02{feature}\x031.0" for field, feature in entries)


def sample(number: int, click: int, purchase: int, key: str, entries: Entries) -> str:
    return f"{number},{click},{purchase},{key},{len(entries)},{feature_list(entries)}\n"


def shared(key: str, entries: Entries) -> str:
    return f"{key},{len(entries)},{feature_list(entries)}\n"


def in_valid(text: str, percent: int = 10) -> bool:
    """The rule of the split, worked out apart: the last eight bytes of the MD5, little-endian."""
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little") % 100 < percent


def write(folder: Path, train: list[str], common: list[str], test: list[str] | None = None) -> Path:
    """Write the four files; TEST is one purchase unless it is given."""
    folder.mkdir(parents=True, exist_ok=True)
    default = [sample(1, 1, 1, "f0f0f0f0f0f0f0f0", [("205", "9"), ("301", "1")])]
    texts = {
        "sample_skeleton_train.csv": train,
        "common_features_train.csv": common,
        "sample_skeleton_test.csv": test if test is not None else default,
        "common_features_test.csv": [shared("f0f0f0f0f0f0f0f0", [("101", "u9")])] if test is None else common,
    }
    for name, lines in texts.items():
        (folder / name).write_text("".join(lines), encoding="utf-8", newline="\n")
    return folder


def joined(folder: Path, **options: Any) -> list[dict[str, Any]]:
    AliCcp(**options).describe(folder, folder / "work")
    rows: list[dict[str, Any]] = pq.read_table(folder / "work" / "ali_ccp_train.parquet").to_pylist()
    return rows


KEY_A, KEY_B = "bacff91692951881", "64c69e034078e30a"
COMMON_LINES = [
    shared(KEY_A, [("109_14", "7"), ("101", "u1"), ("109_14", "8"), ("121", "98"), ("109_14", "9")]),
    shared(KEY_B, [("101", "u2"), ("129", "3"), ("129", "4")]),
]


def test_the_first_value_of_each_field_is_joined(tmp_path: Path) -> None:
    train = [
        sample(7, 1, 1, KEY_B, [("210", "31"), ("210", "32"), ("205", "11"), ("2055", "12"), ("205", "13")]),
        sample(3, 0, 0, KEY_A, [("301", "1"), ("853", "5"), ("853", "6")]),
        sample(5, 1, 0, KEY_A, []),
    ]
    rows = joined(write(tmp_path, train, COMMON_LINES))
    nothing = dict.fromkeys((*SKELETON, *COMMON))
    part = {number: "valid" if in_valid(str(number)) else "train" for number in (3, 5, 7)}
    user = {"101": "u1", "121": "98"}
    assert rows == [  # ordered by sample id, whatever the order of the lines
        {"sample_id": 3, "click": 0, "purchase": 0, "split": part[3], **nothing, **user, "301": "1", "853": "5"},
        {"sample_id": 5, "click": 1, "purchase": 0, "split": part[5], **nothing, **user},
        {"sample_id": 7, "click": 1, "purchase": 1, "split": part[7], **nothing, "101": "u2", "129": "3", "205": "11"},
    ]


def test_multi_valued_fields_keep_the_front_of_their_list(tmp_path: Path) -> None:
    train = [sample(1, 0, 0, KEY_A, [("210", "31"), ("205", "1"), ("210", "32")]), sample(2, 0, 0, KEY_B, [])]
    first, second = joined(write(tmp_path, train, COMMON_LINES), multi=True, max_length=2)
    assert (first["210"], first["109_14"], first["110_14"]) == (["31", "32"], ["7", "8"], None)
    assert (second["210"], second["109_14"]) == (None, None)
    assert [feature.name for feature in AliCcp(multi=True).features[18:]] == [
        *("210", "109_14", "110_14", "127_14", "150_14")
    ]


def test_dirty_rows_are_dropped_and_counted_and_rare_ids_are_unknown(tmp_path: Path) -> None:
    train_ids = [number for number in range(1, 200) if not in_valid(str(number))]
    valid_ids = [number for number in range(1, 200) if in_valid(str(number))]
    items = ["often"] * 12 + ["rare"] * 11 + ["one"]
    lines = [
        sample(number, 1, index % 2, KEY_A, [("205", item)])
        for index, (number, item) in enumerate(zip(train_ids, items, strict=False))
    ]
    lines += [sample(number, 0, 1, KEY_A, [("205", "often")]) for number in train_ids[24:27]]  # purchase, no click
    lines.append(sample(train_ids[27], 0, 0, KEY_A, []))
    lines += [sample(number, number % 2, 0, KEY_B, [("205", "often")]) for number in valid_ids]
    folder = write(tmp_path / "raw", lines, COMMON_LINES)
    manifest = prepare(AliCcp().describe(folder, tmp_path / "work"), tmp_path / "out")
    assert manifest["audit"] == {"action": "drop", "violations": {"click": 0, "purchase": 3}, "rows": 3}
    assert manifest["splits"]["train"]["positives"] == {"click": 24, "purchase": 12}
    assert manifest["splits"]["valid"]["rows"] == len(valid_ids)
    assert manifest["splits"]["test"]["positives"] == {"click": 1, "purchase": 1}
    schema = Schema.load(tmp_path / "out" / "schema.json")
    assert schema.step_names == ["click", "purchase"]
    assert schema.has_user
    assert {field.name: field.size for field in schema.fields}["205"] == 3  # null, unknown, and 'often'
    ids = pq.read_table(tmp_path / "out" / "train" / "part-00000.parquet")["field.205"].to_pylist()
    assert (ids.count(2), ids.count(1), ids.count(0)) == (12, 12, 1)


@pytest.mark.parametrize("valid_by", ["sample", "common"])
def test_valid_is_a_stable_tenth(tmp_path: Path, valid_by: str) -> None:
    draw = random.Random(1)
    keys = [f"{draw.getrandbits(64):016x}" for _ in range(300)]
    lines = [sample(number, 0, 0, draw.choice(keys), [("205", "1")]) for number in range(3_000)]
    common = [shared(key, [("101", key)]) for key in keys]
    rows = joined(write(tmp_path / "a", lines, common), valid_by=valid_by)
    draw.shuffle(lines)
    assert joined(write(tmp_path / "b", lines, common), valid_by=valid_by) == rows
    column = "sample_id" if valid_by == "sample" else "101"
    assert [row["split"] == "valid" for row in rows] == [in_valid(str(row[column])) for row in rows]
    assert 0.05 < sum(row["split"] == "valid" for row in rows) / 3_000 < 0.15


GOOD = sample(1, 1, 0, KEY_A, [("205", "1")])
BROKEN_SAMPLES = {
    "2,0,0\n": "should have 6 cells (sample_id, click, purchase, common_key, count, list), received 3",
    f"2,0,0,{KEY_A},1,205\x021\x031.0,7\n": "should have 6 cells",
    f"x2,0,0,{KEY_A},1,205\x021\x031.0\n": "should have a whole number as sample_id, received 'x2'",
    f"2,2,0,{KEY_A},1,205\x021\x031.0\n": "should have 0 or 1 as click and purchase, received '2' and '0'",
    "2,0,0,,1,205\x021\x031.0\n": "should have a common_feature_index, received nothing",
    f"2,0,0,{KEY_A},1,205\x021\n": r"entries field \x02 feature \x03 value, separated by \x01, received '205\x021'",
    f"2,0,0,{KEY_A},2,205\x021\x031.0\x01\n": r"received '205\x021\x031.0\x01' at its end",
}


@pytest.mark.parametrize("line", BROKEN_SAMPLES)
def test_a_malformed_sample_is_named_by_file_and_line(tmp_path: Path, line: str) -> None:
    folder = write(tmp_path, [GOOD, line, sample(3, 0, 0, KEY_A, [])], COMMON_LINES)
    with pytest.raises(DataError) as caught:
        joined(folder)
    assert str(caught.value).startswith(f"{folder / 'sample_skeleton_train.csv'}, line 2: ")
    assert BROKEN_SAMPLES[line] in str(caught.value)
    assert list((folder / "work").iterdir()) == []  # nothing half-written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00,1\n", "should have 3 cells (common_key, count, list), received 2"),
        ("00,1,101:5:1.0\n", "received '101:5:1.0' at its end"),
    ],
)
def test_a_malformed_common_line_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    folder = write(tmp_path, [GOOD], [*COMMON_LINES, line])
    with pytest.raises(DataError) as caught:
        joined(folder)
    assert str(caught.value).startswith(f"{folder / 'common_features_train.csv'}, line 3: ")
    assert message in str(caught.value)


def test_a_missing_common_key_is_refused_or_null(tmp_path: Path) -> None:
    folder = write(tmp_path, [GOOD, sample(2, 0, 0, "0123456789abcdef", [("205", "4")])], COMMON_LINES)
    with pytest.raises(DataError) as caught:
        joined(folder)
    assert (
        f"{folder / 'sample_skeleton_train.csv'}, line 2: common_feature_index '0123456789abcdef' should be one of "
        in (str(caught.value))
    )
    row = joined(folder, missing_common="null")[1]
    assert (row["101"], row["205"]) == (None, "4")


def test_a_repeated_common_line_counts_once_but_two_different_ones_are_refused(tmp_path: Path) -> None:
    assert len(joined(write(tmp_path / "same", [GOOD], [*COMMON_LINES, COMMON_LINES[0]]))) == 1
    other = shared(KEY_A, [("101", "u5")])
    folder = write(tmp_path / "other", [GOOD], [*COMMON_LINES, other])
    with pytest.raises(DataError, match=rf"common_features_train\.csv, lines 1 and 3: .* for '{KEY_A}'"):
        joined(folder)


def test_one_line_that_ends_otherwise_is_refused_in_one_line(tmp_path: Path) -> None:
    train = [sample(n, 0, 0, KEY_A, [("301", "1")]) for n in (1, 2, 3)]
    folder = write(tmp_path, [train[0], train[1].replace("\n", "\r\n"), train[2]], COMMON_LINES)
    with pytest.raises(DataError, match=r"sample_skeleton_train.csv: should be a readable raw file") as caught:
        joined(folder)
    assert "\n" not in str(caught.value)


def test_missing_files_are_listed(tmp_path: Path) -> None:
    folder = write(tmp_path, [GOOD], COMMON_LINES)
    (folder / "common_features_test.csv").unlink()
    (folder / "sample_skeleton_test.csv").unlink()
    with pytest.raises(DataError, match=r"missing: sample_skeleton_test\.csv, common_features_test\.csv\. Where"):
        joined(folder)


def test_the_protocol_is_recorded_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, [GOOD], COMMON_LINES)
    for recipe, protocol in ((AliCcp(protocol="aitm", missing_common="null"), "aitm"), (AliCcp(), None)):
        assert recipe.describe(folder, tmp_path / "work").protocol == protocol


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"valid_by": "users"}, "'valid_by': known: common, sample"),
        ({"missing_common": "drop"}, "'missing_common': known: null, refuse"),
        ({"valid_percent": 0}, "'valid_percent' should be in 1..50, received 0"),
        ({"protocol": "aitm", "min_count": 11}, "'min_count' should be 12 under protocol 'aitm', received 11"),
        ({"protocol": "aitm", "multi": True}, "'multi' should be False under protocol 'aitm', received True"),
        ({"memory_limit": "much"}, "memory limit should be a number"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AliCcp(**wrong)
    assert message in str(caught.value)
