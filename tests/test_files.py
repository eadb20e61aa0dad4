"""Files appear whole or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from funnelcast.errors import ArtifactError
from funnelcast.files import check_sha256, make_folder, read_json, sha256, write_bytes, write_json


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": math.nan})
    assert read_json(path, "a value") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"whole")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing/value: 3 bytes could not be written"):
        write_bytes(tmp_path / "missing" / "value", b"abc")


def test_damage_names_both_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    with pytest.raises(ArtifactError, match=r"sha256 should be 0000, received ba78"):
        check_sha256(path, "0000")
    with pytest.raises(ArtifactError, match="is missing"):
        check_sha256(tmp_path / "b", "0000")


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"a.json: should be a report, received damaged JSON"):
        read_json(tmp_path / "a.json", "a report")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "should be a report, received JSON without keys"),
        ('{"format": 2, "rows": 3}', "format should be 1, received 2"),
        ('{"rows": 3}', "format should be 1, received None"),
        ('{"format": 1}', "should be a report, but its key 'rows' is missing"),
    ],
)
def test_a_record_without_its_keys_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_json(tmp_path / "a.json", "a report", "rows", version=1)


def test_a_folder_is_made_or_the_reason_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"file/b: should be a folder, but cannot be made: Not a directory"):
        make_folder(tmp_path / "file" / "b")
