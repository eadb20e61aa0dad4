"""Run + VALID -> calibration, with what it does to TEST -> calibration.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from funnelcast.calibration import Method
from funnelcast.calibration_fit import fit_calibration
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.evaluate import (
    SCORING_ROWS,
    check_field_names,
    check_fits,
    measure_calibration,
    pick_device,
    score,
)
from funnelcast.files import sha256, write_json
from funnelcast.run import Run

__all__ = ["calibrate"]


def calibrate(run: Run, data: PreparedData, *, method: Method = "joint", fields: Sequence[str] = ()) -> dict[str, Any]:
    """Fit a calibration on VALID and write it into the run, with the calibration of TEST before and after.

    A run that has one predicts with it from then on. Fitting does not open TEST: `evaluate.measure_calibration` does,
    once the calibration stands.

    Args:
        run: a complete run.
        data: a prepared folder with the run's schema.
        method: a word of `calibration.METHODS`.
        fields: names of fields within whose values predicted and observed sums are compared.

    Returns:
        The record that was written.

    Raises:
        ConfigError: the folder was prepared with another schema, the steps form a graph, the method is unknown, or a
            field is unknown or has several values a row.
        ArtifactError: the run is not complete, or a file is damaged.
    """
    check_fits(run, data)
    check_field_names(run.schema, fields)
    if not run.schema.graph.is_chain:
        raise ConfigError(f"{run.folder}: steps should form a chain to be calibrated, received a graph")
    model = run.load_model().to(pick_device(run.experiment.train.device))
    scores = score(model, Loader(data, Split.VALID, SCORING_ROWS))
    fitted_on = {
        "split": Split.VALID.value,
        "rows": len(scores),
        "data_sha256": sha256(data.folder / "manifest.json"),
        "weights_sha256": run.weights_sha256(),
    }
    calibration = fit_calibration(scores, method, fitted_on)
    measured = measure_calibration(run, data, calibration, fields)
    record = calibration.to_json()
    record["steps"] = [step | found for step, found in zip(record["steps"], measured["steps"], strict=True)]
    record |= {"measured_on": {key: measured[key] for key in ("split", "rows")}, "fields": measured["fields"]}
    write_json(run.folder / "calibration.json", record)
    return record
