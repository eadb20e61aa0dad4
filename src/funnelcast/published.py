"""What other laboratories published on the same dataset and protocol, to stand beside a leaderboard, never in it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Key
from rich.table import Table
from rich.text import Text

__all__ = ["HEADING", "PublishedTable", "published", "published_cells", "published_markdown", "published_table"]

HEADING = "Published by other laboratories, not measured here"


class PublishedTable(BaseModel):
    """One table of one source.

    Args:
        dataset: name of the prepared dataset.
        protocol: how the source split, filtered and scored it.
        source: who says so, and where.
        space: of the metric.
        metric: the metric's name; values are of TEST.
        steps: of the funnel, in order.
        note: what a reader should know about the numbers.
        values: model -> one value a step; a model that funnelcast has bears its name.

    Raises:
        ValidationError: a model has not as many values as there are steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    protocol: str
    source: str
    space: Literal["reach", "transition"]
    metric: Literal["auc", "logloss"]
    steps: tuple[str, ...] = Key(min_length=1)
    note: str
    values: dict[str, tuple[float, ...]] = Key(min_length=1)

    @model_validator(mode="after")
    def _one_value_a_step(self) -> PublishedTable:
        for model, values in self.values.items():
            if len(values) != len(self.steps):
                raise ValueError(f"'{model}' should have {len(self.steps)} values, received {len(values)}")
        return self


@cache
def tables() -> tuple[PublishedTable, ...]:
    """Read all published tables."""
    data = tomllib.loads(files("funnelcast").joinpath("published.toml").read_text(encoding="utf-8"))
    return tuple(PublishedTable.model_validate(table) for table in data["tables"])


def published(dataset: str, protocol: str | None, steps: Sequence[str]) -> list[dict[str, Any]]:
    """List what was published on a dataset, prepared by the same protocol, with the same steps.

    Args:
        dataset: name of the prepared dataset.
        protocol: of its preparation; None matches nothing.
        steps: of the funnel, in order.

    Returns:
        One record a row, for the key `published` of `leaderboard.json`: `source`, `protocol`, `note`, `model` and
        `steps`, each with `name`, `space`, `metric` and `value`.

    Example:
        >>> rows = published("ali_ccp", "aitm", ["click", "purchase"])
        >>> [(step["name"], step["value"]) for row in rows if row["model"] == "apem" for step in row["steps"]]
        [('click', 0.6198), ('purchase', 0.6436)]
        >>> published("ali_ccp", None, ["click", "purchase"])
        []
    """
    return [
        {
            "source": table.source,
            "protocol": table.protocol,
            "note": table.note,
            "model": model,
            "steps": [
                {"name": step, "space": table.space, "metric": table.metric, "value": value}
                for step, value in zip(table.steps, values, strict=True)
            ],
        }
        for table in tables()
        if (table.dataset, table.protocol, table.steps) == (dataset, protocol, tuple(steps))
        for model, values in table.values.items()
    ]


def published_cells(leaderboard: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """Write the published results of a leaderboard as cells: the model, its values, their source.

    Args:
        leaderboard: with the key `published`, or without it.

    Returns:
        Heads, rows and notes; no rows where nothing was published.

    Example:
        >>> heads, rows, notes = published_cells({"published": published("ali_ccp", "aitm", ["click", "purchase"])})
        >>> heads, rows[0][:3]
        (['model', 'click reach AUC', 'purchase reach AUC', 'source'], ['single_task', '0.6089', '0.6011'])
    """
    rows = leaderboard.get("published") or []
    heads = list(dict.fromkeys(_head(step) for row in rows for step in row["steps"]))
    cells = []
    for row in rows:
        known = {_head(step): f"{step['value']:.4f}" for step in row["steps"]}
        cells.append([row["model"], *(known.get(head, "-") for head in heads), row["source"]])
    return ["model", *heads, "source"], cells, list(dict.fromkeys(f"{row['source']}: {row['note']}" for row in rows))


def _head(step: Mapping[str, Any]) -> str:
    return f"{step['name']} {step['space']} {step['metric'].upper() if step['metric'] == 'auc' else step['metric']}"


def published_markdown(leaderboard: Mapping[str, Any]) -> str:
    """Write the published results as a Markdown section, empty where there are none.

    Args:
        leaderboard: with the key `published`, or without it.
    """
    heads, rows, notes = published_cells(leaderboard)
    if not rows:
        return ""
    marks = ["---", *["---:"] * (len(heads) - 2), "---"]
    lines = "".join("| " + " | ".join(line).replace("_", "\\_") + " |\n" for line in [heads, marks, *rows])
    return f"\n**{HEADING}.**\n\n{lines}\n" + "".join(f"{note}\n" for note in notes)


def published_table(leaderboard: Mapping[str, Any]) -> Table | None:
    """Write the published results as a table for the terminal, or return None where there are none.

    Args:
        leaderboard: with the key `published`, or without it.
    """
    heads, rows, _ = published_cells(leaderboard)
    if not rows:
        return None
    table = Table(title=Text(HEADING), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(Text(head), justify="left" if head in ("model", "source") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
