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

from funnelcast.batch import Batch
from funnelcast.config import Experiment
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.efficiency.memory import peak_bytes, resident_bytes
from funnelcast.efficiency.training import LoopTraining, Training, Unit, WholeFit
from funnelcast.evaluate import SCORING_ROWS, pick_device
from funnelcast.layers import FunnelModel
from funnelcast.metrics import Undefined
from funnelcast.run import build_model
from funnelcast.self_fitting import SelfFitting

__all__ = ["Facts", "Subject"]

# The optimizer's state is there after the first step, so that the second one shows the most.
MEMORY_STEPS = 3


@dataclass(frozen=True)
class Facts:
    """What a model is.

    Args:
        unit: what a turn's training is a part of: `epoch`, or `fit` for one that is a whole fit.
        parameters: number of weights that are trained; of trees the leaves.
        bytes: of all weights, as `weights.safetensors` holds them; of trees those of their files.
        device: `cpu` or `cuda`.
        train_rows: rows of TRAIN.
        turn_rows: rows that a turn scores, and trains on unless it fits all of TRAIN.
    """

    unit: Unit

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
        _give_back()

    def build(self) -> None:
        """Build the model, its losses and optimizers, as a training does."""
        torch.manual_seed(0)
        model: FunnelModel = build_model(self._experiment, self._data.schema)
        self._model = model
        self._training: Training = (
            WholeFit(self._experiment, self._data, model)
            if isinstance(model, SelfFitting)
            else LoopTraining(self._experiment, self._data, model, self._batches, self._device)
        )

    def facts(self) -> Facts:
        """Say what the model is; trees must have been fitted before."""
        return Facts(
            unit=self._training.unit,
            parameters=sum(parameter.numel() for parameter in self._model.parameters()),
            bytes=self._training.weight_bytes(),
            device=self._device.type,
            train_rows=self._data.rows(Split.TRAIN),
            turn_rows=sum(len(batch) for batch in self._batches),
        )

    def train(self, steps: int | None = None) -> None:
        """Train on the batches of a turn, or fit a model that fits itself.

        Args:
            steps: how many of the batches; None for all.
        """
        self._training.work(steps)

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
        self._training.settle()
        self._wait()
        started = clock()
        work()
        self._wait()
        return clock() - started

    def peaks(self) -> dict[str, Any]:
        """Build the model and return its facts and by how much scoring and training raise memory above that before.

        Both count the weights; training also gradients, the optimizer's state and what the backward pass needs, a fit
        all of TRAIN. Trees are fitted before they score.
        """
        before = self._memory()
        self.build()
        whole = self._training.unit == "fit"
        first = self._peak(self.train, before) if whole else None
        if whole:
            _give_back()  # what the fit no longer needs is not counted as scoring's
        score = self._peak(lambda: self.score(batches=2), before)
        train = self._peak(lambda: self.train(steps=MEMORY_STEPS), before) if first is None else first
        resident = resident_bytes()
        if whole and not isinstance(before, Undefined) and not isinstance(train, Undefined):
            resident = before + train  # which the process that is timed keeps
        return {
            **asdict(self.facts()),
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


def _give_back() -> None:
    """Give memory that nobody holds any more back to the system."""
    gc.collect()
    pa.default_memory_pool().release_unused()


def _as_json(name: str, value: int | Undefined) -> dict[str, int | str | None]:
    """Write what is undefined as null, with the reason beside it."""
    return {name: None, f"{name}_reason": value.reason} if isinstance(value, Undefined) else {name: value}
