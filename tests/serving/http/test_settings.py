"""The defaults that the documentation shows are those of the service."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel

from funnelcast.serving.http.settings import Settings

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
