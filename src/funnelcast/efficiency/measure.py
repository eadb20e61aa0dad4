"""Experiments -> speed and memory, measured in turns A B C A B C."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from funnelcast.config import Experiment
from funnelcast.data.shards import PreparedData
from funnelcast.efficiency.memory import available_bytes
from funnelcast.efficiency.process import MeasurementError, ModelProcess
from funnelcast.errors import ConfigError
from funnelcast.metrics import Undefined
from funnelcast.run import environment
from funnelcast.tables import short

__all__ = ["measure"]

Record = dict[str, Any]
# The C library's own values: memory that is freed goes back at once, so that a peak is what is needed and not what was
# kept for later.
_GIVE_BACK = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "131072"}


def measure(
    experiments: Sequence[Experiment],
    data_folder: Path,
    *,
    steps: int = 40,
    turns: int = 5,
    threads: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> Record:
    """Measure how fast experiments train and score, and what memory they take.

    Every experiment has processes of its own. One measures memory and ends. Then all stand side by side and take turns,
    so that a change of the machine's load meets all of them alike; a first turn is not counted. The time of a turn is
    CPU time with one thread on a CPU, else wall time. Trees have no steps: they are fitted as a whole in every turn.

    Args:
        experiments: at least one; names are unique.
        data_folder: the prepared folder; real batches of its TRAIN are trained on and scored.
        steps: training steps of a turn, >= 1.
        turns: turns that count, >= 1.
        threads: threads of the computation, >= 1.
        announce: called with one line for every experiment and turn.

    Returns:
        What `efficiency.json` holds, see docs/efficiency.md: `rows` of the experiments that could be measured, and
        `failures` of the others.

    Raises:
        ConfigError: names are not unique, a number is out of range, or memory does not suffice for all side by side.
    """
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"experiment names should be unique and at least one, received: {', '.join(twice or names)}")
    for name, number in (("steps", steps), ("turns", turns), ("threads", threads)):
        if number < 1:
            raise ConfigError(f"{name} should be at least 1, received {number}")
    data = PreparedData(data_folder)
    session = _Session(data_folder, steps, threads, announce)
    rows = session.memory(experiments)
    clock = "cpu" if threads == 1 and all(row["device"] == "cpu" for row in rows.values()) else "wall"
    session.check_room(rows)
    session.take_turns([e for e in experiments if e.name in rows], rows, turns, wall=clock == "wall")
    return {
        "format": 1,
        "dataset": data.schema.dataset,
        "steps": steps,
        "turns": turns,
        "threads": threads,
        "clock": clock,
        "environment": environment() | {"threads": threads},
        "rows": [row for row in rows.values() if "train_rows_per_second" in row],
        "failures": session.failures,
    }


class _Session:
    """One measurement: its options, and which experiments have failed.

    Args:
        data: the prepared folder.
        steps: training steps of a turn.
        threads: threads of each process.
        announce: called with one line for everything that is done.
    """

    def __init__(self, data: Path, steps: int, threads: int, announce: Callable[[str], None]) -> None:
        self._data, self._steps, self._threads, self._announce = data, steps, threads, announce
        self.failures: list[Record] = []

    def _process(self, experiment: Experiment, *, wall: bool = True, give_back: bool = False) -> ModelProcess:
        options = {
            "experiment": experiment.model_dump(mode="json"),
            "data": str(self._data),
            "steps": self._steps,
            "threads": self._threads,
            "wall": wall,
        }
        own = {"OMP_NUM_THREADS": str(self._threads), **(_GIVE_BACK if give_back else {})}
        return ModelProcess(options, own)

    def _fail(self, experiment: Experiment, error: MeasurementError) -> None:
        self._announce(f"{experiment.name}: failed: {error}")
        model = experiment.model.name
        self.failures.append({"experiment": experiment.name, "model": model, "reason": str(error)})

    def memory(self, experiments: Sequence[Experiment]) -> dict[str, Record]:
        """Measure memory, one process after the other; returns a row for each experiment that works."""
        rows: dict[str, Record] = {}
        for experiment in experiments:
            with self._process(experiment, give_back=True) as process:
                try:
                    found = process.ask("peaks")
                except MeasurementError as error:
                    self._fail(experiment, error)
                    continue
            known = "unknown" if found["peak_bytes"] is None else f"{short(found['peak_bytes'])}B"
            self._announce(f"{experiment.name}: {short(found['parameters'])} parameters, peak memory {known}")
            batch = experiment.train.batch_size if found["unit"] == "epoch" else None
            rows[experiment.name] = {
                "experiment": experiment.name,
                "model": experiment.model.name,
                "batch_size": batch,
                **found,
            }
        return rows

    def check_room(self, rows: dict[str, Record]) -> None:
        """Refuse to let processes stand side by side that memory does not hold."""
        free = available_bytes()
        needed = [row.pop("process_bytes") for row in rows.values()]
        if isinstance(free, Undefined) or None in needed or sum(needed) <= free:
            return
        raise ConfigError(
            f"memory should hold {len(needed)} models side by side, which take {short(sum(needed))}B, but "
            f"{short(free)}B are available; measure fewer experiments in one call, or smaller batches"
        )

    def take_turns(self, experiments: Sequence[Experiment], rows: dict[str, Record], turns: int, *, wall: bool) -> None:
        """Let all experiments train and score in turns, and add what they took to their rows."""
        with ExitStack() as stack:
            alive: list[tuple[Experiment, ModelProcess]] = []
            seconds: dict[str, dict[str, list[float]]] = {e.name: {"train": [], "score": []} for e in experiments}
            for experiment in experiments:
                process = stack.enter_context(self._process(experiment, wall=wall))
                try:
                    process.ask("start")
                    alive.append((experiment, process))
                except MeasurementError as error:
                    self._fail(experiment, error)
            for turn in range(turns):
                for word in ("train", "score"):
                    for experiment, process in list(alive):
                        try:
                            seconds[experiment.name][word].append(process.ask(word))
                        except MeasurementError as error:
                            alive.remove((experiment, process))
                            self._fail(experiment, error)
                if alive:
                    self._announce(f"turn {turn + 1} of {turns}")
        for experiment, _ in alive:
            rows[experiment.name] |= _speeds(rows[experiment.name], seconds[experiment.name])


def _speeds(row: Record, seconds: dict[str, list[float]]) -> Record:
    """Medians over the turns, and the smallest and largest, which are an interval of the median.

    n turns lie on one side of the true median with probability 2^(1-n), so the interval's level is 1 - 2^(1-n).
    """
    trained = row["train_rows"] if row["unit"] == "fit" else row["turn_rows"]
    train = [trained / value for value in seconds["train"]]
    score = [row["turn_rows"] / value for value in seconds["score"]]
    wholes = [row["train_rows"] / speed for speed in train]
    found: Record = {}
    for name, values in (
        ("train_rows_per_second", train),
        (f"seconds_per_{row['unit']}", wholes),
        ("score_rows_per_second", score),
    ):
        found |= {name: statistics.median(values), f"{name}_interval": [min(values), max(values)]}
    return found | {"turn_seconds": seconds}
