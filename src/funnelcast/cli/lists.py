"""`funnelcast models` and `funnelcast datasets`: what is registered."""

from __future__ import annotations

import inspect
from typing import Any

from rich.table import Table

from funnelcast.cli.shell import app, console
from funnelcast.registry import DATASETS, LOSSES, MODELS, TREES, Registry


def _list(registry: Registry[Any], heading: str) -> None:
    """Print a registry: names, first lines of the docstrings, options with defaults."""
    table = Table(heading, "what it is", "options")
    for name in registry.names():
        cls = registry.get(name)
        title = (inspect.getdoc(cls) or "").split("\n", 1)[0]
        options = ", ".join(
            key if option.default is inspect.Parameter.empty else f"{key}={option.default!r}"
            for key, option in registry.options(name).items()
        )
        table.add_row(name, title, options)
    console.print(table)


@app.command()
def models() -> None:
    """List the models and the losses with their options."""
    _list(MODELS, "model")
    _list(TREES, "boosted trees")
    _list(LOSSES, "loss")


@app.command()
def datasets() -> None:
    """List the datasets with their options."""
    _list(DATASETS, "dataset")
    for name in DATASETS.names():
        cls = DATASETS.get(name)
        console.print(f"{name}: {cls.where} Terms: {cls.terms}")
