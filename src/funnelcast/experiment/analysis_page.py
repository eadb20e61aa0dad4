"""An analysed experiment as Markdown, as a table for the terminal, and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from funnelcast.column_table import markdown_table, terminal_table
from funnelcast.experiment.analysis_report import analysis_html
from funnelcast.experiment.left_out import left_out
from funnelcast.experiment.verdict import decision_text, gain, p_text
from funnelcast.files import make_folder, write_bytes, write_json
from funnelcast.tables import Column, plain

__all__ = ["rate_text", "to_markdown", "to_rich_table", "write_analysis"]

Record = Mapping[str, Any]


def write_analysis(record: Record, out: Path) -> None:
    """Write `ab.json`, `ab.md` and `ab.html`.

    Args:
        record: from `analyse`.
        out: the folder; it is made.

    Raises:
        ArtifactError: the folder cannot be made or a file cannot be written.
    """
    make_folder(out)
    write_json(out / "ab.json", record)
    write_bytes(out / "ab.md", to_markdown(record).encode())
    write_bytes(out / "ab.html", analysis_html(record).encode())


def rate_text(rate: Record) -> str:
    """Write a rate with half the width of its interval.

    Args:
        rate: `value` and `interval`.

    Example:
        >>> rate_text({"value": 0.1, "interval": [0.09, 0.11]}), rate_text({"value": None, "interval": None})
        ('10.000 ±1.000 %', 'undefined')
    """
    if rate["value"] is None:
        return "undefined"
    if rate["interval"] is None:
        return f"{rate['value'] * 100:.3f} %"
    return f"{rate['value'] * 100:.3f} ±{(rate['interval'][1] - rate['interval'][0]) * 50:.3f} %"


def lift_text(lift: Record) -> str:
    """Write a lift with its interval.

    Args:
        lift: `value` and `interval`.

    Example:
        >>> lift_text({"value": 0.05, "interval": [0.01, 0.09]})
        '+5.00 % [+1.00, +9.00]'
    """
    if lift["interval"] is None:
        return gain(lift["value"])
    low, high = lift["interval"]
    return f"{gain(lift['value'])} [{low * 100:+.2f}, {high * 100:+.2f}]"


def _columns(record: Record) -> tuple[list[str], list[Column]]:
    """One row a step and rival, the transitions below the reaches."""
    names = [entry["variant"] for entry in record["variants"]]
    rows: list[tuple[str, Record, Record]] = []
    for step in record["steps"]:
        rows += [(step["name"], step["rates"], lift) for lift in step["lifts"]]
    for former, step in zip(record["steps"], record["steps"][1:], strict=False):
        rates = step["transition"]["rates"]
        rows += [(f"{step['name']} per {former['name']}", rates, lift) for lift in step["transition"]["lifts"]]
    columns = [Column(names[0], [rate_text(rates[names[0]]) for _, rates, _ in rows])]
    if len(names) > 2:
        columns.append(Column("variant", [lift["variant"] for *_, lift in rows]))
        columns.append(Column("its rate", [rate_text(rates[lift["variant"]]) for _, rates, lift in rows]))
    else:
        columns.append(Column(names[1], [rate_text(rates[names[1]]) for _, rates, _ in rows]))
    sequences = [lift.get("sequence") for *_, lift in rows]
    columns.append(Column("lift, always-valid", ["-" if s is None else lift_text(s) for s in sequences]))
    columns.append(
        Column("p after Holm", ["-" if s is None else p_text(s["holm_p"])[2:].removeprefix("= ") for s in sequences])
    )
    columns.append(Column("decision", ["-" if s is None else decision_text(s) for s in sequences]))
    columns.append(Column("lift, one look", [lift_text(lift["fixed"]) for *_, lift in rows]))
    if any("without_covariate" in lift for *_, lift in rows):
        texts = [lift_text(lift["without_covariate"]) if "without_covariate" in lift else "-" for *_, lift in rows]
        columns.append(Column("without covariate", texts))
    return [row[0] for row in rows], columns


def _title(record: Record) -> str:
    days = record["days"]
    name = f"{record['experiment']}: " if record["experiment"] else ""
    users = sum(record["assignment"]["users"])
    return f"{name}{users:,} users, {days[0]['date']} to {days[-1]['date']}, events per {record['per']}"


def to_rich_table(record: Record) -> Table:
    """Write rates and lifts as a table for the terminal.

    Args:
        record: from `analyse`.
    """
    names, columns = _columns(record)
    shown = [Column(c.head.replace(", ", ",\n"), c.texts) for c in columns]
    return terminal_table(_title(record), f"per {record['per']}", names, shown)


def to_markdown(record: Record) -> str:
    """Write the result as Markdown: the verdict, the table, what was left out, and the sequences by day.

    Args:
        record: from `analyse`.
    """
    level = f"{(1 - record['alpha']) * 100:.4g} %"
    sentences = "".join(f"- {plain(s['about'])}: {plain(s['text'])}\n" for s in record["verdict"]["sentences"])
    whole = markdown_table(f"per {record['per']}", *_columns(record))
    rows = left_out(record)
    counts = markdown_table(
        "log",
        [log for log, *_ in rows],
        [Column("rows", [words for _, words, _ in rows]), Column("number", [f"{number:,}" for *_, number in rows])],
    )
    days = [look["date"] for look in record["steps"][0]["looks"]]
    sequences = [
        Column(
            f"{step['name']}, {lift['variant']}", [lift_text(look["lifts"][lift["variant"]]) for look in step["looks"]]
        )
        for step in record["steps"]
        for lift in step["lifts"]
    ]
    return (
        f"{plain(_title(record))}.\n\n{sentences}\n{whole}\n"
        f"Intervals of {level}, clustered by user. An always-valid one holds however often one looks; the one of a "
        f"single look holds only where there was no other.\n\n{counts}\n"
        f"Always-valid lifts at the end of each day:\n\n{markdown_table('day', days, sequences)}"
    )
