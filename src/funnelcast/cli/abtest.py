"""`funnelcast abtest`: online experiments; what their commands share, and the simulated one."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from funnelcast.cli.shell import app, console
from funnelcast.errors import ConfigError

if TYPE_CHECKING:
    from funnelcast.experiment.served_model import ServedModel
    from funnelcast.run import Run

_KEY = "FUNNELCAST_SCORE_KEY"
abtest = typer.Typer(help="Design, simulate and analyse online experiments.", no_args_is_help=True)
app.add_typer(abtest, name="abtest")


@abtest.callback()
def options() -> None:
    """Design, simulate and analyse online experiments."""


Exposures = Annotated[list[str], typer.Option(help="Exposure log, Parquet or JSON lines; several, or a pattern.")]
Outcomes = Annotated[list[str], typer.Option(help="Outcomes, a column a step; several, or a pattern.")]
Covariates = Annotated[list[str], typer.Option(help="Files of user and what was known before (CUPED).")]
CovariateColumn = Annotated[str | None, typer.Option(help="Its column, there or in the exposures.")]
StepNames = Annotated[list[str], typer.Option(help="Column of a step, in funnel order; all by default.")]
Share = Annotated[list[str], typer.Option(help="variant=share of the users; equal ones by default.")]
Base = Annotated[str | None, typer.Option(help="Variant the others are compared with; the first by default.")]
Per = Annotated[str, typer.Option(help="Rates per exposure or per user.")]
Memory = Annotated[str, typer.Option(help="Memory limit, such as 1GB.")]


def read_numbers(option: str, texts: list[str], what: str = "step") -> dict[str, float]:
    """Read `step=number` texts.

    Args:
        option: what stands before them, for messages.
        texts: what the user wrote.
        what: what the names are.

    Raises:
        ConfigError: a text is of another form, or a name comes twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = (part.strip() for part in text.rpartition("="))
        try:
            value = float(number)
        except ValueError as error:
            raise ConfigError(f"{option} should be {what}=number, received '{text}'") from error
        if not name or name in found:
            raise ConfigError(f"{option} should name every {what} once, received '{text}'")
        found[name] = value
    return found


def read_choice(option: str, text: str, known: tuple[str, ...]) -> Any:
    """Check a word.

    Args:
        option: what stands before it.
        text: what the user wrote.
        known: the choices.

    Raises:
        ConfigError: the word is none of them.
    """
    if text not in known:
        raise ConfigError(f"{option} should be one of {', '.join(known)}, received '{text}'")
    return text


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
    service: Annotated[str | None, typer.Option(help="URL of a running service that scores in their place.")] = None,
    model: Annotated[list[str], typer.Option(help="Name of each model there, the base first.")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Folder for abtest.json, abtest.md and abtest.svg.")] = None,
) -> None:
    """Let two runs, or a service that has exports of them, rank some days of simulated traffic whose truth is known."""
    from funnelcast.experiment.simulate import Plan
    from funnelcast.experiment.simulate import simulate as simulate_days
    from funnelcast.experiment.simulation_page import summary_lines, to_rich_table, write_simulation
    from funnelcast.experiment.traffic import Traffic
    from funnelcast.run import Run

    traffic = Traffic(days=days, users=users, candidates=candidates, visits=visits, seed=seed)
    shown = min(5, candidates) if show is None else show
    plan = Plan(traffic, show=shown, rank_by=rank_by, values=read_numbers("--value", value), paired=paired, salt=salt)
    runs = Run(run_a), Run(run_b)
    with ExitStack() as stack:
        record = simulate_days(runs, plan, data, _services(service, model, runs, stack))
    console.print(to_rich_table(record))
    for line in summary_lines(record):
        console.print(line, soft_wrap=True, highlight=False)
    if out is not None:
        write_simulation(record, out)
        console.print(f"result in {out / 'abtest.md'}, daily curves in {out / 'abtest.svg'}", soft_wrap=True)


def _services(
    url: str | None, names: list[str], runs: tuple[Run, Run], stack: ExitStack
) -> tuple[ServedModel, ServedModel] | None:
    """Reach the models of a service, whose key is in the environment."""
    from funnelcast.experiment.served_model import ServedModel

    if url is None and not names:
        return None
    if url is None or len(names) != 2:
        received = f"{len(names)} models" if url else "no --service"
        raise ConfigError(f"--service should come with two --model, the base first, received {received}")
    key = os.environ.get(_KEY)
    base, rival = (
        stack.enter_context(closing(ServedModel(url, name, run.schema.step_names, key)))
        for name, run in zip(names, runs, strict=True)
    )
    return base, rival
