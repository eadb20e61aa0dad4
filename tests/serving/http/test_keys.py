"""Keys are read whole or refused at the start, by line, and no message repeats one."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from funnelcast.errors import ConfigError
from funnelcast.serving.http.keys import Keys

KEY = "0123456789abcdef"


def read(path: Path, data: bytes) -> Keys:
    path.write_bytes(data)
    keys = Keys.read(path, "KEYS")
    assert keys is not None
    return keys


def test_keys_come_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYS", f"{KEY},fedcba9876543210")
    keys = Keys.read(None, "KEYS")
    assert keys is not None and keys.allow("fedcba9876543210") and not keys.allow("fedcba9876543211")
    monkeypatch.setenv("KEYS", f"{KEY},short")
    with pytest.raises(ConfigError, match="KEYS: key 2 should have at least 16 characters, received 5"):
        Keys.read(None, "KEYS")
    monkeypatch.delenv("KEYS")
    assert Keys.read(None, "KEYS") is None
    assert read(tmp_path / "keys", f"{KEY}\r\n".encode()).allow(KEY)
    with pytest.raises(ConfigError, match="should be a file of keys"):
        Keys.read(tmp_path / "nowhere", "KEYS")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("short", "the key of line 1 should have at least 16 characters, received 5"),
        (f"# ours\n{KEY} soon", "the key of line 2 should have an ISO date or nothing .*, received 4 other characters"),
        (f"{KEY} 2030-01-01", "the key of line 1 should have a time zone in its date"),
        ("# none", "should hold a key a line, received none"),
        ("# ours\n\nschlüssel-der-anfrage", "the key of line 3 should have letters, digits and signs of ASCII alone"),
        (f"{KEY}\u00a02030-01-01T00:00:00Z", "the key of line 1 should have letters"),
        (f"{KEY}\u2028{KEY}", "the key of line 1 should have letters"),
        (f"{KEY}\x0b{KEY}", "the key of line 1 should have letters"),
    ],
)
def test_a_wrong_key_is_refused_with_its_line(text: str, pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"keys: {pattern}" if "key of" in pattern else pattern) as caught:
        read(tmp_path / "keys", text.encode())
    assert KEY not in str(caught.value) and "ssel-der" not in str(caught.value)


def test_a_key_that_is_no_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key of line 2 should have letters, digits and signs of ASCII alone"):
        read(tmp_path / "keys", f"# größer\nschlüssel-der-anfrage\n{KEY}\n".encode("latin-1"))


def test_the_second_half_of_a_key_is_not_repeated(tmp_path: Path) -> None:
    for key in ("correct-horse-of-a battery-staple", "correct-horse-of-a 20300101"):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path / "keys", key.encode())
        assert key.split()[1] not in repr(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("blank", ["\t", "  ", " \t "])
def test_tabs_and_blanks_stand_before_a_date(blank: str, tmp_path: Path) -> None:
    lines = f"{KEY}{blank}2999-01-01T00:00:00Z\nfedcba9876543210{blank}2020-01-01T00:00:00Z\n"
    keys = read(tmp_path / "keys", lines.encode())
    assert keys.allow(KEY) and not keys.allow("fedcba9876543210")


def test_a_mark_at_the_begin_of_a_file_is_no_part_of_its_first_key(tmp_path: Path) -> None:
    keys = read(tmp_path / "keys", f"{KEY}\n".encode("utf-8-sig"))
    assert keys.check(Headers({"x-api-key": KEY}))
