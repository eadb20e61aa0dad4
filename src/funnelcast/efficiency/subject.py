"""One model under measurement: it trains and scores real batches of TRAIN, and says how long that took."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.optim.swa_utils import AveragedModel

from funnelcast.batch import Batch
from funnelcast.config import Experiment
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.efficiency.memory import peak_bytes, resident_bytes
from funnelcast.evaluate import SCORING_ROWS, pick_device
from funnelcast.layers import FunnelModel
from funnelcast.metrics import Undefined
from funnelcast.objective import Loss
from funnelcast.optimizers import Optimizers, build_optimizers
from funnelcast.run import build_model
from funnelcast.train import average_weights, build_losses, train_step

__all__ = ["Facts", "Subject"]

# The optimizer's state is there after the first step, so that the second one shows the most.
MEMORY_STEPS = 3


@dataclass(frozen=True)
class Facts:
    """What a model is.

    Args:
        parameters: number of weights that are trained.
        bytes: of all weights, as `weights.safetensors` holds them.
        device: `cpu` or `cuda`.
        train_rows: rows of TRAIN.
        turn_rows: rows that a turn trains on and scores.
    """

    parameters: int
    bytes: int
    device: str
    train_rows: int
    turn_rows: int


class Subject:
    """A model with its batches.

    Args:
        experiment: the model, its losses and how it is trained.
        folder: the prepared folder.
        steps: training steps of a turn, >= 1.
    """

    def __init__(self, experiment: Experiment, folder: Path, steps: int) -> None:
        self._experiment, self._data = experiment, PreparedData(folder, verify=False)
        self._device = pick_device(experiment.train.device)
        # Streamed, so that a process holds the batches of a turn and not the whole of TRAIN.
        loader = Loader(self._data, Split.TRAIN, experiment.train.batch_size, memory_bytes=0)
        epochs: Iterator[Batch] = chain.from_iterable(loader.epoch(0, number) for number in count())
        self._batches = [batch.to(self._device) for batch in islice(epochs, steps)]
        del epochs
        gc.collect()
        pa.default_memory_pool().release_unused()

    def build(self) -> Facts:
        """Build the model, its losses and optimizers, as a training does."""
        torch.manual_seed(0)
        self._model: FunnelModel = build_model(self._experiment, self._data.schema)
        self._losses: list[Loss] = build_losses(self._experiment, self._data.schema, self._model)
        self._model.to(self._device)
        self._optimizers: Optimizers = build_optimizers(self._model, self._experiment)
        averaged = self._experiment.train.average_last > 0
        self._average = AveragedModel(self._model) if averaged else None
        return Facts(
            parameters=sum(parameter.numel() for parameter in self._model.parameters()),
            bytes=sum(tensor.numel() * tensor.element_size() for tensor in self._model.state_dict().values()),
            device=self._device.type,
            train_rows=self._data.rows(Split.TRAIN),
            turn_rows=sum(len(batch) for batch in self._batches),
        )

    def train(self, steps: int | None = None) -> None:
        """Train on the batches of a turn, which passes through the schedules as a whole training does.

        Args:
            steps: how many of the batches; None for all.
        """
        config, planned = self._experiment.train, len(self._batches)
        self._model.train()
        for step, batch in enumerate(self._batches[:steps]):
            self._model.set_progress(step / planned)
            train_step(self._model, self._losses, self._optimizers, batch, config)
            average_weights(self._average, self._model, self._optimizers, step, planned, config.average_last)

    def score(self, batches: int | None = None) -> None:
        """Score the rows of a turn, as many at once as `evaluate` does.

        Args:
            batches: how many scoring batches; None for all.
        """
        self._model.eval()
        ids = torch.cat([batch.ids for batch in self._batches])
        with torch.inference_mode():
            for part in ids.split(SCORING_ROWS)[:batches]:
                self._model(part)

    def timed(self, work: Callable[[], None], *, wall: bool) -> float:
        """Return the seconds that something takes, a GPU's work included.

        Args:
            work: `train` or `score`.
            wall: wall time; else CPU time of all threads.
        """
        clock = time.perf_counter if wall else time.process_time
        self._optimizers.flush()
        self._wait()
        started = clock()
        work()
        self._wait()
        return clock() - started

    def peaks(self) -> dict[str, Any]:
        """Build the model and return its facts and by how much scoring and training raise memory above that before.

        Both count the weights; training also gradients, the optimizer's state and what the backward pass needs.
        """
        before = self._memory()
        facts = self.build()
        score = self._peak(lambda: self.score(batches=2), before)
        train = self._peak(lambda: self.train(steps=MEMORY_STEPS), before)
        resident = resident_bytes()
        return {
            **asdict(facts),
            "process_bytes": None if isinstance(resident, Undefined) else resident,
            **_as_json("peak_bytes", train),
            **_as_json("score_peak_bytes", score),
        }

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _memory(self) -> int | Undefined:
        return torch.cuda.memory_allocated() if self._device.type == "cuda" else resident_bytes()

    def _peak(self, work: Callable[[], None], before: int | Undefined) -> int | Undefined:
        if self._device.type != "cuda" or isinstance(before, Undefined):
            return peak_bytes(work, before)
        torch.cuda.reset_peak_memory_stats()
        work()
        self._wait()
        return torch.cuda.max_memory_allocated() - before


def _as_json(name: str, value: int | Undefined) -> dict[str, int | str | None]:
    """Write what is undefined as null, with the reason beside it."""
    return {name: None, f"{name}_reason": value.reason} if isinstance(value, Undefined) else {name: value}
