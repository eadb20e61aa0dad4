"""Tune experiments with an equal budget each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from funnelcast.compare import check_names
from funnelcast.config import Experiment
from funnelcast.data.shards import PreparedData
from funnelcast.errors import ConfigError, choices
from funnelcast.files import sha256
from funnelcast.registry import TREES, registry_of
from funnelcast.tuning.folder import Settings, open_folder
from funnelcast.tuning.result import write_results
from funnelcast.tuning.search import plan_search
from funnelcast.tuning.work import Job, next_trial
from funnelcast.workers import heed_stop, worker_pool

__all__ = ["SAMPLERS", "tune"]

SAMPLERS = ("tpe", "random", "grid")
Announce = Callable[[str], None]


def tune(
    experiments: Sequence[Experiment],
    data_folder: Path,
    out: Path,
    *,
    trials: int = 12,
    epochs: int | None = None,
    sampler: str = "tpe",
    workers: int = 1,
    seed: int = 0,
    prune: bool = True,
    command: str = "",
    announce: Announce = lambda _: None,
) -> dict[str, Any]:
    """Search for the options of every experiment with the same number of trials, and write the best ones.

    A trial is a run; its score is the mean normalised entropy of every step's reach on VALID in its best epoch. The
    first trial of a study is the experiment as it stands, so the best one is never worse than it on VALID. TEST is
    never opened. The same call goes on after any end, and several calls on one folder share the trials.

    Args:
        experiments: at least one; names are unique.
        data_folder: the prepared folder all of them train on.
        out: a new folder, or one that the same search began; gets `<experiment>.toml` and `tuning.json`.
        trials: finished trials of each experiment, >= 1; one that is given up counts, one that fails does not.
        epochs: passes over TRAIN of each trial at the most, >= 1; by default what all experiments say. Trees have none.
        sampler: `tpe`, `random`, or `grid`, which walks through all combinations of the listed values.
        workers: processes, each with its share of the cores.
        seed: >= 0; of the sampler and of every training.
        prune: give up a trial that is behind the median of the others after an epoch.
        command: the command line, for the files that are written.
        announce: called with one line for every trial that ends.

    Returns:
        The content of `tuning.json`.

    Raises:
        ConfigError: a number is out of range, a space or an experiment is wrong, or the folder is of another search.
        DataError: as many trials of an experiment failed as should finish.
    """
    check_names(experiments)
    if trials < 1 or workers < 1 or seed < 0:
        raise ConfigError(
            f"trials and workers should be at least 1 and the seed at least 0, received trials={trials}, "
            f"workers={workers}, seed={seed}"
        )
    if sampler not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{sampler}'; {choices(SAMPLERS, sampler)}")
    plans, budget = _with_epochs(experiments, epochs)
    data = PreparedData(data_folder)
    searches = tuple(plan_search(plan, data.schema, trials=trials, grid=sampler == "grid") for plan in plans)
    settings = Settings(
        dataset=data.schema.dataset,
        data_sha256=sha256(data.folder / "manifest.json"),
        sampler=sampler,
        epochs=budget,
        seed=seed,
        prune=prune,
    )
    open_folder(out, settings, searches)
    job = Job(out, data_folder, settings, searches, trials)
    if workers == 1:
        while (line := next_trial(job, data)) is not None:
            announce(line)
    else:
        _in_processes(job, workers, announce)
    return write_results(out, job.studies(), command)


def _with_epochs(experiments: Sequence[Experiment], epochs: int | None) -> tuple[list[Experiment], int | None]:
    """Give every experiment that has epochs the same number of them; return it too, None where none has."""
    having = [experiment for experiment in experiments if registry_of(experiment.model.name) is not TREES]
    named = sorted({experiment.train.epochs for experiment in having})
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs should be at least 1, received {epochs}")
    if not having:
        return list(experiments), None
    if epochs is None and len(named) > 1:
        raise ConfigError(f"the experiments train for {named} epochs; give all the same budget by --epochs")
    budget = named[0] if epochs is None else epochs
    plans = [
        experiment.model_copy(update={"train": experiment.train.model_copy(update={"epochs": budget})})
        if experiment in having
        else experiment
        for experiment in experiments
    ]
    return plans, budget


def _in_processes(job: Job, workers: int, announce: Announce) -> None:
    """Let processes work side by side until every study is over."""
    with worker_pool(workers) as pool:
        under_way = {pool.submit(_next_in_process, job) for _ in range(workers)}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                if (line := future.result()) is not None:
                    announce(line)
                    under_way.add(pool.submit(_next_in_process, job))


def _next_in_process(job: Job) -> str | None:
    return heed_stop(lambda: next_trial(job, PreparedData(job.data, verify=False)))
