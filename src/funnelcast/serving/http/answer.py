"""From raw rows to the answer of `POST /v1/score`."""

from __future__ import annotations

from typing import Any

import msgspec

from funnelcast.data.ids import Ids
from funnelcast.errors import DataError
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import Laid, RawRows
from funnelcast.serving.http.variants import Variant
from funnelcast.serving.scorer import Scored

__all__ = ["answer", "encode_json", "encode_rows", "score_rows"]

encode_json = msgspec.json.Encoder().encode


def encode_rows(variant: Variant, rows: RawRows) -> Ids:
    """Encode the rows of a request as ids [B, W], few of them without Arrow.

    Args:
        variant: whose encoders they pass through.
        rows: its raw columns.

    Raises:
        RefusalError: the encoders do not take a column after all, such as text that is no number.
    """
    few = variant.bundle.encoders.few
    if few is not None and rows.cells is not None:
        return few.ids(rows.cells)
    try:
        return variant.bundle.encode(rows.table)
    except DataError as error:
        column = next((name for name in variant.columns if f"'{name}'" in str(error)), None)
        raise RefusalError(400, "wrong_type", str(error), column=column) from error


def score_rows(variant: Variant, rows: RawRows) -> Scored:
    """Score the rows of a request.

    Args:
        variant: what scores.
        rows: its raw columns.

    Raises:
        RefusalError: as `encode_rows`.
    """
    return variant.bundle.score_ids(encode_rows(variant, rows))


def answer(variant: Variant, laid: Laid, scored: Scored, request_id: str) -> dict[str, Any]:
    """Say every step's probabilities, and what they come from.

    Args:
        variant: what scored.
        laid: the request.
        scored: of its rows.
        request_id: of the request.

    Returns:
        JSON data: `reach` and `transition` map each step to a list with a number a row.
    """
    schema = variant.bundle.schema
    said: dict[str, Any] = {
        "request_id": request_id,
        "variant": variant.name,
        "model_version": variant.version,
        "calibrated": variant.bundle.manifest.calibrated,
        "rows": len(scored.reach),
        "steps": schema.step_names,
        "reach": dict(zip(schema.step_names, scored.reach.T.tolist(), strict=True)),
        "transition": dict(zip(schema.step_names, scored.transition.T.tolist(), strict=True)),
    }
    if scored.value is not None:
        said["value"] = scored.value.tolist()
    if laid.missing:
        said["missing_columns"] = laid.missing
    if laid.unknown:
        said["unknown_columns"] = laid.unknown
    return said
