"""The section of training: normalised entropy on VALID and the loss on TRAIN."""

from __future__ import annotations

from collections.abc import Sequence

from funnelcast.report.elements import Group, Panel, Section, Table, number
from funnelcast.report.figures import Line, loss_figure, ne_figure
from funnelcast.report.source import Run, Source

__all__ = ["training_section"]

_POINTS = 12  # of a run in a table
_SEEDS = 8  # runs of an experiment in a figure


def training_section(source: Source) -> Section | None:
    """Draw the normalised entropy on VALID for every step, and the loss on TRAIN, or return None without any curve.

    Args:
        source: what the page is about.
    """
    runs = [run for run in source.runs if run.history.get("epochs")]
    drawn = [run for run in runs if run.series is not None and run.report["seed"] in source.board["seeds"][:_SEEDS]]
    if not drawn:
        return None
    panels = [_entropy_panel(source, drawn, i, step) for i, step in enumerate(source.steps)]
    if any(run.history.get("loss") for run in drawn):
        panels.append(_loss_panel(source, drawn))
    note = "One line a run. A normalised entropy below 1 is better than predicting the base rate."
    table = _epochs(source.steps, runs)
    return Section(
        "training",
        "Training",
        "Training",
        note,
        groups=(
            Group(legend=source.legend, panels=tuple(panels)),
            Group("Epochs of every run", tables=(table,), folded=True),
        ),
    )


def _entropy_panel(source: Source, runs: Sequence[Run], step: int, name: str) -> Panel:
    lines, rows = [], []
    for run in runs:
        known = [(e["step"], e["valid_ne"][step]) for e in run.history["epochs"] if e["valid_ne"][step] is not None]
        lines.append(Line(run.series, [x for x, _ in known], [y for _, y in known]))
        kept = next((e for e in run.history["epochs"] if e["epoch"] == run.report["best_epoch"]), None)
        value = None if kept is None else kept["valid_ne"][step]
        rows.append([run.experiment, str(run.report["seed"]), str(run.report["best_epoch"]), number(value, 5)])
    figure = f"training-{step + 1}-ne"
    return Panel(
        figure,
        f"{name}: normalised entropy on VALID",
        ne_figure(figure, lines),
        f"Normalised entropy of {len(runs)} runs on VALID over training steps; lower is better.",
        "",
        Table.of_text(["experiment", "seed", "kept epoch", "normalised entropy there"], rows),
        source.legend,
    )


def _loss_panel(source: Source, runs: Sequence[Run]) -> Panel:
    lines, rows = [], []
    for run in runs:
        points = run.history.get("loss", [])
        lines.append(Line(run.series, [p["step"] for p in points], [p["loss"] for p in points]))
        seed, every = str(run.report["seed"]), max(1, -(-len(points) // _POINTS))
        rows += [
            [run.experiment, seed, f"{p['step']:,}", f"{p['rows']:,}", f"{p['loss']:.5g}"] for p in points[::every]
        ]
    return Panel(
        "training-loss",
        "Loss on TRAIN",
        loss_figure("training-loss", lines),
        f"Training loss of {len(runs)} runs over training steps.",
        "Each experiment has its own loss, so levels of different experiments do not compare. "
        f"The table holds at most {_POINTS} points a run.",
        Table.of_text(["experiment", "seed", "training step", "rows", "loss"], rows),
        source.legend,
    )


def _epochs(steps: Sequence[str], runs: Sequence[Run]) -> Table:
    """Tabulate the entropies of all steps over the epochs of all runs, thinned where there are many."""
    rows = []
    for run in runs:
        epochs, best = run.history["epochs"], run.report["best_epoch"]
        every = max(1, -(-len(epochs) // _POINTS))
        for epoch in (e for i, e in enumerate(epochs) if i % every == 0 or e["epoch"] == best):
            kept = "kept" if epoch["epoch"] == best else ""
            values = [number(value, 5) for value in epoch["valid_ne"]]
            place = [str(run.report["seed"]), str(epoch["epoch"]), f"{epoch['step']:,}"]
            rows.append([run.experiment, *place, *values, kept])
    heads = ["experiment", "seed", "epoch", "training step", *(f"{step}: normalised entropy" for step in steps)]
    return Table.of_text([*heads, "weights"], rows)
