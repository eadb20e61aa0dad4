"""The model card: what a bundle is, for whoever meets it without the run."""

from __future__ import annotations

from typing import Any

from funnelcast.files import read_json
from funnelcast.run import Run
from funnelcast.serving.contract import INPUT, output_shapes

__all__ = ["model_card"]


def model_card(run: Run, target: str, *, calibrated: bool) -> str:
    """Write the card as Markdown; the same run gives the same text.

    Args:
        run: a complete run.
        target: what it was exported to.
        calibrated: whether a calibration stands beside the model.
    """
    experiment, schema, data = run.experiment, run.schema, run.record["data"]
    options = "".join(f", {key} = {value!r}" for key, value in experiment.model.options.items())
    outputs = output_shapes(schema, calibrated=calibrated)
    fields = ", ".join(f"{field.name} ({field.size:,} ids)" for field in schema.fields)
    lines = [
        f"# {experiment.name}",
        f"Probabilities of the steps {', '.join(schema.step_names)} of the funnel `{schema.dataset}`, by the model "
        f"`{experiment.model.name}`{options}; seed {run.seed}.",
        "",
        "## Use",
        f"Read it with `funnelcast.serving.Bundle.load` (target `{target}`). Raw rows need the columns that "
        "`encoders.json` names; `golden.json` holds examples with their scores.",
        f"- input `{INPUT}`: int32 [rows, {schema.width}]",
        *(f"- output `{name}`: float32 [{', '.join(['rows', *map(str, shape)])}]" for name, shape in outputs.items()),
        "",
        _calibration_line(calibrated, experiment.train.negatives),
        "",
        "## Data",
        f"Trained on `{schema.dataset}`, manifest {data['manifest_sha256']}.",
        f"Fields: {fields}.",
        "",
        "| step | rate among all rows | rate given the former step |",
        "|---|---|---|",
        *(f"| {step.name} | {step.reach_rate:.4%} | {step.transition_rate:.4%} |" for step in schema.steps),
        "",
        "## Measured on TEST",
        *_scores(run, calibrated=calibrated),
        "",
        "## Limits",
        "It forecasts rows like those of its data: another audience, another time or another definition of a step "
        "needs a measurement of its own. Values that TRAIN has not shown share one id. A transition is learned from "
        "rows that reached the former step, and says least about rows unlike them.",
        "",
    ]
    return "\n".join(lines)


def _calibration_line(calibrated: bool, share: float) -> str:
    negatives = (
        "" if share == 1.0 else f"Trained on {share:.2%} of the negatives; its probabilities are those of all rows. "
    )
    if not calibrated:
        return f"{negatives}Its probabilities are not calibrated."
    return (
        f"{negatives}`calibration.json` turns the log-odds into the probabilities to be used; outputs named "
        "`raw_...` are those before it."
    )


def _scores(run: Run, *, calibrated: bool) -> list[str]:
    """Write AUC and PCOC of every step, where the run was evaluated."""
    if not run.evaluated:
        return ["Not evaluated."]
    report = read_json(run.folder / "report.json", "a report", "split", "steps")
    if report["split"] != "test":
        return [f"Evaluated on {report['split'].upper()} alone."]
    before = ["Of the model before its calibration, whose own measurement is the report of `calibrate`.", ""]
    rows = [*(before if calibrated else []), "| step | space | AUC | PCOC |", "|---|---|---|---|"]
    for step in report["steps"]:
        for space in ("reach", "transition"):
            cells = " | ".join(_cell(step[space].get(name)) for name in ("auc", "pcoc"))
            rows.append(f"| {step['name']} | {space} | {cells} |")
    return rows


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"
