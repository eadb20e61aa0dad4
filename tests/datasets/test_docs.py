"""The page on datasets names every dataset, and its example is a valid dataset file."""

from __future__ import annotations

import re
from pathlib import Path

from funnelcast.data.description import load_description
from funnelcast.registry import DATASETS

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"


def test_every_dataset_has_a_row_and_a_command() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in DATASETS.names():
        assert f"| `{name}` |" in text
        assert f"funnelcast prepare {name} build/" in text


def test_every_option_of_a_command_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for command in re.findall(r"funnelcast prepare (.*)", text):
        name = command.split()[0]
        options = re.findall(r"--set '?(\w+)=", command)
        assert name.endswith(".toml") or set(options) <= set(DATASETS.options(name))


def test_the_example_of_a_dataset_file_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "shop.toml").write_text(blocks[0], encoding="utf-8")
    description = load_description(tmp_path / "shop.toml")
    assert [feature.name for feature in description.features] == ["user_id", "item_id", "price", "tags"]
    assert [step.column for step in description.steps] == ["click", "has_ordered"]
