"""`funnelcast prepare`: raw logs -> shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from funnelcast.cli.shell import Set, app, console, read_pairs
from funnelcast.errors import ConfigError
from funnelcast.registry import DATASETS

if TYPE_CHECKING:
    from funnelcast.data.description import Description


def _description(dataset: str, source: Path | None, settings: list[str], work: Path) -> Description:
    """Make a description from a dataset file or a registered dataset."""
    from funnelcast.data.description import load_description

    if dataset.endswith(".toml"):
        if source is not None or settings:
            raise ConfigError(
                "--source and --set belong to a registered dataset; a dataset file holds its own settings"
            )
        return load_description(Path(dataset))
    description: Description = DATASETS.create(dataset, options=read_pairs(settings)).describe(source, work)
    return description


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="A dataset file (.toml) or the name of a dataset.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    source: Annotated[Path | None, typer.Option(help="File or folder of a named dataset.")] = None,
    settings: Set = [],  # noqa: B006
    memory: Annotated[str, typer.Option(help="Memory limit, such as 1GB.")] = "1GB",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores by default.")] = None,
) -> None:
    """Encode raw logs into shards for training."""
    import tempfile

    from funnelcast.data import prepare as preparation

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        description = _description(dataset, source, settings, Path(work))
        manifest = preparation.prepare(description, out, memory_limit=memory, threads=threads)
    table = Table("split", "rows", *(f"{step} positives" for step in manifest["splits"]["train"]["positives"]))
    for name, part in manifest["splits"].items():
        table.add_row(name, f"{part['rows']:,}", *(f"{n:,}" for n in part["positives"].values()))
    console.print(table)
    audit = manifest["audit"]
    if audit["rows"]:
        console.print(f"{audit['rows']:,} rows have a later step but not the former one: {audit['action']}")
    console.print(f"prepared {manifest['dataset']} in {out}", soft_wrap=True)
