"""A simulated A/B test as Markdown, as a table for the terminal, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from funnelcast.column_table import markdown_table, terminal_table
from funnelcast.files import make_folder, write_bytes, write_json
from funnelcast.report.daily_figure import daily_figure
from funnelcast.report.elements import Entry
from funnelcast.report.figures import Line, line_style
from funnelcast.report.svg_files import svg_document
from funnelcast.tables import Column, plain

__all__ = ["daily_curves", "summary_lines", "to_markdown", "to_rich_table", "write_simulation"]

Record = Mapping[str, Any]


def write_simulation(record: Record, out: Path) -> None:
    """Write `abtest.json`, `abtest.md` and `abtest.svg`.

    Args:
        record: from `simulate`.
        out: the folder; it is made.
    """
    make_folder(out)
    write_json(out / "abtest.json", record)
    write_bytes(out / "abtest.md", to_markdown(record).encode())
    write_bytes(out / "abtest.svg", daily_curves(record).encode())


def _metrics(record: Record) -> list[Record]:
    """The steps, and the value where values of steps were given."""
    return [*record["steps"], *([record["value"]] if "value" in record else [])]


def _names(record: Record) -> dict[str, str]:
    """Arm -> `A: experiment`."""
    return {arm["arm"]: f"{arm['arm']}: {arm['experiment']}" for arm in record["arms"]}


def _number(name: str, value: float | None) -> str:
    """A rate in percent, a value as it is."""
    if value is None:
        return "undefined"
    return f"{value:.4g}" if name == "value" else f"{value * 100:.3f} %"


def _rate(name: str, rate: Record) -> str:
    """A rate with half the width of its interval."""
    if rate["interval"] is None:
        return _number(name, rate["value"])
    half = (rate["interval"][1] - rate["interval"][0]) / 2
    return f"{_number(name, rate['value']).removesuffix(' %')} ±{_number(name, half)}"


def _gain(value: float | None) -> str:
    return "undefined" if value is None else f"{value * 100:+.2f} %"


def _lift(lift: Record) -> str:
    if lift["interval"] is None:
        return _gain(lift["value"])
    low, high = lift["interval"]
    return f"{_gain(lift['value'])} [{low * 100:+.2f}, {high * 100:+.2f}]"


def _columns(record: Record) -> list[Column]:
    """One row a step: rates, bounds, lift, and what the offline metric had promised."""
    metrics, names = _metrics(record), _names(record)
    by = {key: [_rate(m["name"], m["rates"][key]) for m in metrics] for key in (*names, "random", "oracle")}
    columns = [Column(names[key], by[key]) for key in names]
    columns += [Column(f"{key} ranking", by[key]) for key in ("random", "oracle")]
    columns.append(Column("lift of B", [_lift(m["lift"]) for m in metrics]))
    columns.append(Column("true lift", [_gain(m["lift"]["expected"]) for m in metrics]))
    offline = [m.get("offline", {"gain": None, "reach_auc": {}}) for m in metrics]
    for key in names:
        aucs = [entry["reach_auc"].get(key) for entry in offline]
        columns.append(Column(f"{key}: TEST reach AUC", ["-" if auc is None else f"{auc:.4f}" for auc in aucs]))
    gains = ["-" if entry["gain"] is None else _gain(entry["gain"]) for entry in offline]
    return [*columns, Column("offline gain", gains)]


def _title(record: Record) -> str:
    aim = record["rank_by"]
    by = f"reach of {aim}" if isinstance(aim, str) else "expected value"
    shared = "both arms serve every visit" if record["paired"] else "users split by hash"
    return (
        f"{record['days']} days, {record['users']:,} users, {record['show']} of {record['candidates']} candidates "
        f"shown by {by}; {shared}"
    )


def to_rich_table(record: Record) -> Table:
    """Write the steps' rates and lifts as a table for the terminal.

    Args:
        record: from `simulate`.
    """
    columns = [Column(c.head.replace(": ", ":\n").replace(" ", "\n", 1), c.texts) for c in _columns(record)]
    return terminal_table(_title(record), "a showing", [metric["name"] for metric in _metrics(record)], columns)


def summary_lines(record: Record) -> list[str]:
    """Say what the table cannot: the assignment, the share of what is possible, and what is missing.

    Args:
        record: from `simulate`.
    """
    lines = []
    if record["assignment"] is not None:
        users, check = " and ".join(f"{n:,}" for n in record["assignment"]["users"]), record["assignment"]
        verdict = "differs from the planned 50/50" if check["mismatch"] else "as planned"
        lines.append(f"users of A and B: {users}, {verdict} (p = {check['p_value']:.3g})")
    shares = {arm: share for arm, share in record["of_possible"].items() if share is not None}
    if shares:
        text = ", ".join(f"{arm} {share:.1%}" for arm, share in shares.items())
        lines.append(f"of the way from random to oracle ranking, by the true reach: {text}")
    reasons = [s["offline"]["reason"] for s in record["steps"] if "reason" in s["offline"]]
    reasons += [
        f"{m['name']}: no interval of the lift: {m['lift']['reason']}"
        for m in _metrics(record)
        if "reason" in m["lift"]
    ]
    return [*lines, *dict.fromkeys(reasons)]


def to_markdown(record: Record) -> str:
    """Write the result as Markdown: the table of the whole time, then the daily lifts.

    Args:
        record: from `simulate`.
    """
    metrics = _metrics(record)
    names = [metric["name"] for metric in metrics]
    whole = markdown_table("a showing", names, _columns(record))
    days = [
        Column(f"day {day['day']}", [_lift(metric["daily"][number]["lift"]) for metric in metrics])
        for number, day in enumerate(metrics[0]["daily"])
    ]
    notes = "".join(f"- {plain(line)}\n" for line in summary_lines(record))
    return (
        f"{plain(_title(record))}. Rates are a showing, with {record['level']:.0%} intervals clustered by user; the "
        f"true lift is that of the true reach of what was shown.\n\n{whole}\n{notes}\n"
        f"Lift of B by day:\n\n{markdown_table('a showing', names, days)}"
    )


def daily_curves(record: Record) -> str:
    """Draw the daily rates of both arms with their intervals, one panel a step, as one SVG document.

    Args:
        record: from `simulate`.
    """
    names = _names(record)
    panels = []
    for number, metric in enumerate(_metrics(record)):
        lines, bands = [], []
        for series, arm in enumerate(names):
            known = [day for day in metric["daily"] if day[arm]["value"] is not None]
            values = [day[arm]["value"] for day in known]
            lines.append(Line(series, [day["day"] for day in known], values))
            bands.append([tuple(day[arm]["interval"] or (day[arm]["value"],) * 2) for day in known])
        label = "value a showing" if metric["name"] == "value" else "rate"
        panels.append((metric["name"], daily_figure(f"day-{number}", lines, bands, label)))
    note = f"Rates a showing; bands are {record['level']:.0%} intervals clustered by user."
    legend = [Entry(name, *line_style(number)) for number, name in enumerate(names.values())]
    return svg_document(panels, legend, f"Daily rates of {len(legend)} arms, a panel a step.", note)
