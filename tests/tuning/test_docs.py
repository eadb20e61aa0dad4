"""The page on tuning lists the space of every model, and its table [tune] is a valid one."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from funnelcast.config import load_experiment
from funnelcast.registry import MODELS, TREES
from funnelcast.space import Choice, Parameter
from funnelcast.tuning.search import COMMON, tunable

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


def words(name: str, parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        return f"`{name}` {', '.join(json.dumps(value) for value in parameter.values)}"
    grid = f" (grid {', '.join(f'{number:g}' for number in parameter.grid)})"
    log = " log" if type(parameter).__name__ == "LogUniform" else ""
    return f"`{name}` {parameter.low:g} to {parameter.high:g}{'' if type(parameter.low) is int else log + grid}"


def test_every_space_stands_in_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, registry in {(known.family(name), known) for known in (MODELS, TREES) for name in known.names()}:
        space = registry.get(name).search_space
        row = f"| `{name}` | {'; '.join(words(option, parameter) for option, parameter in space.items())} |"
        assert row in text, row
    for name, parameter in COMMON.items():
        assert words(name, parameter) in text, words(name, parameter)


def test_the_example_of_a_table_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "apem.toml").write_text(block)
    experiment = load_experiment(tmp_path / "apem.toml")
    assert math.prod(len(parameter.grid) for parameter in experiment.tune.space.values() if parameter) == 24
    assert set(experiment.tune.space) <= set(tunable(experiment))
