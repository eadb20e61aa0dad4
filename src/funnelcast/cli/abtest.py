"""`funnelcast abtest`: online comparisons of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import app, console
from funnelcast.errors import ConfigError

abtest = typer.Typer(help="Compare two runs on live or simulated traffic.", no_args_is_help=True)
app.add_typer(abtest, name="abtest")


@abtest.callback()
def options() -> None:
    """Compare two runs on live or simulated traffic."""


def _values(texts: list[str]) -> dict[str, float]:
    """Read `--value STEP=NUMBER`."""
    found = {}
    for text in texts:
        step, _, number = text.partition("=")
        try:
            found[step.strip()] = float(number)
        except ValueError as error:
            raise ConfigError(f"--value should be step=number, received '{text}'") from error
    return found


@abtest.command()
def simulate(
    run_a: Annotated[Path, typer.Argument(help="The base: a run trained on simulated data.")],
    run_b: Annotated[Path, typer.Argument(help="Its rival, trained on data of the same world.")],
    days: Annotated[int, typer.Option(help="Days of traffic.")] = 7,
    users: Annotated[int, typer.Option(help="Users of both arms.")] = 20_000,
    candidates: Annotated[int, typer.Option(help="Candidates a visit.")] = 50,
    show: Annotated[int | None, typer.Option(help="Items shown a visit; 5 by default.")] = None,
    visits: Annotated[float, typer.Option(help="Mean visits a user and day.")] = 1.0,
    rank_by: Annotated[str | None, typer.Option(help="Step whose reach ranks; the last one by default.")] = None,
    value: Annotated[list[str], typer.Option(help="step=number; ranks by expected value.")] = [],  # noqa: B006
    paired: Annotated[bool, typer.Option("--paired", help="Both arms serve every visit, with common answers.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the traffic; the world stays the same.")] = 0,
    salt: Annotated[str, typer.Option(help="Of the hash that splits the users.")] = "simulate",
    data: Annotated[Path | None, typer.Option(help="Prepared folder; by default the one the runs recorded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for abtest.json, abtest.md and abtest.svg.")] = None,
) -> None:
    """Let two runs rank some days of simulated traffic whose truth is known."""
    from funnelcast.experiment.simulate import Plan
    from funnelcast.experiment.simulate import simulate as simulate_days
    from funnelcast.experiment.simulation_page import summary_lines, to_rich_table, write_simulation
    from funnelcast.experiment.traffic import Traffic
    from funnelcast.run import Run

    traffic = Traffic(days=days, users=users, candidates=candidates, visits=visits, seed=seed)
    shown = min(5, candidates) if show is None else show
    plan = Plan(traffic, show=shown, rank_by=rank_by, values=_values(value), paired=paired, salt=salt)
    record = simulate_days((Run(run_a), Run(run_b)), plan, data)
    console.print(to_rich_table(record))
    for line in summary_lines(record):
        console.print(line, soft_wrap=True, highlight=False)
    if out is not None:
        write_simulation(record, out)
        console.print(f"result in {out / 'abtest.md'}, daily curves in {out / 'abtest.svg'}", soft_wrap=True)
