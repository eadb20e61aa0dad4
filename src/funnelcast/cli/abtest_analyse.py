"""`funnelcast abtest analyse`: exposures and outcomes -> rates, lifts, confidence sequences and a verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

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


@abtest.command()
def analyse(
    exposures: Exposures,
    outcomes: Outcomes,
    out: Annotated[Path, typer.Option(help="Folder for ab.json, ab.md and ab.html.")],
    step: StepNames = [],  # noqa: B006
    share: Share = [],  # noqa: B006
    base: Base = None,
    experiment: Annotated[str | None, typer.Option(help="Its name, where a log holds several.")] = None,
    join: Annotated[str, typer.Option(help="user, request_id or auto.")] = "auto",
    window_hours: Annotated[float | None, typer.Option(help="Outcomes later than this do not count.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Users first seen before this time (UTC) are left out.")
    ] = None,
    crossed: Annotated[str, typer.Option(help="Users of several variants: drop, or first.")] = "drop",
    covariates: Covariates = [],  # noqa: B006
    covariate: CovariateColumn = None,
    per: Per = "exposure",
    alpha: Annotated[float, typer.Option(help="Chance of any false alarm, whenever one looks.")] = 0.05,
    planned_lift: Annotated[float, typer.Option(help="Lift the test was planned for; fixed before the start.")] = 0.05,
    memory: Memory = "1GB",
    threads: Annotated[int | None, typer.Option(help="Threads; one a processor by default.")] = None,
) -> None:
    """Measure an experiment: is the split sound, which steps differ, and may it be stopped?"""
    from funnelcast.experiment.analysis import analyse as measure
    from funnelcast.experiment.analysis_page import to_rich_table, write_analysis
    from funnelcast.experiment.attribution import Attribution
    from funnelcast.experiment.covariate import Covariate
    from funnelcast.experiment.exposed_users import Split
    from funnelcast.experiment.joined import Files
    from funnelcast.experiment.looks import Rules

    if window_hours is not None and not 0 < window_hours < 1e6:
        raise ConfigError(f"--window-hours should be above 0, received {window_hours}")
    window = timedelta(hours=window_hours) if window_hours is not None else None
    known = Covariate(tuple(covariates), covariate) if covariates or covariate else None
    record = measure(
        Files(tuple(exposures), tuple(outcomes), known, memory, threads),
        Split(
            read_numbers("--share", share, "variant"),
            base,
            experiment,
            read_choice("--crossed", crossed, ("drop", "first")),
            since=since.replace(tzinfo=UTC) if since is not None else None,
        ),
        Attribution(tuple(step), read_choice("--join", join, ("auto", "user", "request_id")), window),
        Rules(alpha, planned_lift, read_choice("--per", per, ("exposure", "user"))),
    )
    write_analysis(record, out)
    console.print(to_rich_table(record))
    for sentence in record["verdict"]["sentences"]:
        console.print(f"{sentence['about']}: {sentence['text']}", soft_wrap=True, highlight=False)
    console.print(f"page in {out / 'ab.html'}", soft_wrap=True)
