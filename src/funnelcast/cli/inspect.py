"""`funnelcast inspect`: what the gates of a run do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from funnelcast.cli.shell import OwnData, RunFolder, app, console, open_run
from funnelcast.errors import ConfigError

if TYPE_CHECKING:
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split


@app.command()
def inspect(
    run: RunFolder,
    data: OwnData = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    rows: Annotated[int, typer.Option(help="Rows of the split, at even distances.")] = 20_000,
    by: Annotated[str | None, typer.Option(help="A field whose values are segments.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Measure drift from train, valid or test, or from the split of a prepared folder."),
    ] = None,
    map_rows: Annotated[int, typer.Option(help="Rows of the map, at most 2,000; 0 for none.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="Folder of the figures; by default figures in the run.")] = None,
) -> None:
    """Look at the gates of a trained model; write gates.json into the run, and figures."""
    from funnelcast.inspection import inspect_gates
    from funnelcast.report.gate_words import gate_findings

    opened, prepared, part = open_run(run, data, split)
    reference = None if against is None else _reference(against, prepared, part)
    record = inspect_gates(opened, prepared, part, rows=rows, by=by, against=reference, map_rows=map_rows, out=out)
    console.print(_layers(record))
    if by is not None:
        console.print(_segments(record))
    for sentence in gate_findings(record):
        console.print(sentence, soft_wrap=True)
    console.print(f"figures in {out or run / 'figures'}", soft_wrap=True)


def _reference(against: str, data: PreparedData, split: Split) -> tuple[PreparedData, Split]:
    """Read `--against`: a split of the same data, or the same split of other data."""
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split

    parts = [part.value for part in Split]
    if against in parts:
        return data, Split(against)
    if not Path(against).is_dir():
        raise ConfigError(f"--against should be one of {', '.join(parts)} or a prepared folder, received '{against}'")
    return PreparedData(Path(against)), split


def _layers(record: dict[str, Any]) -> Table:
    """One row a layer."""
    heads = ("open, median", "5 % to 95 % of rows", "mean gate", "dead", "always open", "exactly 0", "exactly 1")
    table = Table("layer", "gates", *heads, "entropy")
    for layer in record["layers"]:
        rate = layer["quantiles"]["rate"]
        table.add_row(
            layer["name"],
            str(layer["gates"]),
            f"{rate['0.5']:.1%}",
            f"{rate['0.05']:.1%} to {rate['0.95']:.1%}",
            f"{layer['mean']:.3f}",
            str(layer["dead"]),
            str(layer["always_open"]),
            f"{layer['exact_zero']:.1%}",
            f"{layer['exact_one']:.1%}",
            f"{layer['entropy']:.3f}",
        )
    return table


def _segments(record: dict[str, Any]) -> Table:
    """One row a segment, with the selection rate and the entropy of every layer."""
    table = Table(record["by"], "rows")
    for layer in record["layers"]:
        table.add_column(f"{layer['name']}\nopen, entropy")
    for number, segment in enumerate(record["layers"][0]["segments"]):
        same = (layer["segments"][number] for layer in record["layers"])
        table.add_row(segment["value"], f"{segment['rows']:,}", *(f"{s['rate']:.1%}, {s['entropy']:.3f}" for s in same))
    return table
