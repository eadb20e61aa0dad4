"""A designed experiment as JSON values, as Markdown and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from funnelcast.column_table import markdown_table, terminal_table
from funnelcast.experiment.design import Plan, StepVariance, days_needed, detectable_lift, users_needed
from funnelcast.files import make_folder, write_bytes, write_json
from funnelcast.tables import Column, plain

__all__ = ["build_design", "design_markdown", "design_notes", "design_table", "write_design"]

Record = Mapping[str, Any]
_WAYS = (("one_look", False), ("always_valid", True))


def build_design(
    steps: Sequence[StepVariance],
    plan: Plan,
    newcomers: Sequence[float] = (),
    users: int | None = None,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build what `design.json` holds.

    Args:
        steps: rate and variance of each step.
        plan: what the experiment should be able to do.
        newcomers: new users a day; empty where that is not known.
        users: users there are, for whom the lift that can be seen is asked; None for nobody.
        source: where rates and variances come from.
    """
    return {
        "format": 1,
        "lift": plan.lift,
        "power": plan.power,
        "alpha": plan.alpha,
        "tests": plan.tests,
        "shares": dict(plan.shares),
        "users": users,
        "newcomers": list(newcomers),
        "source": dict(source or {}),
        "steps": [_step(step, plan, newcomers, users) for step in steps],
    }


def _step(step: StepVariance, plan: Plan, newcomers: Sequence[float], users: int | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": step.name,
        "rate": step.rate,
        "log_variance": step.log_variance,
        "design_effect": step.design_effect,
        "explained": step.explained,
        "plain": _needs(step.log_variance, plan, newcomers, users),
    }
    if step.explained is not None:
        record["with_covariate"] = _needs(step.log_variance * (1 - step.explained), plan, newcomers, users)
    return record


def _needs(variance: float, plan: Plan, newcomers: Sequence[float], users: int | None) -> dict[str, Any]:
    """Users, users of each arm and days for a test of one look and for an always-valid one."""
    found: dict[str, Any] = {}
    for name, always_valid in _WAYS:
        needed = users_needed(variance, plan, always_valid=always_valid)
        found[name] = {
            "users": needed,
            "arms": {variant: round(needed * share) for variant, share in plan.shares.items()},
            "days": days_needed(needed, newcomers),
        }
        if users is not None:
            found[name]["detectable_lift"] = detectable_lift(variance, users, plan, always_valid=always_valid)
    return found


def _columns(record: Record) -> tuple[list[str], list[Column]]:
    """One row a step, and one more with the covariate where there is one."""
    rows = [(step["name"], step, step["plain"]) for step in record["steps"]]
    rows += [(f"{s['name']}, covariate", s, s["with_covariate"]) for s in record["steps"] if "with_covariate" in s]
    effects = [step["design_effect"] for _, step, _ in rows]
    columns = [
        Column("rate", [f"{step['rate'] * 100:.4g} %" for _, step, _ in rows]),
        Column("design effect", ["-" if effect is None else f"{effect:.2f}" for effect in effects]),
    ]
    for way, words in (("one_look", "one look"), ("always_valid", "always-valid")):
        needs = [need[way] for *_, need in rows]
        columns.append(Column(f"users, {words}", [f"{need['users']:,}" for need in needs]))
        if record["newcomers"]:
            columns.append(Column(f"days, {words}", [_days(need["days"]) for need in needs]))
        if record["users"] is not None:
            lifts = [f"{need['detectable_lift'] * 100:+.2f} %" for need in needs]
            columns.append(Column(f"lift of {record['users']:,}, {words}", lifts))
    return [name for name, *_ in rows], columns


def _days(days: int | None) -> str:
    return "never" if days is None else f"{days:,}"


def _title(record: Record) -> str:
    shares = ", ".join(f"{name} {share:.4g}" for name, share in record["shares"].items())
    tests = f" shared by {record['tests']} tests" if record["tests"] > 1 else ""
    return (
        f"Users of all arms to find a lift of {record['lift'] * 100:+.4g} % with power {record['power']:.4g} at alpha "
        f"{record['alpha']:.4g}{tests}; {shares}"
    )


def design_notes(record: Record) -> list[str]:
    """Say what the table cannot.

    Args:
        record: from `build_design`.
    """
    found = ["always-valid: at the most, for a test that may be stopped on any day; one look: at the planned end alone"]
    source = record["source"]
    if "users" in source:
        found.append(
            f"history of {source['users']:,} users and {source['units']:,.0f} exposures, clustered by user; the "
            "numbers hold where a user is watched for as long as there"
        )
    else:
        found.append("variances are guessed from the rates; a history of users (--data or --exposures) measures them")
    explained = [(s["name"], s["explained"]) for s in record["steps"] if s["explained"] is not None]
    if explained:
        found.append("the covariate explains " + ", ".join(f"{share:.1%} of {name}" for name, share in explained))
    return found


def design_table(record: Record) -> Table:
    """Write the users and days as a table for the terminal.

    Args:
        record: from `build_design`.
    """
    names, columns = _columns(record)
    shown = [Column(c.head.replace(", ", ",\n").replace("design ", "design\n"), c.texts) for c in columns]
    return terminal_table(_title(record), "step", names, shown)


def design_markdown(record: Record) -> str:
    """Write the design as Markdown.

    Args:
        record: from `build_design`.
    """
    names, columns = _columns(record)
    notes = "".join(f"- {plain(note)}\n" for note in design_notes(record))
    return f"{plain(_title(record))}.\n\n{markdown_table('step', names, columns)}\n{notes}"


def write_design(record: Record, out: Path) -> None:
    """Write `design.json` and `design.md`.

    Args:
        record: from `build_design`.
        out: the folder; it is made.

    Raises:
        ArtifactError: the folder cannot be made or a file cannot be written.
    """
    make_folder(out)
    write_json(out / "design.json", record)
    write_bytes(out / "design.md", design_markdown(record).encode())
