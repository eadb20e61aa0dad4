"""`funnelcast registry`: add a bundle, let a version answer, go back to the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import app, console

registry = typer.Typer(name="registry", help="Versions of a model, and which one answers.", no_args_is_help=True)
app.add_typer(registry)

Folder = Annotated[Path, typer.Argument(help="The registry's folder, which `serve` takes in place of a bundle.")]


@registry.command("add")
def add(folder: Folder, bundle: Annotated[Path, typer.Argument(help="Folder that `export` wrote.")]) -> None:
    """Check a bundle and copy it into a registry; it does not answer yet."""
    from funnelcast.serving.registry import Registry

    console.print(Registry(folder).add(bundle), soft_wrap=True)


@registry.command("activate")
def activate(folder: Folder, version: Annotated[str, typer.Argument(help="Version that `add` printed.")]) -> None:
    """Let a version answer; services that run take it within a second."""
    from funnelcast.serving.registry import Registry

    Registry(folder).activate(version)
    console.print(f"{version} answers", soft_wrap=True)


@registry.command("rollback")
def rollback(folder: Folder) -> None:
    """Let the version before answer again."""
    from funnelcast.serving.registry import Registry

    console.print(f"{Registry(folder).rollback()} answers again", soft_wrap=True)


@registry.command("list")
def list_versions(folder: Folder) -> None:
    """List the versions; the one that answers has a star."""
    from funnelcast.serving.registry import Registry

    found = Registry(folder)
    found.check()
    current = found.current().version if found.is_at(folder) else None
    for version in found.versions():
        console.print(f"{version} {'*' if version == current else ''}".rstrip(), soft_wrap=True)
