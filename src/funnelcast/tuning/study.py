"""One experiment's study, shared by all workers: which trial is next, and what became of it."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from funnelcast.errors import DataError
from funnelcast.registry import TREES, registry_of
from funnelcast.space import Choice, IntegerRange, LogUniform, Parameter, SearchSpace, Values, identity
from funnelcast.tuning.folder import JournalLock, Settings, locked, try_lock
from funnelcast.tuning.search import Search

__all__ = ["Claim", "Study", "decode", "open_storage"]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_DRAWS = 100  # of the sampler, before any combination that is new will do
Frozen = Sequence[FrozenTrial]


def open_storage(out: Path) -> JournalStorage:
    """Open the journal of a tuning.

    Args:
        out: its folder.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = out / "journal.log"
    journal.touch()
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=cast(Any, JournalLock(out, journal))))


def _encode(value: Any) -> Any:
    """Write a list as text: Optuna stores plain values."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def decode(space: SearchSpace, stored: Mapping[str, Any]) -> Values:
    """Turn what Optuna stored into values of the space.

    Args:
        space: parameter -> its values.
        stored: parameters of a trial.
    """
    return {
        name: next(v for v in parameter.values if identity(_encode(v)) == identity(stored[name]))
        if isinstance(parameter, Choice)
        else stored[name]
        for name, parameter in space.items()
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution([_encode(value) for value in parameter.values])
    if isinstance(parameter, IntegerRange):
        return IntDistribution(parameter.low, parameter.high)
    return FloatDistribution(parameter.low, parameter.high, log=isinstance(parameter, LogUniform))


def _anything(parameter: Parameter, draw: random.Random) -> Any:
    if isinstance(parameter, Choice | IntegerRange):
        return draw.choice(parameter.grid)
    return draw.uniform(parameter.low, parameter.high)


@dataclass(frozen=True)
class Claim:
    """A trial that this process alone works on, as long as it holds the lock.

    Args:
        number: of the trial, >= 0.
        values: its parameters.
        lock: held until it is closed.
    """

    number: int
    values: Values
    lock: IO[str]


class Study:
    """The study of one experiment.

    Args:
        out: the folder of the tuning, opened by `open_folder`.
        storage: its journal.
        search: what is tried.
        settings: what all studies of the folder share.
        trials: finished trials that are wanted, >= 1.
    """

    def __init__(self, out: Path, storage: JournalStorage, search: Search, settings: Settings, trials: int) -> None:
        self.out, self.search, self.settings, self.trials = out, search, settings, trials
        self._storage = storage
        self.name = search.experiment.name
        self.has_epochs = registry_of(search.experiment.model.name) is not TREES
        # With a third of the budget behind it a study has something to learn from; Optuna's own numbers are the most.
        self._known = max(1, trials // 3)
        with locked(out, "folder"):
            self.optuna = optuna.create_study(
                storage=storage, study_name=self.name, pruner=self._pruner(), load_if_exists=True
            )
        self._distributions = {name: _distribution(parameter) for name, parameter in search.space.items()}

    def _pruner(self) -> BasePruner:
        return MedianPruner(n_startup_trials=min(5, self._known)) if self.settings.prune else NopPruner()

    def claim(self) -> Claim | Literal["wait", "over"]:
        """Take up a trial whose process has ended, or else begin a new one.

        Returns:
            The trial; `wait` while the rest of the budget is in the hands of other processes; `over` at the end.

        Raises:
            DataError: as many trials have failed as should finish.
        """
        with locked(self.out, f"{self.name}.study"):
            trials = self.optuna.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state is TrialState.RUNNING and (claim := self._take(trial.number)) is not None:
                    return claim
            trials = self.optuna.get_trials(deepcopy=False)
            if sum(trial.state in FINISHED for trial in trials) >= self.trials:
                return "over"
            failed = [trial for trial in trials if trial.state is TrialState.FAIL]
            if len(failed) >= self.trials:
                reason = failed[-1].user_attrs.get("reason")
                raise DataError(
                    f"{self.name}: {len(failed)} trials failed, as many as should finish; the last: {reason}"
                )
            running = any(trial.state is TrialState.RUNNING for trial in trials)
            values = self._next(trials) if len(trials) - len(failed) < self.trials else None
            if values is None:
                return "wait" if running else "over"
            params = {name: _encode(value) for name, value in values.items()}
            # One line of the journal, so that no kill leaves a trial with a part of its parameters.
            self.optuna.add_trial(
                optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
            )
            claim = self._take(len(trials))
            assert claim is not None
            return claim

    def _take(self, number: int) -> Claim | None:
        """Lock a trial, unless a living process has it or has just finished it."""
        lock = try_lock(self.out, f"{self.name}.trial-{number}")
        if lock is None:
            return None
        trial = self._trial(number)
        if trial.state is not TrialState.RUNNING:
            lock.close()
            return None
        return Claim(number, decode(self.search.space, trial.params), lock)

    def _next(self, trials: Frozen) -> Values | None:
        """Return parameters that no trial has had, or none when there are no more."""
        space, start = self.search.space, self.search.start
        seen = {identity(decode(space, trial.params)) for trial in trials}
        if identity(start) not in seen:
            return start
        if self.settings.sampler == "grid":
            return next((values for values in self.search.grid if identity(values) not in seen), None)
        finite = all(isinstance(parameter, Choice | IntegerRange) for parameter in space.values())
        size = math.prod(len(parameter.grid) for parameter in space.values()) if finite else math.inf
        if len(seen) >= size:
            return None
        for values in self._draws(trials):
            if identity(values) not in seen:
                return values
        draw = random.Random(self._seed(trials))
        while identity(values := {name: _anything(parameter, draw) for name, parameter in space.items()}) in seen:
            pass
        return values

    def _seed(self, trials: Frozen) -> int:
        """Give every trial random numbers of its own, the same after an interruption as without."""
        return self.settings.seed * 100_003 + len(trials)

    def _draws(self, trials: Frozen) -> Iterator[Values]:
        """Ask the sampler again and again, in a copy of the study that keeps what was refused as running trials."""
        with _quiet():
            copy = optuna.create_study(sampler=self._sampler(self._seed(trials)))
            copy.add_trials(trials)
            for _ in range(_DRAWS):
                yield decode(self.search.space, copy.ask(self._distributions).params)

    def _sampler(self, seed: int) -> BaseSampler:
        if self.settings.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=min(10, self._known), multivariate=True, constant_liar=True)

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def report(self, number: int, epochs: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Write down the VALID scores of the epochs so far, if the model has epochs, and the seconds of the training.

        Args:
            number: of the trial.
            epochs: as `history.json` has them.
            seconds: time of the training so far.
        """
        known = self._trial(number).intermediate_values
        for point in epochs if self.has_epochs else ():
            if point["epoch"] not in known:
                self._storage.set_trial_intermediate_value(self._id(number), point["epoch"], point["valid_mean_ne"])
        self._storage.set_trial_user_attr(self._id(number), "seconds", seconds)

    def falls_behind(self, number: int) -> bool:
        """Whether a trial should be given up; the first one never is, so that there is something to compare with.

        A model without epochs is heard of at its end, when nothing is left to save.

        Args:
            number: of the trial.
        """
        if not self.has_epochs:
            return False
        trial = self._trial(number)
        assert self.settings.epochs is not None  # some experiment has epochs: this one
        ahead = (trial.last_step or 0) + 1 < self.settings.epochs
        return number > 0 and ahead and bool(self.optuna.pruner.prune(self.optuna, trial))  # NumPy's own bool

    def finish(self, number: int, score: float) -> None:
        """Write down the score of a trial that came to its end.

        Args:
            number: of the trial.
            score: mean normalised entropy on VALID of its best epoch.
        """
        self.optuna.tell(number, score)

    def give_up(self, number: int) -> None:
        """Write down that a trial was given up; its last score stays.

        Args:
            number: of the trial.
        """
        self.optuna.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Write down that a trial failed.

        Args:
            number: of the trial.
            reason: the error.
        """
        self._storage.set_trial_user_attr(self._id(number), "reason", reason)
        self.optuna.tell(number, state=TrialState.FAIL)


@contextmanager
def _quiet() -> Iterator[None]:
    """Be silent about what older versions of Optuna call experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
