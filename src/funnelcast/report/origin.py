"""The last sections: what it costs, and where it comes from."""

from __future__ import annotations

import json

from funnelcast.report.elements import Cell, Group, Panel, Section, Table
from funnelcast.report.figures import speed_figure
from funnelcast.report.source import Source
from funnelcast.tables import Column, short

__all__ = ["efficiency_section", "origin_section"]

# Key of a row -> (head, whether more is better).
_COSTS = {
    "parameters": ("parameters", False),
    "bytes": ("bytes", False),
    "train_rows_per_second": ("train rows/s", True),
    "seconds_per_epoch": ("seconds an epoch", False),
    "seconds_per_fit": ("seconds a whole fit", False),
    "score_rows_per_second": ("score rows/s", True),
    "peak_bytes": ("peak memory, bytes", False),
}


def efficiency_section(source: Source) -> Section | None:
    """Show what every experiment costs, or return None where it was not measured.

    Args:
        source: what the page is about.
    """
    if source.efficiency is None:
        return None
    rows = [row for row in source.efficiency["rows"] if row["experiment"] in source.names]
    columns = []
    for key, (head, more) in _COSTS.items():
        values = [row.get(key) for row in rows]
        if any(value is not None for value in values):
            texts = ["-" if value is None else short(value) for value in values]
            columns.append(Column.of(head, texts, [None if v is None else -v if more else v for v in values]))
    table = Table.of_columns([row["experiment"] for row in rows], columns)
    aucs = {row["experiment"]: row["steps"][-1]["reach"]["auc"]["mean"] for row in source.board["rows"]}
    series = {run.experiment: run.series for run in source.first}
    known = [
        (row["experiment"], row["train_rows_per_second"], aucs[row["experiment"]])
        for row in rows
        if row.get("train_rows_per_second") and aucs[row["experiment"]] is not None
    ]
    panel = Panel(
        "efficiency",
        f"Reach AUC of {source.steps[-1]} over training speed",
        speed_figure("efficiency", [(series[name], speed, auc) for name, speed, auc in known], "reach AUC")
        if known
        else "",
        f"Mean reach AUC at the last step over training rows a second of {len(known)} experiments.",
        "Up and to the right is better. Experiments without a colour of their own are grey.",
        Table.of_text(
            ["experiment", "train rows/s", "reach AUC"],
            [[name, f"{speed:,.0f}", f"{auc:.4f}"] for name, speed, auc in known],
        ),
        source.legend,
    )
    group = Group(legend=source.legend, panels=(panel,), tables=(Table(table.heads, table.rows, (), "experiments"),))
    return Section("efficiency", "Efficiency", "Efficiency", "The best value of a column is bold.", groups=(group,))


def origin_section(source: Source) -> Section:
    """Show configurations, data, environment and checksums.

    Args:
        source: what the page is about.
    """
    environment = source.first[0].report.get("environment", {})
    versions = Table.of_text(["what", "version or number"], [[key, str(value)] for key, value in environment.items()])
    rows = []
    for run in source.runs:
        weights = next((value for name, value in run.checksums.items() if name.startswith(("weights", "trees"))), "-")
        data = run.report.get("data_sha256") or run.record.get("data", {}).get("manifest_sha256", "-")
        rows.append([Cell(run.experiment), Cell(str(run.report["seed"])), Cell(str(data)), Cell(str(weights))])
    hashes = Table(
        ["experiment", "seed", "data: SHA-256 of the manifest", "weights: SHA-256"],
        rows,
        ("Runs with the same checksum of the data were trained on the same prepared folder.",),
    )
    configurations = tuple(
        Group(
            f"Configuration of {run.experiment}",
            source=json.dumps(run.record["experiment"], indent=2, ensure_ascii=False),
            folded=True,
        )
        for run in source.first
        if "experiment" in run.record
    )
    groups = (
        Group("Environment", tables=(versions,)),
        Group("Checksums", tables=(hashes,), folded=True),
        *configurations,
    )
    return Section("origin", "Origin", "Origin", groups=groups)
