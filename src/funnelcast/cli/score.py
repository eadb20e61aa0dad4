"""`funnelcast score`: a bundle and raw files -> scored files, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import app, console


@app.command()
def score(
    bundle: Annotated[Path, typer.Argument(help="Folder that `export` wrote.")],
    source: Annotated[Path, typer.Argument(help="Parquet file of raw rows, or a folder of them.")],
    out: Annotated[Path, typer.Argument(help="Folder for the scores; the same command goes on after any end.")],
    keep: Annotated[list[str], typer.Option("--keep", help="Raw column to write too; several times.")] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model.")] = 1,
) -> None:
    """Score raw rows with a bundle, part by part, in bounded memory."""
    from funnelcast.serving import Bundle
    from funnelcast.serving.score_files import score_files

    opened = Bundle.load(bundle, threads=threads)
    rows = score_files(opened, source, out, keep=keep)
    console.print(f"scored {rows:,} rows into {out}, model version {opened.version}", soft_wrap=True)
