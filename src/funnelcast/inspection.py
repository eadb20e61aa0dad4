"""Run + split -> what its gates do: gates.json and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnelcast.batch import Batch
from funnelcast.curves import equal_mass_bins
from funnelcast.data.encode import Encoders
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.drift import bin_counts, psi, psi_by_chance, psi_words
from funnelcast.errors import ConfigError, choices
from funnelcast.evaluate import check_fits, pick_device
from funnelcast.files import read_json, sha256, write_json
from funnelcast.gates import GateLayer, describe_gates, describe_segments, gate_rows, open_above
from funnelcast.layers import FunnelModel
from funnelcast.probe import gates_of, last_reached, spread_rows, towers_read
from funnelcast.projection import FEWEST_ROWS, principal_components, tsne
from funnelcast.registry import MODELS
from funnelcast.report.gate_panels import gate_panels
from funnelcast.report.svg_files import write_figures
from funnelcast.run import Run

__all__ = ["GROUPS", "MOST_MAP_ROWS", "gate_drift", "gate_map", "inspect_gates", "segments"]

Array = NDArray[Any]
MOST_MAP_ROWS = 2000  # t-SNE of more takes minutes
GROUPS = ("low", "middle", "high")  # rows by their selection rate
_NAMES = {1: ("middle",), 2: ("low", "high"), 3: GROUPS}  # where many rates are equal, thirds fall together
_MOST_SEGMENTS = 20
_DIGITS = 5  # of positions on a map


def inspect_gates(
    run: Run,
    data: PreparedData,
    split: Split = Split.TEST,
    *,
    rows: int = 20_000,
    by: str | None = None,
    against: tuple[PreparedData, Split] | None = None,
    map_rows: int = MOST_MAP_ROWS,
    out: Path | None = None,
) -> dict[str, Any]:
    """Look at the gates that a split's rows open in a run's best weights; write `gates.json` and figures.

    Args:
        run: a complete run of a model with gates.
        data: a prepared folder with the run's schema and encoders.
        split: the part to look at.
        rows: rows of the split, at even distances, >= 1.
        by: a field with one value a row, whose most frequent values are segments; None for no segments.
        against: a reference, to which drift is measured; as many rows of it.
        map_rows: rows of the map, drawn from those, 0 for no map, up to 2,000.
        out: folder of the figures; None for `figures` in the run.

    Returns:
        The record that was written.

    Raises:
        ConfigError: the model has no gates, the field is not one of single values, a number is out of range, or a
            folder has another schema or other encoders than the run.
        DataError: the split is empty, or a gate is not finite.
        ArtifactError: the run is not complete, a file is damaged, or the figures cannot be written.

    Source: APEM paper, section 4.4, figures 5 and 7.
    """
    for folder in (data, *([against[0]] if against else [])):
        _check_same(run, folder)
    if not 0 <= map_rows <= MOST_MAP_ROWS:
        raise ConfigError(f"the rows of the map should be a number from 0 to {MOST_MAP_ROWS:,}, received {map_rows}")
    segment_of = None if by is None else _field_column(run, by)
    model = run.load_model().to(pick_device(run.experiment.train.device))
    batch = spread_rows(data, split, rows)
    layers = gates_of(model, batch.ids)
    if not layers:
        raise ConfigError(_no_gates(run))
    record: dict[str, Any] = {
        "format": 1,
        "experiment": run.experiment.name,
        "model": run.experiment.model.name,
        "split": split.value,
        "rows": len(batch),
        "by": by,
        "gamma": model.curve_point().get("gamma"),
        "layers": [describe_gates(layer.name, layer.values.numpy(), layer.kind) for layer in layers],
        "map": gate_map(model, batch, layers, map_rows) if map_rows else None,
    }
    if by is not None and segment_of is not None:
        for described, found in zip(record["layers"], _segment(run, batch, by, segment_of, layers), strict=True):
            described["segments"] = found
    if against:
        reference = spread_rows(*against, rows)
        drift = [gate_drift(*pair) for pair in zip(gates_of(model, reference.ids), layers, strict=True)]
        source = {"folder": str(against[0].folder), "split": against[1].value, "rows": len(reference)}
        record["drift"] = {"against": source, "layers": drift}
    record["gamma_curve"] = _gamma_curve(run, model)  # sets gamma back, so it comes last
    _write(run, record, out or run.folder / "figures")
    return record


def _check_same(run: Run, data: PreparedData) -> None:
    """Refuse a folder whose ids mean something else: other encoders may have as many ids."""
    check_fits(run, data)
    if sha256(data.folder / "encoders.json") != sha256(run.folder / "encoders.json"):
        raise ConfigError(f"{data.folder}: its encoders, fitted on its TRAIN, should be those of the run {run.folder}")


def _segment(run: Run, batch: Batch, by: str, column: int, layers: Sequence[GateLayer]) -> list[list[dict[str, Any]]]:
    """Describe the segments of each layer."""
    number, names = segments(Encoders.load(run.folder / "encoders.json"), by, batch.ids[:, column].numpy())
    return [describe_segments(layer.values.numpy(), layer.kind, number, names) for layer in layers]


def _no_gates(run: Run) -> str:
    """Say that a model has no gates, and which can have some."""
    able = {MODELS.family(n) for n in MODELS.names() if MODELS.get(n).gate_layers is not FunnelModel.gate_layers}
    options = ", ".join(f"{key} = {value!r}" for key, value in run.experiment.model.options.items())
    received = f"'{run.experiment.model.name}'" + (f" with {options}" if options else "")
    return f"{run.folder}: its model should have gates, received {received}; models that can have them: " + ", ".join(
        sorted(able)
    )


def _field_column(run: Run, by: str) -> int:
    """Find the column of a field with one value a row."""
    single = {f.name: c for f, c in zip(run.schema.fields, run.schema.columns, strict=False) if f.max_length == 1}
    if by not in single:
        raise ConfigError(f"--by should be a field with one value a row, received '{by}'; {choices(single, by)}")
    return single[by]


def segments(encoders: Encoders, field: str, ids: Array) -> tuple[Array, list[str]]:
    """Number rows by the value of a field; what is not among the 20 most frequent values is put together.

    Args:
        encoders: of the prepared data.
        field: the field's name.
        ids: [N] its ids.

    Returns:
        [N] numbers of segments, and the segments' names, the most frequent first.
    """
    values, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_SEGMENTS]
    number = np.full(len(values), len(order))
    number[order] = np.arange(len(order))
    return number[place], [*map(encoders.value_names(field), values[order].tolist()), "(others)"]


def gate_map(model: FunnelModel, batch: Batch, layers: Sequence[GateLayer], rows: int, seed: int = 0) -> dict[str, Any]:
    """Place rows by what the towers read of them, and say which third they belong to by their selection rate.

    Args:
        model: on its device, in evaluation mode.
        batch: N rows.
        layers: their gates.
        rows: rows of the map, drawn from the batch.
        seed: of the draw and of t-SNE.

    Returns:
        `pca` and `tsne` [rows, 2] (the latter None for fewer than 10 rows), `variance`, the shares that the two
        components hold, `group` (`low`, `middle`, `high`; equal rates share a group), `reached`, the last step known to
        have happened, and of each group `rows` and the mean `rate` over all layers.
    """
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(len(batch), min(rows, len(batch)), replace=False))
    counts = np.sum([gate_rows(layer.values.numpy()[chosen], layer.kind)[0] for layer in layers], axis=0)
    rate = counts / sum(layer.values.shape[1] for layer in layers)
    third = equal_mass_bins(rate, bins=3)
    names = _NAMES[int(third.max()) + 1]
    read = towers_read(model, batch.ids[chosen])
    pca, variance = principal_components(read)
    near = None if len(chosen) < FEWEST_ROWS else tsne(read, pca, seed).round(_DIGITS).tolist()
    return {
        "rows": len(chosen),
        "variance": variance,
        "pca": pca.round(_DIGITS).tolist(),
        "tsne": near,
        "group": [names[number] for number in third],
        "reached": last_reached(batch)[chosen].tolist(),
        "groups": [
            {"group": name, "rows": int((third == number).sum()), "rate": float(rate[third == number].mean())}
            for number, name in enumerate(names)
        ],
    }


def gate_drift(reference: GateLayer, current: GateLayer) -> dict[str, Any]:
    """Measure how far a layer's selection rates and the open rate of each of its gates have moved.

    Args:
        reference: gates of the reference's rows.
        current: gates of the other rows.

    Returns:
        `rate`, the PSI of the selection rate in up to ten bins of equal mass of the reference, `rate_by_chance`, what
        it would be without drift, its `bins`, `words`, and `slots`, the PSI of open and closed of each gate.
    """
    pair = [layer.values.numpy() for layer in (reference, current)]
    open_gates = [gate_rows(values, current.kind)[0] for values in pair]
    rates = bin_counts(open_gates[0], open_gates[1])
    threshold = open_above(current.kind, pair[0].shape[1])
    opened = [(values > threshold).sum(axis=0) for values in pair]
    tables = [np.stack([count, len(values) - count], axis=1) for count, values in zip(opened, pair, strict=True)]
    value = psi(*rates)
    return {
        "name": current.name,
        "rate": value,
        "rate_by_chance": psi_by_chance(len(rates[0]), len(pair[0]), len(pair[1])),
        "bins": len(rates[0]),
        "words": psi_words(value),
        "slots": [psi(*rows) for rows in zip(*tables, strict=True)],
    }


def _gamma_curve(run: Run, model: FunnelModel) -> list[dict[str, float]]:
    """Return gamma at the start of training and where the run wrote it down; nothing for a run without such notes."""
    loss = read_json(run.folder / "history.json", "the history of a run", "loss")["loss"]
    noted = [(point["step"], point.get("model", {}).get("gamma")) for point in loss]
    curve = [{"step": step, "gamma": gamma} for step, gamma in noted if gamma is not None]
    if not curve:
        return []
    model.train()
    model.set_progress(0.0)
    return [{"step": 0, "gamma": model.curve_point()["gamma"]}, *curve]


def _write(run: Run, record: Mapping[str, Any], folder: Path) -> None:
    """Write the figures, then the record: where it is, the figures are of the same rows."""
    write_figures(gate_panels(record, "gates"), folder)
    write_json(run.folder / "gates.json", record)
