"""The defaults that the documentation shows are those of the service."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from funnelcast.serving.http import settings
from funnelcast.serving.http.settings import Server, Settings

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def test_the_page_shows_every_setting_with_its_default() -> None:
    block = re.search(r"<!-- settings -->\n```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert Settings.model_validate(tomllib.loads(block[1])) == Settings()
    shown = tomllib.loads(re.sub(r"^# ", "", block[1], flags=re.MULTILINE))
    assert shown.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert shown[name].keys() == field.annotation.model_fields.keys(), name


def test_the_page_names_every_code_of_a_refusal() -> None:
    text = PAGE.read_text(encoding="utf-8")
    source = Path(__file__).parents[3] / "src" / "funnelcast" / "serving" / "http"
    codes = set()
    for path in source.glob("*.py"):
        code = path.read_text(encoding="utf-8")
        codes |= set(re.findall(r'RefusalError\(\s*\d+,\s*"(\w+)"', code))
    assert len(codes) > 20
    assert not [code for code in codes if f"`{code}`" not in text]


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "expected"),
    [
        (1, 1, None, 1),
        (2, 1, None, 2),
        (2, 2, None, 1),
        (2, 3, None, 1),
        (8, 3, None, 2),
        (64, 1, None, 4),
        (2, 2, 7, 7),
    ],
)
def test_threads_are_the_cores_that_workers_leave(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int | None, expected: int
) -> None:
    monkeypatch.setattr(settings, "allowed_cores", lambda: cores)
    assert Server(workers=workers, threads=threads).own_threads == expected
