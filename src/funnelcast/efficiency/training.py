"""What a turn of training is: steps of the loop on the turn's batches, or the whole fit of a model that fits itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch.optim.swa_utils import AveragedModel

from funnelcast.batch import Batch
from funnelcast.config import Experiment
from funnelcast.data.shards import PreparedData
from funnelcast.layers import FunnelModel
from funnelcast.objective import Loss
from funnelcast.optimizers import Optimizers, build_optimizers
from funnelcast.self_fitting import SelfFitting
from funnelcast.train import average_weights, build_losses, train_step

__all__ = ["LoopTraining", "Training", "Unit", "WholeFit"]

Unit = Literal["epoch", "fit"]


class Training(Protocol):
    """How a model trains in a turn."""

    unit: Unit  # what seconds of training are stated for

    def work(self, steps: int | None) -> None:
        """Train; on the first of the turn's batches where `steps` is a number and the training goes by batches."""

    def settle(self) -> None:
        """Do what the last turn left to do, which is no part of the next one."""

    def weight_bytes(self) -> int:
        """Count the bytes that the run's folder holds the weights in."""


class LoopTraining:
    """Steps of the training loop.

    Args:
        experiment: the losses and how it is trained.
        data: the prepared folder.
        model: what is trained.
        batches: those of a turn, on their device.
        device: where the model goes.
    """

    unit: Unit = "epoch"

    def __init__(
        self,
        experiment: Experiment,
        data: PreparedData,
        model: FunnelModel,
        batches: Sequence[Batch],
        device: torch.device,
    ) -> None:
        self._config, self._model, self._batches = experiment.train, model, batches
        self._losses: list[Loss] = build_losses(experiment, data.schema, model)
        model.to(device)
        self._optimizers: Optimizers = build_optimizers(model, experiment)
        self.average = AveragedModel(model) if experiment.train.average_last > 0 else None

    def work(self, steps: int | None) -> None:
        """Train on the batches of a turn, which passes through the schedules as a whole training does.

        Args:
            steps: how many of the batches; None for all.
        """
        config, planned = self._config, len(self._batches)
        self._model.train()
        for step, batch in enumerate(self._batches[:steps]):
            self._model.set_progress(step / planned)
            train_step(self._model, self._losses, self._optimizers, batch, config)
            average_weights(self.average, self._model, self._optimizers, step, planned, config.average_last)

    def settle(self) -> None:
        """Let deferred Adam move the rows that wait."""
        self._optimizers.flush()

    def weight_bytes(self) -> int:
        """Count the bytes of all tensors, as `weights.safetensors` holds them."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._model.state_dict().values())


class WholeFit:
    """The fit of a model that fits itself, from reading TRAIN and VALID on.

    Args:
        experiment: its name stands beside the progress bar.
        data: the prepared folder.
        model: what is fitted.
    """

    unit: Unit = "fit"

    def __init__(self, experiment: Experiment, data: PreparedData, model: SelfFitting) -> None:
        self._title, self._data, self._model = f"train {experiment.name}", data, model

    def work(self, steps: int | None) -> None:  # noqa: ARG002  it has no steps
        """Fit from the beginning.

        Args:
            steps: has no meaning here.
        """
        self._model.fit(self._data, seed=0, title=self._title)

    def settle(self) -> None:
        """Do nothing: a fit leaves nothing to do."""

    def weight_bytes(self) -> int:
        """Count the bytes of the files that were fitted."""
        with tempfile.TemporaryDirectory() as folder:
            return sum((Path(folder) / name).stat().st_size for name in self._model.save(Path(folder)))
