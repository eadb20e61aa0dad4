"""What a worker does: claim a trial, train it, write down what became of it, and begin again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError, DataError, UnknownNameError
from funnelcast.files import read_json
from funnelcast.process import give_back_memory
from funnelcast.train import fit
from funnelcast.tuning.folder import Settings, trial_folder
from funnelcast.tuning.search import Search, changes, with_values
from funnelcast.tuning.study import Claim, Study, open_storage
from funnelcast.workers import stop_requested

__all__ = ["Job", "best_epoch", "next_trial"]

_PAUSE = 0.3  # seconds between two looks at trials of other processes


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know.

    Args:
        out: the folder of the tuning.
        data: the prepared folder.
        settings: what all studies share.
        searches: one an experiment.
        trials: finished trials of each that are wanted.
    """

    out: Path
    data: Path
    settings: Settings
    searches: tuple[Search, ...]
    trials: int

    def studies(self) -> list[Study]:
        """Open the studies of all experiments."""
        storage = open_storage(self.out)
        return [Study(self.out, storage, search, self.settings, self.trials) for search in self.searches]


class _GivenUp(Exception):  # noqa: N818
    """A trial falls behind."""


def best_epoch(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch whose weights a run keeps: the first of those with the lowest score on VALID.

    Args:
        epochs: as `history.json` has them.

    Raises:
        DataError: no epoch has a score.
    """
    defined = [point for point in epochs if point["valid_mean_ne"] is not None]
    if not defined:
        raise DataError("VALID has one class at every step, so no trial is better than another")
    return min(defined, key=lambda point: point["valid_mean_ne"])


def next_trial(job: Job, data: PreparedData) -> str | None:
    """Train one trial, of the first study that has one; wait for one while other processes hold the rest.

    Args:
        job: what is tuned.
        data: the prepared folder.

    Returns:
        A line about the trial, or none when every study is over.

    Raises:
        ConfigError: parameters that do not go together.
        DataError: as many trials of a study have failed as should finish.
        KeyboardInterrupt: this worker should stop; the trial can be taken up.
    """
    give_back_memory()
    studies = job.studies()
    while not stop_requested():
        waiting = False
        for study in studies:
            claim = study.claim()
            if isinstance(claim, Claim):
                with claim.lock:
                    return f"{study.name} trial {claim.number}: {_train(study, claim, data)}"
            waiting |= claim == "wait"
        if not waiting:
            return None
        time.sleep(_PAUSE)
    raise KeyboardInterrupt


def _train(study: Study, claim: Claim, data: PreparedData) -> str:
    """Train a trial to its end, or until it is given up."""
    number, folder = claim.number, trial_folder(study.out, study.name, claim.number)
    if not (folder / "run.json").exists():  # a kill may have left parts of a run's folder
        shutil.rmtree(folder, ignore_errors=True)

    def after_epoch(epochs: Sequence[dict[str, Any]]) -> None:
        study.report(number, epochs, epochs[-1]["seconds"])
        if stop_requested():
            raise KeyboardInterrupt
        if study.falls_behind(number):
            raise _GivenUp

    try:
        plan = with_values(study.search.experiment, claim.values)
        fit(folder, data, plan, seed=study.settings.seed, resume=True, after_epoch=after_epoch)
        history = read_json(folder / "history.json", "the history of a run", "epochs", "train_seconds")
        best = best_epoch(history["epochs"])
    except _GivenUp:
        study.give_up(number)
        outcome = "given up behind the median"
    except DataError as error:
        study.fail(number, str(error))
        outcome = f"failed: {error}"
    except (ConfigError, UnknownNameError) as error:
        study.fail(number, str(error))
        raise
    else:
        study.report(number, history["epochs"], history["train_seconds"])
        study.finish(number, best["valid_mean_ne"])
        where = f"in epoch {best['epoch'] + 1}" if study.has_epochs else f"after {best['epoch']} rounds"
        outcome = f"VALID NE {best['valid_mean_ne']:.5f} {where}, {history['train_seconds']:.0f} s"
    for path in folder.glob("checkpoint*"):
        path.unlink()
    return f"{outcome}; {changes(study.search.start, claim.values)}"
