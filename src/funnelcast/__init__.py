"""Forecasts the probability of every step of a conversion funnel."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnelcast.auc_histogram import AucHistogram
    from funnelcast.batch import Batch
    from funnelcast.config import Experiment, TrainConfig
    from funnelcast.data.description import Description, Feature, StepColumn
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split
    from funnelcast.errors import FunnelcastError
    from funnelcast.estimator import Funnel
    from funnelcast.prediction import Prediction
    from funnelcast.run import Run
    from funnelcast.schema import Field, Schema, Step

__version__ = "0.1.0"

__all__ = [
    "AucHistogram",
    "Batch",
    "Description",
    "Experiment",
    "Feature",
    "Field",
    "Funnel",
    "FunnelcastError",
    "Prediction",
    "PreparedData",
    "Run",
    "Schema",
    "Split",
    "Step",
    "StepColumn",
    "TrainConfig",
    "__version__",
]

_HOMES = {
    "AucHistogram": "auc_histogram",
    "Batch": "batch",
    "Description": "data.description",
    "Experiment": "config",
    "Feature": "data.description",
    "Field": "schema",
    "Funnel": "estimator",
    "FunnelcastError": "errors",
    "Prediction": "prediction",
    "PreparedData": "data.shards",
    "Run": "run",
    "Schema": "schema",
    "Split": "data.split",
    "Step": "schema",
    "StepColumn": "data.description",
    "TrainConfig": "config",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import funnelcast` loads neither torch nor DuckDB."""
    if name not in _HOMES:
        raise AttributeError(f"module 'funnelcast' has no attribute '{name}'")
    return getattr(importlib.import_module(f"funnelcast.{_HOMES[name]}"), name)
