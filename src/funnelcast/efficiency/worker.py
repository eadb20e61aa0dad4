"""The process of one model: `python -m funnelcast.efficiency.worker OPTIONS` answers words on stdin with JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from funnelcast.errors import FunnelcastError
from funnelcast.process import prepare_process

__all__ = ["answer_words", "explain_failure"]


def explain_failure(error: Exception) -> str:
    """Say in one line why a measurement failed; want of memory by that name.

    Args:
        error: what was raised.

    Example:
        >>> explain_failure(MemoryError())
        'memory does not suffice: MemoryError'
    """
    if isinstance(error, FunnelcastError):
        return str(error)
    text = (str(error).splitlines() or [""])[0]
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    scarce = isinstance(error, MemoryError) or "alloc" in text or "out of memory" in text.lower()
    return f"memory does not suffice: {named}" if scarce else named


def answer_words(words: IO[str], out: IO[str], answers: dict[str, Callable[[], Any]]) -> None:
    """Answer each word by calling what stands for it: `{"value": ...}` or `{"error": ...}`, one line each.

    Args:
        words: one a line; its end ends this function.
        out: gets the answers.
        answers: word -> call, which returns a JSON value.
    """
    for word in words:
        try:
            line = {"value": answers[word.strip()]()}
        except Exception as error:
            line = {"error": explain_failure(error)}
        out.write(json.dumps(line) + "\n")
        out.flush()


def _main() -> None:
    """Be the process: what libraries print goes to stderr, so that stdout holds answers alone."""
    prepare_process()  # before torch
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = json.loads(sys.argv[1])
    subject: list[Any] = []

    def load() -> Any:
        import torch

        from funnelcast.config import Experiment
        from funnelcast.efficiency.subject import Subject

        torch.set_num_threads(options["threads"])
        experiment = Experiment.model_validate(options["experiment"])
        subject.append(Subject(experiment, Path(options["data"]), options["steps"]))
        return subject[0]

    def start() -> dict[str, Any]:
        load().build()
        subject[0].train()
        subject[0].score()
        return asdict(subject[0].facts())

    answer_words(
        sys.stdin,
        out,
        {
            "peaks": lambda: load().peaks(),
            "start": start,
            "train": lambda: subject[0].timed(subject[0].train, wall=options["wall"]),
            "score": lambda: subject[0].timed(subject[0].score, wall=options["wall"]),
        },
    )


if __name__ == "__main__":
    _main()
