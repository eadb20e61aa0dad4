"""The training loop, one screen: batches, one step, VALID after each epoch, best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from funnelcast.batch import Batch
from funnelcast.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import DataError
from funnelcast.evaluate import SCORING_ROWS, pick_device, score
from funnelcast.files import write_json
from funnelcast.interrupt import Interrupt
from funnelcast.layers import FunnelModel
from funnelcast.objective import Loss, objective
from funnelcast.optimizers import Optimizers, build_optimizers
from funnelcast.prediction import Prediction
from funnelcast.progress import RowProgress
from funnelcast.registry import LOSSES
from funnelcast.run import Run, build_model, create_run
from funnelcast.schema import Schema
from funnelcast.scores import funnel_metrics
from funnelcast.self_fitting import SelfFitting

__all__ = ["average_weights", "build_losses", "fit", "train_step"]

# Steps between two points of the training curve, and between two looks at whether the loss is finite.
CURVE_STEPS = 50


@dataclass
class State:
    """Where a training stands: all that a checkpoint needs besides tensors."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0
    rows: int = 0
    window: int = 0  # steps in the loss sum
    best_score: float = math.inf
    best_epoch: int = -1
    epochs_without_gain: int = 0
    train_seconds: float = 0.0
    history: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"loss": [], "epochs": []})

    def count(self, rows: int) -> None:
        """Move on by one step.

        Args:
            rows: rows of its batch.
        """
        self.step, self.batch, self.window, self.rows = self.step + 1, self.batch + 1, self.window + 1, self.rows + rows

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; an infinite best score becomes null."""
        return {**asdict(self), "best_score": self.best_score if math.isfinite(self.best_score) else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> State:
        """Undo `to_json`."""
        return cls(**{**values, "best_score": math.inf if values["best_score"] is None else values["best_score"]})


AfterEpoch = Callable[[Sequence[dict[str, Any]]], None]


def fit(
    folder: Path,
    data: PreparedData,
    experiment: Experiment,
    *,
    seed: int = 0,
    resume: bool = False,
    after_epoch: AfterEpoch | None = None,
) -> Run:
    """Train a model and write its run.

    Adam on the sum of the losses; after each epoch the mean normalised entropy of every step's reach on VALID decides
    which weights are kept. A model that fits itself (`funnelcast.self_fitting`) does so instead. TEST is never opened.

    Args:
        folder: the run's folder, made by this call.
        data: a prepared folder.
        experiment: model, losses and training options.
        seed: >= 0; fixes the first weights and the order of rows.
        resume: go on from the last checkpoint in `folder`; the weights become those of an unbroken run, bit by bit
            (on a CPU, same machine, same number of threads). A model that fits itself begins again.
        after_epoch: called with `history.json`'s epochs so far, when the checkpoint of an epoch is written; what it
            raises ends the training there. A model that fits itself has no epochs: it calls once, with all points of
            its curve, when its run is complete.

    Raises:
        ConfigError: an option is wrong, or the folder is taken.
        DataError: the loss is not finite.
        ArtifactError: a checkpoint or a shard is damaged.
    """
    # The model comes first, so that a wrong option leaves no folder behind.
    torch.manual_seed(seed)
    model = build_model(experiment, data.schema)
    losses = build_losses(experiment, data.schema, model)
    run = create_run(folder, data, experiment, seed, resume=resume)
    if not run.complete:
        with run.lock():
            if not run.complete:  # another process may have ended it since
                if isinstance(model, SelfFitting):
                    _let_fit(model, run, data, after_epoch)
                else:
                    _train(set_up(run, data, model, losses), resume=resume, after_epoch=after_epoch)
    return run


def _let_fit(model: SelfFitting, run: Run, data: PreparedData, after_epoch: AfterEpoch | None) -> None:
    """Let a model fit itself from the beginning: it leaves no checkpoint."""
    history = model.fit(data, seed=run.seed, title=f"train {run.experiment.name} seed {run.seed}")
    weights = model.save(run.folder)
    write_json(run.folder / "history.json", history)
    run.finish(weights)
    if after_epoch is not None:  # last, so that nothing it raises costs the fit
        after_epoch(history["epochs"])


@dataclass
class Parts:
    """What one training works with."""

    run: Run
    model: FunnelModel
    average: AveragedModel | None  # the mean of the weights since it began
    losses: list[Loss]
    optimizers: Optimizers
    train: Loader
    valid: Loader
    device: torch.device


def set_up(run: Run, data: PreparedData, model: FunnelModel, losses: list[Loss]) -> Parts:
    """Move the model to its device and build optimizers and loaders."""
    config = run.experiment.train
    device = pick_device(config.device)
    model.to(device)
    optimizers = build_optimizers(model, run.experiment)
    average = AveragedModel(model) if config.average_last > 0 else None
    memory = int(config.memory_gb * 2**30)
    train = Loader(data, Split.TRAIN, config.batch_size, memory, device, config.negatives)
    valid = Loader(data, Split.VALID, SCORING_ROWS)
    return Parts(run, model, average, losses, optimizers, train, valid, device)


def _train(parts: Parts, *, resume: bool, after_epoch: AfterEpoch | None) -> None:
    """Begin or take up the training, and go through its epochs."""
    run, model, average, optimizers = parts.run, parts.model, parts.average, parts.optimizers
    config = run.experiment.train
    state, loss_sum = State(), torch.zeros((), device=parts.device)
    if resume and (run.folder / "checkpoint.json").exists():
        values, loss_sum = load_checkpoint(run.folder, model, average, optimizers.members)
        state, loss_sum = State.from_json(values), loss_sum.to(parts.device)
    title = f"train {run.experiment.name} seed {run.seed}"
    rows, _ = parts.train.planned(run.seed, config.epochs)
    with Interrupt() as interrupt, RowProgress(title, rows) as progress:
        progress.advance(state.rows)
        while state.epoch < config.epochs and not 0 < config.patience <= state.epochs_without_gain:
            loss_sum = train_epoch(parts, state, loss_sum, progress, interrupt)
            _end_epoch(parts, state)
            save_checkpoint(run.folder, model, average, optimizers.members, state.to_json(), loss_sum)
            if after_epoch is not None:
                after_epoch(state.history["epochs"])
            if interrupt.pending:
                raise KeyboardInterrupt
    if state.window:
        _curve_point(state, model, loss_sum)
    totals = {"train_seconds": state.train_seconds, "rows": state.rows, "best_epoch": state.best_epoch}
    write_json(run.folder / "history.json", {**state.history, **totals})
    run.finish()


def train_epoch(parts: Parts, state: State, loss_sum: Tensor, progress: RowProgress, interrupt: Interrupt) -> Tensor:
    """Train on the batches of an epoch that are left; an interrupt leaves a checkpoint behind."""
    run, model, optimizers, config = parts.run, parts.model, parts.optimizers, parts.run.experiment.train
    _, planned = parts.train.planned(run.seed, config.epochs)
    started = time.perf_counter() - state.train_seconds
    model.train()
    for batch in parts.train.epoch(run.seed, state.epoch, start=state.batch):
        batch = batch.to(parts.device)
        model.set_progress(state.step / planned)
        if config.learning_rate_schedule == "linear":
            optimizers.scale_learning_rate(1 - state.step / planned)
        prediction, loss = train_step(model, parts.losses, optimizers, batch, config)
        average_weights(parts.average, model, optimizers, state.step, planned, config.average_last)
        loss_sum = loss_sum + loss
        state.count(len(batch))
        state.train_seconds = time.perf_counter() - started
        if state.window == CURVE_STEPS:
            loss_sum = _curve_point(state, model, loss_sum, clipped_shares(parts.losses, prediction, batch))
        progress.advance(len(batch), f"best NE {state.best_score:.5f}" if state.best_epoch >= 0 else None)
        if interrupt.pending or (config.checkpoint_steps and state.step % config.checkpoint_steps == 0):
            save_checkpoint(run.folder, model, parts.average, optimizers.members, state.to_json(), loss_sum)
        if interrupt.pending:
            raise KeyboardInterrupt
    return loss_sum


def train_step(
    model: FunnelModel, losses: Sequence[Loss], optimizers: Optimizers, batch: Batch, config: TrainConfig
) -> tuple[Prediction, Tensor]:
    """Move the weights once and return the prediction and the loss [] before.

    Args:
        model: in training mode.
        losses: what is minimised, summed.
        optimizers: from `build_optimizers` of this model.
        batch: B rows on the model's device.
        config: its precision and its largest norm of the gradient count here.
    """
    optimizers.before(batch.ids)
    with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        prediction = model(batch.ids)
    loss = objective(losses, prediction, batch)
    optimizers.zero_grad()
    loss.backward()
    optimizers.clip(config.gradient_clip)
    optimizers.step()
    return prediction, loss.detach()


def average_weights(
    average: AveragedModel | None, model: FunnelModel, optimizers: Optimizers, step: int, planned: int, share: float
) -> None:
    """Count the weights after a step into their mean, if the step is one of the last.

    Args:
        average: the mean, or None for none.
        model: holds the weights.
        optimizers: of the model.
        step: number of the step, from 0.
        planned: steps of the whole training.
        share: share of the planned steps, at their end, that counts.
    """
    if average is not None and step >= planned * (1 - share):
        optimizers.flush()
        average.update_parameters(model)


def build_losses(experiment: Experiment, schema: Schema, model: FunnelModel) -> list[Loss]:
    """Build the losses that an experiment names, or else the model's own; a value step is never left untrained.

    Args:
        experiment: names the losses.
        schema: the funnel.
        model: asked for its losses when the experiment names none.

    Raises:
        UnknownNameError: no loss has this name.
        ConfigError: an option is wrong, or a loss needs what the model does not predict.
    """
    chosen = [*(experiment.losses or model.default_losses())]
    if schema.value_step is not None and not any(getattr(LOSSES.get(c.name), "trains_value", False) for c in chosen):
        chosen.append(Component(name="ziln"))
    losses: list[Loss] = [LOSSES.create(loss.name, schema, options=loss.options) for loss in chosen]
    device = next(model.parameters()).device
    row = torch.zeros(1, schema.width, dtype=torch.int32, device=device)
    batch = Batch.of(row, torch.zeros(1, schema.n_steps, device=device))
    if schema.value_step is not None:
        batch = replace(batch, value=torch.zeros(1, device=device))
    with torch.no_grad():  # one row, so that a loss which does not fit the model is refused before anything is written
        objective(losses, model(row), batch)
    return losses


def clipped_shares(losses: Sequence[Loss], prediction: Prediction, batch: Batch) -> dict[str, list[float]]:
    """Ask the losses that clip a weight on how many rows the clip binds.

    Args:
        losses: the losses of a training; those without a `clipped_share` are passed over.
        prediction: the model's output for the batch.
        batch: B rows.

    Returns:
        Loss -> share of the rows of each step's local space, in [0, 1].
    """
    with torch.no_grad():
        return {
            type(loss).__module__.rpartition(".")[2]: [round(share, 6) for share in found(prediction, batch).tolist()]
            for loss in losses
            if (found := getattr(loss, "clipped_share", None)) is not None
        }


def _curve_point(
    state: State, model: FunnelModel, loss_sum: Tensor, clipped: dict[str, list[float]] | None = None
) -> Tensor:
    """Add the mean loss of the window to the curve and return an empty sum."""
    mean = float(loss_sum) / state.window
    if not math.isfinite(mean):
        raise DataError(
            f"the loss should be finite, received {mean} in the {state.window} steps up to {state.step}; "
            "a lower learning_rate may help"
        )
    point = {"step": state.step, "rows": state.rows, "loss": mean}
    optional = {"clipped_share": clipped, "model": model.curve_point()}
    state.history["loss"].append(point | {key: value for key, value in optional.items() if value})
    state.window = 0
    return torch.zeros_like(loss_sum)


def _end_epoch(parts: Parts, state: State) -> None:
    """Score VALID, keep the weights if they are the best so far, and move on to the next epoch."""
    run, model = parts.run, parts.model
    parts.optimizers.flush()
    if parts.average is not None and parts.average.n_averaged > 0:
        model = cast(FunnelModel, parts.average.module)
    entropies = [step["reach"]["ne"] for step in funnel_metrics(score(model, parts.valid))]
    defined = [value for value in entropies if value is not None]
    if not defined:
        raise DataError(f"{run.experiment.name}: VALID has one class at every step, so no epoch can be chosen")
    mean = sum(defined) / len(defined)
    if not math.isfinite(mean):
        raise DataError(
            f"{run.experiment.name}: the VALID score should be finite, received {mean} in epoch {state.epoch}"
        )
    better = mean < state.best_score
    if better:
        state.best_score, state.best_epoch, state.epochs_without_gain = mean, state.epoch, 0
        save_tensors(run.folder / "weights.safetensors", model.state_dict())
    else:
        state.epochs_without_gain += 1
    point = {"epoch": state.epoch, "step": state.step, "valid_ne": entropies, "valid_mean_ne": mean, "best": better}
    state.history["epochs"].append({**point, "seconds": state.train_seconds})
    state.epoch, state.batch = state.epoch + 1, 0
