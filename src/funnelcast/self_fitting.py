"""What a model offers that is fitted by a library of its own and not by the gradients of our loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from funnelcast.config import Experiment, TrainConfig
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError

__all__ = ["SelfFitting", "refuse_loop_options"]

# Scoring reads the device; memory is a limit that a command may set for all experiments at once.
_ALSO_OUTSIDE_THE_LOOP = {"device", "memory_gb"}


@runtime_checkable
class SelfFitting(Protocol):
    """A `FunnelModel` that fits, saves and loads itself; before its fit it predicts the rates of TRAIN."""

    def fit(self, data: PreparedData, *, seed: int, title: str) -> dict[str, Any]:
        """Fit on TRAIN, choose on VALID, and return the content of `history.json`."""

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write what was fitted into a run's folder and return the names of the files."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


def refuse_loop_options(experiment: Experiment) -> None:
    """Refuse losses and training options that only the loop knows.

    Args:
        experiment: of a model that fits itself.

    Raises:
        ConfigError: the experiment sets one; the message names the first.
    """
    plain = TrainConfig()
    changed = [f"train.{key}" for key, value in experiment.train if value != getattr(plain, key)]
    keys = [key for key in changed if key.removeprefix("train.") not in _ALSO_OUTSIDE_THE_LOOP]
    keys += ["optimizer"] if experiment.optimizer != type(experiment.optimizer)() else []
    keys += ["losses"] if experiment.losses else []
    if keys:
        raise ConfigError(
            f"experiment '{experiment.name}': key '{keys[0]}' should be left out: model '{experiment.model.name}' is "
            "fitted by its own library; its options stand in the table [model]"
        )
