"""What an exported model takes and gives, by name; training and serving agree on it here."""

from __future__ import annotations

from funnelcast.schema import Schema, score_columns

__all__ = ["INPUT", "LOG_MEAN_VALUE", "LOG_ODDS", "log_odds_names", "output_shapes"]

INPUT = "ids"  # int32 [rows, W], the fields in the schema's order
LOG_ODDS = ("log_odds_reach", "log_odds_transition")
LOG_MEAN_VALUE = "log_mean_value"


def log_odds_names(schema: Schema) -> list[str]:
    """Name what a calibration reads: log-odds [rows, S] of reach and transition, and log E[v] of a value.

    Args:
        schema: the funnel.
    """
    return [*LOG_ODDS, *([LOG_MEAN_VALUE] if schema.value_step is not None else [])]


def output_shapes(schema: Schema, *, calibrated: bool) -> dict[str, tuple[int, ...]]:
    """Name all outputs of an exported model in order, with their dimensions after the rows.

    Beside a calibration, scores are called `raw_...`, so that nobody takes them for the calibrated ones.

    Args:
        schema: the funnel.
        calibrated: whether a calibration stands beside the model.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> step = Step(name="click", reach_rate=0.1, transition_rate=0.1)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=(step,))
        >>> output_shapes(schema, calibrated=False)
        {'reach_click': (), 'transition_click': ()}
        >>> output_shapes(schema, calibrated=True)["log_odds_reach"]
        (1,)
    """
    prefix = "raw_" if calibrated else ""
    shapes: dict[str, tuple[int, ...]] = {prefix + name: () for name in score_columns(schema)}
    more = log_odds_names(schema) if calibrated else []
    return shapes | {name: (schema.n_steps,) if name in LOG_ODDS else () for name in more}
