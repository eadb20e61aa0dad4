"""What gates do, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnelcast.drift import psi_words

__all__ = ["gate_findings"]

Record = Mapping[str, Any]


def gate_findings(record: Record) -> list[str]:
    """Say what a record of gates shows, in a few sentences.

    Args:
        record: `gates.json`.
    """
    found = [_schedule(record), _idle(record), _spread(record), *(_drift(layer) for layer in _moved(record))]
    return [sentence for sentence in found if sentence]


def _schedule(record: Record) -> str:
    """Say whether gates are decided, and where gamma stands."""
    layers = record["layers"]
    gates = sum(layer["gates"] for layer in layers)
    decided = sum((layer["exact_zero"] + layer["exact_one"]) * layer["gates"] for layer in layers) / gates
    share = f"{decided:.1%} of the gates are exactly 0 or 1"
    if record["gamma"] is None:
        return f"{share}."
    return f"At gamma {record['gamma']:.3g} of the kept weights, {share}."


def _idle(record: Record) -> str:
    """Count gates that do the same on every row."""
    parts = []
    for layer in record["layers"]:
        said = [
            f"{layer[key]} {word}" for key, word in (("dead", "dead"), ("always_open", "always open")) if layer[key]
        ]
        if said:
            same = layer["dead"] + layer["always_open"] == layer["gates"]
            tail = ", the same on every row" if same else ""
            parts.append(f"{layer['name']}: {' and '.join(said)} of {layer['gates']} gates{tail}")
    return "; ".join(parts) + "." if parts else "No gate is dead, and none is open on every row."


def _spread(record: Record) -> str:
    """Name the layer whose selection rate differs most between rows."""

    def width(layer: Record) -> float:
        return float(layer["quantiles"]["rate"]["0.95"] - layer["quantiles"]["rate"]["0.05"])

    widest = max(record["layers"], key=width)
    low, middle, high = (widest["quantiles"]["rate"][key] for key in ("0.05", "0.5", "0.95"))
    if high == low:
        return f"In every layer most rows open the same share of the gates, in {widest['name']} {middle:.0%}."
    return (
        f"Rows differ most in {widest['name']}: the middle one opens {middle:.0%} of its gates, "
        f"nine in ten open {low:.0%} to {high:.0%}."
    )


def _moved(record: Record) -> list[Record]:
    return list(record["drift"]["layers"]) if record.get("drift") else []


def _drift(layer: Record) -> str:
    """Say how far a layer's gates have moved."""
    slots = layer["slots"]
    moved = sum(psi_words(value) != "stable" for value in slots)
    return (
        f"{layer['name']}, drift of the selection rate: {layer['words']}, PSI {layer['rate']:.4f} "
        f"({layer['rate_by_chance']:.4f} by chance); {moved} of {len(slots)} gates have moved, "
        f"the farthest by {max(slots):.4f}."
    )
