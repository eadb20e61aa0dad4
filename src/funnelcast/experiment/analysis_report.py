"""An analysed experiment as one self-contained HTML page, drawn by the renderer of the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from funnelcast.experiment.left_out import left_out
from funnelcast.experiment.verdict import decision_text, gain, p_text, split_text
from funnelcast.report.daily_figure import daily_figure
from funnelcast.report.elements import Entry, Group, Panel, Section, Table, isolate, percent
from funnelcast.report.figures import Line, line_style
from funnelcast.report.render import render_page

__all__ = ["analysis_html", "analysis_sections", "watch_sections"]

Record = Mapping[str, Any]
_VIEW = 4.0  # first looks know little: their intervals are cut at this multiple of the last one
_MARGIN = 0.04
FOOTER = (
    "Always-valid: the intervals of all looks together hold the truth at their level, so that the test may be stopped "
    "at any time. Holm: the p-values of all steps and variants are corrected together. Rates and lifts are clustered "
    "by user. Daily rates are of the exposures of that day and are not corrected for the number of days."
)


def analysis_html(record: Record) -> str:
    """Write the page.

    Args:
        record: from `analyse`.
    """
    days = record["days"]
    title = isolate(record["experiment"] or "A/B test")
    meta = (
        f"{sum(record['assignment']['users']):,} users, {days[0]['date']} to {days[-1]['date']}; "
        f"{(1 - record['alpha']) * 100:.4g} % intervals, events per {record['per']}."
    )
    return render_page(title, meta, analysis_sections(record), FOOTER)


def analysis_sections(record: Record) -> list[Section]:
    """Make the sections of the page.

    Args:
        record: from `analyse`.
    """
    words = tuple((sentence["about"], _unbroken(sentence["text"])) for sentence in record["verdict"]["sentences"])
    found = [Section("verdict", "Verdict", "Verdict", words=words), _split_section(record)]
    found += [_step_section(record, number) for number in range(len(record["steps"]))]
    if record["service"]:
        found.append(_service_section(record))
    return [*found, _rows_section(record)]


def watch_sections(record: Record) -> list[Section]:
    """Make the sections of an experiment without outcomes.

    Args:
        record: from `watch`.
    """
    note = "No outcomes are read, so nothing is said of rates."
    words = (("split", _unbroken(split_text(record))), ("mind", note))
    found = [Section("verdict", "So far", "So far", words=words), _split_section(record)]
    if record["service"]:
        found.append(_service_section(record))
    return [*found, _rows_section(record)]


def _unbroken(text: str) -> str:
    """Keep a number with its sign and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%)|(?<=\bp) (?=[<=] )|(?<=[<=]) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _legend(names: Sequence[str], first: int = 0) -> tuple[Entry, ...]:
    return tuple(Entry(name, *line_style(number)) for number, name in enumerate(names, start=first))


def _split_section(record: Record) -> Section:
    """Show how users came to their variants; it stands before every rate."""
    panels = (
        _count_panel(
            record, "newcomers", "New users a day", "users", "Variants of the same share should run together."
        ),
        _count_panel(record, "exposures", "Exposures a day", "exposures", "Users who come back are counted each time."),
    )
    assignment = record["assignment"]
    total = sum(assignment["users"])
    rows = []
    for entry in record["variants"]:
        shares = percent(entry["share"]), percent(entry["users"] / total)
        visits = entry["exposures_per_user"]["value"]
        numbers = [f"{entry['users']:,}", f"{entry['exposures']:,}", "-" if visits is None else f"{visits:.4g}"]
        rows.append([entry["variant"], *shares, *numbers])
    table = Table.of_text(
        ["variant", "planned share", "share", "users", "exposures", "exposures a user"],
        rows,
        (_unbroken(f"Chi-squared test of the planned shares: {p_text(assignment['p_value'])}; an alarm below 0.001."),),
    )
    return Section("split", "Split of the users", "Split", groups=(Group("", "", panels[0].legend, panels, (table,)),))


def _count_panel(record: Record, key: str, title: str, label: str, note: str) -> Panel:
    """Show what was counted each day; after the last exposure there are outcomes alone."""
    names = [entry["variant"] for entry in record["variants"]]
    days = record["days"][: 1 + max(i for i, day in enumerate(record["days"]) if any(day["exposures"].values()))]
    counts = [[day[key][name] for name in names] for day in days]
    lines = [Line(i, range(1, len(days) + 1), [row[i] for row in counts]) for i in range(len(names))]
    return Panel(
        key,
        title,
        daily_figure(key, lines, [[] for _ in lines], label, (0, 1.1 * max(1, *map(max, counts)))),
        f"{title}, for {len(names)} variants over {len(days)} days.",
        note,
        Table.of_text(
            ["day", *names],
            [[day["date"], *(f"{n:,}" for n in row)] for day, row in zip(days, counts, strict=True)],
        ),
        _legend(names),
    )


def _step_section(record: Record, number: int) -> Section:
    """Show the daily rates of a step and what is known of its lifts day by day."""
    step = record["steps"][number]
    panels = (_rate_panel(record, number), _sequence_panel(record, number))
    tables = [_lift_table(record, step["rates"], step["lifts"], ())]
    if step["transition"] is not None:
        former = isolate(record["steps"][number - 1]["name"])
        note = f"A step for each {former}: a description, since who gets as far as {former} depends on the variant."
        tables.append(_lift_table(record, step["transition"]["rates"], step["transition"]["lifts"], (note,)))
    title = isolate(step["name"])
    return Section(f"step-{number + 1}", title, title, groups=(Group("", "", panels[0].legend, panels, tuple(tables)),))


def _rate_panel(record: Record, number: int) -> Panel:
    step = record["steps"][number]
    names = [entry["variant"] for entry in record["variants"]]
    lines, bands = [], []
    for series, name in enumerate(names):
        rates = [(day, one["rates"][name]) for day, one in enumerate(step["daily"], start=1)]
        known = [(day, rate) for day, rate in rates if rate["value"] is not None]
        lines.append(Line(series, [day for day, _ in known], [rate["value"] for _, rate in known]))
        bands.append([tuple(rate["interval"] or (rate["value"],) * 2) for _, rate in known])
    rows = [[day["date"], *(_rate_text(day["rates"][name]) for name in names)] for day in step["daily"]]
    return Panel(
        f"rate-{number + 1}",
        f"{isolate(step['name'])}: rate by day",
        daily_figure(f"rate-{number + 1}", lines, bands, "rate"),
        f"Rate of {isolate(step['name'])} per {record['per']} on {len(step['daily'])} days for {len(names)} variants.",
        "Bands are intervals of the single day. The last days lack outcomes that are still to come.",
        Table.of_text(["day", *names], rows),
        _legend(names),
    )


def _sequence_panel(record: Record, number: int) -> Panel:
    step = record["steps"][number]
    names = [lift["variant"] for lift in step["lifts"]]
    lines, bands = [], []
    for series, name in enumerate(names, start=1):
        looks = [(day, look["lifts"][name]) for day, look in enumerate(step["looks"], start=1)]
        known = [(day, look) for day, look in looks if look["interval"] is not None]
        lines.append(Line(series, [day for day, _ in known], [look["value"] for _, look in known]))
        bands.append([tuple(look["interval"]) for _, look in known])
    rows = [[look["date"], *(_look_text(look["lifts"][name]) for name in names)] for look in step["looks"]]
    drawn = any(bands)
    figure = daily_figure(f"sequence-{number + 1}", lines, bands, "lift", _limits(bands)) if drawn else ""
    return Panel(
        f"sequence-{number + 1}",
        f"{isolate(step['name'])}: lift over {isolate(record['base'])}, up to each day",
        figure,
        f"Lift at {isolate(step['name'])} with its always-valid interval after each of {len(rows)} days.",
        "The band of all days together holds the true lift; where it leaves 0 behind, a difference is shown.",
        Table.of_text(["day", *names], rows),
        _legend(names, 1),
    )


def _limits(bands: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """Cut the first intervals, which are so wide that nothing else could be seen, and keep 0 in view."""
    last = max(abs(bound) for band in bands if band for bound in band[-1])
    bounds = [0.0, *(bound for band in bands for pair in band for bound in pair)]
    low, high = max(min(bounds), -_VIEW * last), min(max(bounds), _VIEW * last)
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _rate_text(rate: Record) -> str:
    if rate["interval"] is None:
        return "undefined" if rate["value"] is None else percent(rate["value"])
    return f"{percent(rate['value'])} ±{percent((rate['interval'][1] - rate['interval'][0]) / 2, 2)}"


def _look_text(look: Record) -> str:
    if look["interval"] is None:
        return gain(look["value"])
    return f"{gain(look['value'])} [{look['interval'][0] * 100:+.2f}, {look['interval'][1] * 100:+.2f}]"


def _lift_table(record: Record, rates: Record, lifts: Sequence[Record], notes: tuple[str, ...]) -> Table:
    """One row a variant."""
    base = record["base"]
    heads = ["variant", "rate"]
    tested = any("sequence" in lift for lift in lifts)
    if tested:
        heads += ["lift, always-valid", "p after Holm", "decision"]
    heads.append("lift, one look")
    adjusted = any("without_covariate" in lift for lift in lifts)
    if adjusted:
        heads.append("one look, no covariate")
    rows = [[base, _rate_text(rates[base]), *["-"] * (len(heads) - 2)]]
    for lift in lifts:
        row = [lift["variant"], _rate_text(rates[lift["variant"]])]
        if tested:
            found = lift["sequence"]
            row += [_look_text(found), p_text(found["holm_p"])[2:].removeprefix("= "), decision_text(found)]
        row.append(_look_text(lift["fixed"]))
        if adjusted:
            row.append(_look_text(lift["without_covariate"]))
        rows.append(row)
    return Table.of_text(heads, rows, notes)


def _service_section(record: Record) -> Section:
    """Show latency and errors by variant."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    rows = []
    for entry in record["service"]:
        latency = [number(entry[f"latency_ms_p{share}"]) for share in (50, 95, 99)]
        errors = "-" if entry["error_share"] is None else percent(entry["error_share"])
        rows.append([entry["variant"], f"{entry['exposures']:,}", *latency, errors])
    heads = ["variant", "exposures", "latency ms, median", "95 %", "99 %", "errors"]
    return Section("service", "Latency and errors", "Service", groups=(Group(tables=(Table.of_text(heads, rows),)),))


def _rows_section(record: Record) -> Section:
    """Show what was read, left out and kept."""
    rows = [[f"{log} {words}", f"{number:,}"] for log, words, number in left_out(record)]
    table = Table.of_text(["rows of the logs", "number"], rows)
    return Section("rows", "What was counted", "Rows", groups=(Group(tables=(table,)),))
