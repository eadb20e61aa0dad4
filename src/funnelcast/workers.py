"""Processes that train side by side: their share of the cores, and how they stop together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import TypeVar

import torch

from funnelcast.errors import ArtifactError
from funnelcast.process import allowed_cores

__all__ = ["heed_stop", "stop_requested", "worker_pool"]

T = TypeVar("T")
_worker: dict[str, Event] = {}  # what this process shares with the others, when it is a worker


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of fresh processes, each with its share of the cores.

    When the block ends by an exception, trainings under way come to their end or their checkpoint, and none of the
    waiting ones begins.

    Args:
        jobs: number of processes, >= 1.

    Raises:
        ArtifactError: a process was killed.
    """
    threads = max(1, allowed_cores() // jobs)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads, stop)) as pool:
        try:
            yield pool
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise ArtifactError(
                    "a process that trained was killed, perhaps for its memory; the same command takes it up again"
                ) from error
            raise


def stop_requested() -> bool:
    """Whether this process is a worker and another one has failed or was interrupted."""
    return bool(_worker) and _worker["stop"].is_set()


def heed_stop(task: Callable[[], T]) -> T:
    """Run a task of a worker; an interrupt of one worker stops them all.

    Args:
        task: what to do.

    Raises:
        KeyboardInterrupt: this worker or another one was interrupted.
    """
    if stop_requested():
        raise KeyboardInterrupt
    try:
        return task()
    except KeyboardInterrupt:
        _worker["stop"].set()
        parent = multiprocessing.parent_process()
        if parent is None or not parent.is_alive():
            os._exit(130)  # nobody is left to hear of it
        raise


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
