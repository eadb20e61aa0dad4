"""`funnelcast abtest design`: base rates or a history -> users and days an experiment needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from funnelcast.cli.abtest import (
    Base,
    CovariateColumn,
    Covariates,
    Exposures,
    Memory,
    Outcomes,
    Per,
    Share,
    StepNames,
    abtest,
    read_choice,
    read_numbers,
)
from funnelcast.cli.shell import console
from funnelcast.errors import ConfigError

if TYPE_CHECKING:
    from funnelcast.experiment.history import History


@abtest.command()
def design(
    rate: Annotated[list[str], typer.Option(help="step=rate, where there is no history.")] = [],  # noqa: B006
    data: Annotated[Path | None, typer.Option(help="A prepared folder with users, as history.")] = None,
    exposures: Exposures = [],  # noqa: B006
    outcomes: Outcomes = [],  # noqa: B006
    covariates: Covariates = [],  # noqa: B006
    covariate: CovariateColumn = None,
    step: StepNames = [],  # noqa: B006
    per: Per = "exposure",
    lift: Annotated[float, typer.Option(help="Relative lift that should be found.")] = 0.05,
    power: Annotated[float, typer.Option(help="Chance to find it.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Chance of a false alarm.")] = 0.05,
    tests: Annotated[int, typer.Option(help="Steps and rivals that share alpha.")] = 1,
    share: Share = [],  # noqa: B006
    base: Base = None,
    users_per_day: Annotated[
        float | None, typer.Option(help="New users a day; by default those of the history.")
    ] = None,
    users: Annotated[int | None, typer.Option(help="Also say what lift so many users can show.")] = None,
    exposures_per_user: Annotated[float, typer.Option(help="With --rate: exposures a user.")] = 1.0,
    design_effect: Annotated[float, typer.Option(help="With --rate: how alike a user's exposures are.")] = 1.0,
    memory: Memory = "1GB",
    threads: Annotated[int | None, typer.Option(help="Threads; one a processor by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for design.json and design.md.")] = None,
) -> None:
    """Say how many users and days a lift at every step needs, and what lift a number of users can show."""
    from funnelcast.experiment.design import Plan, binomial_step
    from funnelcast.experiment.design_page import build_design, design_notes, design_table, write_design

    if users_per_day is not None and not 0 < users_per_day < math.inf:
        raise ConfigError(f"--users-per-day should be above 0 and finite, received {users_per_day}")
    if sum([bool(rate), data is not None, bool(exposures or outcomes)]) != 1 or bool(exposures) != bool(outcomes):
        raise ConfigError("one source should be given: --rate, or --data, or --exposures with --outcomes")
    plan = Plan(lift=lift, power=power, alpha=alpha, shares=_shares(share, base), tests=tests)
    newcomers: tuple[int, ...] = ()
    unit = read_choice("--per", per, ("exposure", "user"))
    if rate:
        rates = read_numbers("--rate", rate)
        steps = tuple(binomial_step(name, p, exposures_per_user, design_effect, lift) for name, p in rates.items())
        source = {}
    else:
        logs = _Logs(tuple(exposures), tuple(outcomes), tuple(covariates), covariate, tuple(step), memory, threads)
        history = _history(data, logs, unit)
        steps, newcomers = history.steps, history.newcomers
        source = {"users": history.users, "units": history.units}
    days = newcomers if users_per_day is None else (users_per_day,)
    record = build_design(steps, plan, days, users, source)
    console.print(design_table(record))
    for line in design_notes(record):
        console.print(line, soft_wrap=True, highlight=False)
    if out is not None:
        write_design(record, out)
        console.print(f"design in {out / 'design.md'}", soft_wrap=True)


class _Logs(NamedTuple):
    """The options that name a history in logs."""

    exposures: tuple[str, ...]
    outcomes: tuple[str, ...]
    covariates: tuple[str, ...]
    covariate: str | None
    steps: tuple[str, ...]
    memory: str
    threads: int | None


def _history(data: Path | None, logs: _Logs, per: Literal["exposure", "user"]) -> History:
    """Measure a prepared folder, or logs."""
    from funnelcast.experiment.attribution import Attribution
    from funnelcast.experiment.covariate import Covariate
    from funnelcast.experiment.history import history_of_logs, history_of_shards
    from funnelcast.experiment.joined import Files

    if data is not None:
        return history_of_shards(data, per)
    known = Covariate(logs.covariates, logs.covariate) if logs.covariates or logs.covariate else None
    files = Files(logs.exposures, logs.outcomes, known, logs.memory, logs.threads)
    return history_of_logs(files, Attribution(logs.steps), per)


def _shares(texts: list[str], base: str | None) -> dict[str, float]:
    """Read the planned shares, the base first."""
    shares = read_numbers("--share", texts, "variant") or {"control": 0.5, "treatment": 0.5}
    if base is None:
        return shares
    if base not in shares:
        raise ConfigError(f"--base should be one of {', '.join(shares)}, received '{base}'")
    return {base: shares[base]} | shares
