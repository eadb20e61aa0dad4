"""`funnelcast traffic`: the users' shares of running services, and the switch that turns a variant off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import app, console, read_pairs
from funnelcast.errors import ConfigError


@app.command()
def traffic(
    file: Annotated[Path, typer.Argument(help="The traffic file that serve.toml names.")],
    shares: Annotated[list[str], typer.Argument(help="VARIANT=SHARE of each variant; none shows them.")] = [],  # noqa: B006
    off: Annotated[str | None, typer.Option("--off", help="Take all users from this variant.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Name of a new experiment: draws all users anew.")] = None,
) -> None:
    """Set or show the users' shares of variants; running services follow within a second."""
    from funnelcast.serving.traffic import read_traffic, set_shares, switch_off

    if off is not None and (shares or experiment is not None):
        raise ConfigError(f"--off {off} should stand alone, received shares or an experiment, too")
    if off is not None:
        found = switch_off(file, off)
    elif shares or experiment is not None:
        given = read_pairs(shares, "a share") if shares else read_traffic(file).allocation.shares
        if wrong := [name for name, share in given.items() if not isinstance(share, int | float)]:
            name = wrong[0]
            raise ConfigError(f"the share of '{name}' should be a number from 0 to 1, received '{given[name]}'")
        found = set_shares(file, given, experiment)
    else:
        found = read_traffic(file)
    listed = ", ".join(f"{name} {share:.4g}" for name, share in found.allocation.shares.items())
    console.print(f"experiment {found.experiment}: {listed}", soft_wrap=True)
