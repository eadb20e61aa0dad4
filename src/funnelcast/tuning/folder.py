"""The folder of a tuning: what it was begun with, its locks, and the journal that all workers write.

```
settings.json            what all studies share: data, sampler, epochs, seed, pruning
journal.log              Optuna's journal: every trial of every study
tuning.json              the results of all studies
<experiment>.toml        the best experiment
<experiment>/study.json  the experiment as it stands and its space
<experiment>/trial-<n>/  the run of a trial
.locks/                  one file a lock; the system frees it when its process ends, kill -9 included
```
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from funnelcast.config import Experiment, explain
from funnelcast.errors import ConfigError
from funnelcast.files import read_json, write_json
from funnelcast.space import describe
from funnelcast.tuning.search import Search

__all__ = ["JournalLock", "Settings", "locked", "open_folder", "trial_folder", "try_lock"]

FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What all studies of a folder share.

    Args:
        dataset: the data set's name.
        data_sha256: the fingerprint of the prepared folder.
        sampler: `tpe`, `random` or `grid`.
        epochs: passes over TRAIN of a trial that is not stopped early, >= 1; None where no experiment has epochs, which
            goes with any number.
        seed: of the sampler and of every training, >= 0.
        prune: whether a trial that falls behind is given up.
    """

    dataset: str
    data_sha256: str
    sampler: str
    epochs: int | None
    seed: int
    prune: bool


def _lock_file(out: Path, name: str) -> Path:
    folder = out / ".locks"
    folder.mkdir(exist_ok=True)
    return folder / name


@contextmanager
def locked(out: Path, name: str) -> Iterator[None]:
    """Wait for a lock of the folder and hold it.

    Args:
        out: the folder of the tuning.
        name: of the lock.
    """
    with _lock_file(out, name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(out: Path, name: str) -> IO[str] | None:
    """Take a lock if no living process has it; closing the file gives it back.

    Args:
        out: the folder of the tuning.
        name: of the lock.
    """
    file = _lock_file(out, name).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class JournalLock:
    """What Optuna's journal is locked with while a line is added; half a line that a kill left behind goes first.

    Args:
        out: the folder of the tuning.
        journal: the journal's file.
    """

    def __init__(self, out: Path, journal: Path) -> None:
        self._out, self._journal = out, journal
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held = _lock_file(self._out, "journal").open("a")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        written = self._journal.read_bytes()
        if written and not written.endswith(b"\n"):
            with self._journal.open("rb+") as file:
                file.truncate(written.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Give the lock back."""
        assert self._held is not None
        self._held.close()


def trial_folder(out: Path, experiment: str, number: int) -> Path:
    """Name the run's folder of a trial.

    Args:
        out: the folder of the tuning.
        experiment: its name.
        number: of the trial, >= 0.
    """
    return out / experiment / f"trial-{number}"


def open_folder(out: Path, settings: Settings, searches: tuple[Search, ...]) -> None:
    """Make the folder of a tuning, or refuse one that was begun with something else.

    Args:
        out: a new or empty folder, or one of a tuning.
        settings: what all studies share.
        searches: one an experiment; a study that is new is written down.

    Raises:
        ConfigError: the folder holds something else, or was begun with other settings, another experiment or space.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: should be a new or empty folder, but cannot be made: {error.strerror}") from error
    # A tuning makes its locks first, so another command that begins right now has them by the time its files are seen.
    if any(out.iterdir()) and not (out / ".locks").exists():
        raise ConfigError(f"{out}: should be a new or empty folder or one of a tuning, but holds other files")
    with locked(out, "folder"):
        record = {"format": FORMAT, **asdict(settings)}
        if (out / "settings.json").exists():
            former = read_json(out / "settings.json", "the settings of a tuning", *record, version=FORMAT)
            if None in (record["epochs"], former["epochs"]):  # trees came first, or come now
                record["epochs"] = former["epochs"] = record["epochs"] or former["epochs"]
            for key, value in record.items():
                if former[key] != value:
                    raise ConfigError(
                        f"{out}: the tuning there was begun with {key} = {former[key]!r}, received {value!r}; "
                        "use another folder"
                    )
        for search in searches:
            _open_study(out, search)
        write_json(out / "settings.json", record)


def _open_study(out: Path, search: Search) -> None:
    """Write a study down, or refuse one of another experiment or space."""
    name = search.experiment.name
    path = out / name / "study.json"
    experiment, space = search.experiment.model_dump(mode="json"), describe(search.space)
    if path.exists():
        former = read_json(path, "the record of a study", "experiment", "space", version=FORMAT)
        try:  # options that came after the study was begun count with their defaults
            same = Experiment.model_validate(former["experiment"]).model_dump(mode="json") == experiment
        except ValidationError as error:
            raise explain(path, error, Experiment) from error
        if not same or json.dumps(former["space"]) != json.dumps(space):
            raise ConfigError(
                f"{out / name}: the study there is of another {'space' if same else 'experiment'}; use another folder"
            )
        return
    if (out / f"{name}.toml").exists():
        raise ConfigError(f"{out / name}.toml: would be written over, but is not of this tuning; use another folder")
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"format": FORMAT, "experiment": experiment, "space": space, "left_out": list(search.left_out)})
