"""Models x seeds -> one table: every experiment is trained with every seed, scored on TEST, and averaged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from funnelcast.config import Experiment
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError
from funnelcast.evaluate import evaluate
from funnelcast.files import read_json, sha256, write_bytes, write_json
from funnelcast.leaderboard import build_leaderboard, to_csv, to_markdown
from funnelcast.process import allowed_cores
from funnelcast.published import published, published_markdown
from funnelcast.report import write_report
from funnelcast.run import build_model
from funnelcast.train import build_losses, fit

__all__ = ["compare"]


def compare(
    experiments: Sequence[Experiment],
    data_folder: Path,
    out: Path,
    *,
    seeds: int = 3,
    jobs: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train every experiment with seeds 0..seeds-1, evaluate on TEST, and write the leaderboard and the report.

    Runs that are complete in `out` are taken as they are, broken ones are taken up, so the same call goes on after an
    interruption. A wrong option of any experiment is found before the first training.

    Args:
        experiments: at least one; names are unique.
        data_folder: the prepared folder all of them train on.
        out: gets `leaderboard.json`, `.csv`, `.md`, `report.html` and `runs/<experiment>-seed<k>/`.
        seeds: number of seeds, >= 1.
        jobs: trainings at the same time, each with its share of the cores.
        announce: called with one line for every run that ends.

    Returns:
        The leaderboard.

    Raises:
        ConfigError: names are not unique, a number is out of range, or an experiment is wrong.
    """
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"experiment names should be unique and at least one, received: {', '.join(twice or names)}")
    if seeds < 1 or jobs < 1:
        raise ConfigError(f"seeds and jobs should be at least 1, received seeds={seeds}, jobs={jobs}")
    data = PreparedData(data_folder)
    # Options are checked on the same funnel with the smallest fields, which takes no memory.
    fields = tuple(field.model_copy(update={"size": 2}) for field in data.schema.fields)
    small = data.schema.model_copy(update={"fields": fields})
    for experiment in experiments:
        build_losses(experiment, small, build_model(experiment, small))
    tasks = [(e, seed, out / "runs" / f"{e.name}-seed{seed}") for seed in range(seeds) for e in experiments]
    if jobs == 1:
        reports = {folder: _report(data, e, seed, folder, announce) for e, seed, folder in tasks}
    else:
        reports = _in_processes(data_folder, tasks, jobs, announce)
    board = build_leaderboard([reports[folder] for _, _, folder in tasks])
    board["protocol"] = data.schema.protocol
    board["published"] = published(data.schema.dataset, data.schema.protocol, data.schema.step_names)
    write_json(out / "leaderboard.json", board)
    write_bytes(out / "leaderboard.csv", to_csv(board).encode())
    write_bytes(out / "leaderboard.md", (to_markdown(board) + published_markdown(board)).encode())
    write_report(out)
    return board


def _report(
    data: PreparedData, experiment: Experiment, seed: int, folder: Path, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Train and evaluate one run, or take its report from an earlier call."""
    run = fit(folder, data, experiment, seed=seed, resume=True)
    former = read_json(folder / "report.json", "a report") if run.evaluated else {}
    # `funnelcast evaluate` may have left a report of another split or of other data.
    done = (former.get("split"), former.get("data_sha256")) == (Split.TEST.value, sha256(data.folder / "manifest.json"))
    report: dict[str, Any] = former if done else evaluate(run, data, Split.TEST)
    aucs = " / ".join("-" if s["reach"]["auc"] is None else f"{s['reach']['auc']:.4f}" for s in report["steps"])
    took = "taken from an earlier call" if done else f"{report['train_seconds']:.0f} s"
    announce(f"{experiment.name} seed {seed}: reach AUC {aucs} ({took})")
    return report


def _in_processes(
    data_folder: Path, tasks: list[tuple[Experiment, int, Path]], jobs: int, announce: Callable[[str], None]
) -> dict[Path, dict[str, Any]]:
    """Run tasks in `jobs` fresh processes."""
    threads = max(1, allowed_cores() // jobs)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    reports = {}
    with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads, stop)) as pool:
        futures = {
            pool.submit(_report_in_process, data_folder, experiment.model_dump(), seed, folder): folder
            for experiment, seed, folder in tasks
        }
        try:
            for future in as_completed(futures):
                report, line = future.result()
                reports[futures[future]] = report
                announce(line)
        except BaseException:
            # Trainings under way come to their end or their checkpoint; none of the waiting ones begins.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return reports


_worker: dict[str, Event] = {}  # what this process shares with the others, when it is a worker


def _start_worker(threads: int, stop: Event) -> None:
    """Give a process its share of the cores, and no progress bar: several would draw over each other."""
    torch.set_num_threads(threads)
    os.environ["TTY_COMPATIBLE"] = "0"
    _worker["stop"] = stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Send this process SIGTERM when its parent is gone, so that no training goes on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _report_in_process(
    data_folder: Path, experiment: dict[str, Any], seed: int, folder: Path
) -> tuple[dict[str, Any], str]:
    """Train and evaluate one run in a process of its own; returns the report and its line."""
    if _worker["stop"].is_set():
        raise KeyboardInterrupt
    lines: list[str] = []
    data = PreparedData(data_folder, verify=False)
    try:
        report = _report(data, Experiment.model_validate(experiment), seed, folder, lines.append)
    except KeyboardInterrupt:
        _worker["stop"].set()
        parent = multiprocessing.parent_process()
        if parent is None or not parent.is_alive():
            os._exit(130)  # nobody is left to hear of it
        raise
    return report, lines[0]
