"""Calibration of a step: reliability and errors within fields before and after, and what the fit has changed."""

from __future__ import annotations

from funnelcast.report.charts import Dots, dot_chart
from funnelcast.report.elements import Group, Panel, Record, Table, isolate, number, percent
from funnelcast.report.figures import Line, reliability_figure
from funnelcast.report.source import Run, Source

__all__ = ["calibration_group"]

_SPACES = {"reach": "entire space", "transition": "local space"}
_METRICS = {"ece": ("ECE", 6), "pcoc": ("PCOC", 3), "logloss": ("log-loss", 6), "ne": ("normalised entropy", 4)}
_FIELD_ERRORS = {"field_ece": 6, "field_rce": 4}  # digits


def _of_step(run: Run, step: int) -> Record:
    found: Record = run.extras["calibration"]["steps"][step]
    return found


def calibration_group(source: Source, step: int) -> Group | None:
    """Show what calibration has done to a step, or return None where no run was calibrated.

    Args:
        source: what the page is about.
        step: number of the step.
    """
    runs = source.with_extra("calibration")
    if not runs:
        return None
    leader = runs[0]
    fit = leader.extras["calibration"]
    spaces = [space for space in _SPACES if space == "reach" or step > 0]
    panels = [_panel(leader, step, space) for space in spaces]
    panels += [_field_panel(runs, step, space) for space in spaces]
    return Group(
        "Calibration: before and after",
        f"Figures show {isolate(leader.experiment)}, calibrated by {fit['method']}, fitted on "
        f"{fit['fitted_on']['split'].upper()}.",
        panels=tuple(panel for panel in panels if panel is not None),
        tables=tuple(_table(runs, step, space) for space in spaces),
    )


def _panel(run: Run, step: int, space: str) -> Panel | None:
    found, lines, rows = _of_step(run, step), [], []
    for when, series in (("before", None), ("after", 0)):
        bins = found[when].get(space, {}).get("reliability") or []
        if bins:
            xs, ys = [b["predicted"] for b in bins], [b["observed"] for b in bins]
            lines.append(Line(series, xs, ys, dashed=when == "before"))
        rows += [[when, percent(b["predicted"]), percent(b["observed"]), f"{b['rows']:,}"] for b in bins]
    if not lines:
        return None
    name = f"step-{step + 1}-{space}-calibration"
    return Panel(
        name,
        f"Reliability, {_SPACES[space]}",
        reliability_figure(name, lines, [[] for _ in lines]),
        f"Observed rate over mean prediction before and after calibration, {_SPACES[space]}; "
        "calibrated predictions lie on the diagonal.",
        "Dashed grey: before; solid: after.",
        Table.of_text(["when", "mean prediction", "observed rate", "rows"], rows),
    )


def _field_errors(run: Run, step: int, space: str) -> list[tuple[str, Record, Record]]:
    """List the fields with their errors before and after; empty where the calibration was fitted without fields."""
    fields = run.extras["calibration"].get("fields", ())
    steps = [(field["name"], field["steps"][step]) for field in fields]
    return [(name, found["before"][space], found["after"][space]) for name, found in steps]


def _field_panel(runs: list[Run], step: int, space: str) -> Panel | None:
    """Draw Field-ECE of the first run that has it, field by field; the table has all runs."""
    known = [(run, errors) for run in runs if (errors := _field_errors(run, step, space))]
    if not known:
        return None
    drawn, errors = known[0]
    rows, values = [], []
    for name, *parts in errors:
        pair = [part["field_ece"] for part in parts]
        dots = tuple((v, c) for v, c in zip(pair, ("var(--soft)", "var(--s0)"), strict=True) if v is not None)
        values += [value for value, _ in dots]
        rows.append(Dots(name, dots, number(pair[1], 5)))
    high = max(values, default=0.0)
    return Panel(
        f"step-{step + 1}-{space}-fields",
        f"Field-ECE, {_SPACES[space]}",
        dot_chart(rows, 0.0, high, ("0", f"{high:.5f}")) if values else "",
        f"Calibration error within the values of {len(rows)} fields before and after calibration, {_SPACES[space]}, "
        f"from 0 to {high:.5f}.",
        f"{isolate(drawn.experiment)}. Grey: before; blue and at the right: after. Field-RCE is over the covered rows, "
        "whose values have positives.",
        _field_table(known),
    )


def _field_table(known: list[tuple[Run, list[tuple[str, Record, Record]]]]) -> Table:
    heads = [f"{words} {when}" for words in ("Field-ECE", "Field-RCE") for when in ("before", "after")]
    rows = []
    for run, errors in known:
        for name, *parts in errors:
            cells = [number(part[key], digits) for key, digits in _FIELD_ERRORS.items() for part in parts]
            covered = parts[1]["field_rce_covered"]
            rows.append([run.experiment, name, *cells, "undefined" if covered is None else percent(covered)])
    return Table.of_text(["experiment", "field", *heads, "rows covered"], rows)


def _table(runs: list[Run], step: int, space: str) -> Table:
    heads = [f"{head} {when}" for head, _ in _METRICS.values() for when in ("before", "after")]
    rows = []
    for run in runs:
        parts = [_of_step(run, step)[when].get(space, {}) for when in ("before", "after")]
        cells = [number(part.get(metric), digits) for metric, (_, digits) in _METRICS.items() for part in parts]
        rows.append([run.experiment, *cells])
    title = "Reach, entire space." if space == "reach" else "Transition, local space."
    return Table.of_text(["experiment", *heads], rows, (title,))
