"""A measurement of efficiency as Markdown, as a table for the terminal, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from funnelcast.column_table import markdown_table, terminal_table
from funnelcast.files import make_folder, write_bytes, write_json
from funnelcast.report.elements import Entry
from funnelcast.report.figures import line_style
from funnelcast.report.speed_figure import Speed, speed_figure
from funnelcast.report.svg_files import svg_document
from funnelcast.tables import Column, plain, short

__all__ = ["speed_curves", "to_markdown", "to_rich_table", "write_efficiency"]

Record = Mapping[str, Any]


def write_efficiency(record: Record, out: Path) -> None:
    """Write `efficiency.json`, `efficiency.md` and, where a model could be measured, `efficiency.svg`.

    Args:
        record: from `measure`.
        out: the folder; it is made.
    """
    make_folder(out)
    write_json(out / "efficiency.json", record)
    write_bytes(out / "efficiency.md", to_markdown(record).encode())
    if record["rows"]:
        write_bytes(out / "efficiency.svg", speed_curves(record).encode())


def _speed(row: Record, name: str) -> str:
    """A median with the range over the turns."""
    low, high = row[f"{name}_interval"]
    return f"{short(row[name])} [{short(low)}, {short(high)}]"


def _seconds(row: Record, unit: str) -> str:
    if row["unit"] != unit:
        return "-"
    low, high = row[f"seconds_per_{unit}_interval"]
    return f"{row[f'seconds_per_{unit}']:.3g} [{low:.3g}, {high:.3g}]"


def _bytes(row: Record, name: str) -> str:
    return "undefined" if row[name] is None else f"{short(row[name])}B"


def _columns(record: Record) -> list[Column]:
    rows = record["rows"]
    kind = "CPU s" if record["clock"] == "cpu" else "s"
    sizes = ("parameters", "bytes", "peak_bytes", "score_peak_bytes")
    parameters, weights, peak, score_peak = ([row[name] for row in rows] for name in sizes)
    # A fit goes through TRAIN hundreds of times, an epoch once: the two have no common best.
    train = [-row["train_rows_per_second"] if row["unit"] == "epoch" else None for row in rows]
    score = [-row["score_rows_per_second"] for row in rows]
    return [
        *(
            Column.of(head, [_seconds(row, unit) for row in rows], [row.get(f"seconds_per_{unit}") for row in rows])
            for unit, head in (("epoch", f"epoch, {kind}"), ("fit", f"whole fit, {kind}"))
            if any(row["unit"] == unit for row in rows)
        ),
        Column.of("train rows/s", [_speed(row, "train_rows_per_second") for row in rows], train),
        Column.of("score rows/s", [_speed(row, "score_rows_per_second") for row in rows], score),
        Column.of("parameters", [short(value) for value in parameters], parameters),
        Column.of("weights", [_bytes(row, "bytes") for row in rows], weights),
        Column.of("peak of a training step", [_bytes(row, "peak_bytes") for row in rows], peak),
        Column.of("peak of scoring", [_bytes(row, "score_peak_bytes") for row in rows], score_peak),
    ]


def _title(record: Record) -> str:
    train = f", TRAIN of {record['rows'][0]['train_rows']:,} rows" if record["rows"] else ""
    clock = "CPU time" if record["clock"] == "cpu" else "wall time"
    return (
        f"{record['dataset']}{train}: medians and ranges of {record['turns']} turn(s) of {record['steps']} steps, "
        f"{clock}, {record['threads']} thread(s)"
    )


def to_rich_table(record: Record) -> Table:
    """Write the measurement as a table for the terminal; the best value of each column is bold.

    Args:
        record: from `measure`.
    """
    columns = [Column(c.head.replace(" ", "\n", 1), c.texts, c.best) for c in _columns(record)]
    return terminal_table(_title(record), "experiment", [row["experiment"] for row in record["rows"]], columns)


def to_markdown(record: Record) -> str:
    """Write the measurement as Markdown; the best value of each column is bold.

    Args:
        record: from `measure`.
    """
    table = markdown_table("experiment", [row["experiment"] for row in record["rows"]], _columns(record))
    reasons = {row["peak_bytes_reason"] for row in record["rows"] if "peak_bytes_reason" in row}
    notes = [f"peak memory is undefined: {reason}" for reason in sorted(reasons)]
    if any(row["unit"] == "fit" for row in record["rows"]):
        notes.append("trees have no epoch: their train rows/s are rows of TRAIN by the time of the whole fit")
    notes += [f"{failure['experiment']} failed: {failure['reason']}" for failure in record["failures"]]
    return f"{plain(_title(record))}.\n\n{table}" + "".join(f"\n- {plain(note)}" for note in notes) + "\n" * bool(notes)


def speed_curves(record: Record) -> str:
    """Draw the speed of training and of scoring over the number of parameters, as one SVG document.

    Args:
        record: from `measure`, with at least one row.
    """
    panels = []
    for word, title in (("train", "Training"), ("score", "Scoring")):
        name = f"{word}_rows_per_second"
        points = [
            Speed(i, row["parameters"], row[name], tuple(row[f"{name}_interval"]))
            for i, row in enumerate(record["rows"])
        ]
        label = "rows a CPU second" if record["clock"] == "cpu" else "rows a second"
        panels.append((title, speed_figure(f"speed-{word}", points, label)))
    legend = [
        Entry(f"{i + 1}: {row['experiment']}{' (whole fit)' * (row['unit'] == 'fit')}", *line_style(i))
        for i, row in enumerate(record["rows"])
    ]
    alt = f"Speed of training and of scoring over the number of parameters of {len(legend)} experiments."
    return svg_document(panels, legend, alt, f"Bars: range of {record['turns']} turns.")
