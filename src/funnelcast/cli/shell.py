"""What all commands share: the application, the console, common options, and how they are read."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from funnelcast import __version__
from funnelcast.config import Experiment, explain, load_experiment
from funnelcast.errors import ConfigError

if TYPE_CHECKING:
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split
    from funnelcast.run import Run

__all__ = [
    "Data",
    "OwnData",
    "RunFolder",
    "Set",
    "Track",
    "app",
    "console",
    "data_folder",
    "open_run",
    "read_experiment",
    "read_pairs",
]

app = typer.Typer(
    name="funnelcast",
    help="Forecast the probability of every step of a conversion funnel.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
# Piped output has no width of its own; 80 columns would fold every table.
# Names and paths come from users: what looks like markup in them is text.
console = Console(width=None if sys.stdout.isatty() else 160, markup=False)

Set = Annotated[list[str], typer.Option("--set", help="An option as key=value; may be given several times.")]
Data = Annotated[Path | None, typer.Option("--data", help="Prepared folder; overrides the experiment file.")]
OwnData = Annotated[Path | None, typer.Option("--data", help="Prepared folder; by default the run's own.")]
Track = Annotated[
    list[str],
    typer.Option("--track", help="Export to tensorboard=FOLDER or mlflow=ADDRESS when done; may be given twice."),
]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]


def _value(text: str) -> Any:
    """Read a value as TOML would; what is not TOML is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read_pairs(settings: list[str], name: str = "--set") -> dict[str, Any]:
    """Split `key=value` texts.

    Args:
        settings: the texts.
        name: of what they are, for the message.

    Raises:
        ConfigError: a text has no equals sign.
    """
    for setting in settings:
        if "=" not in setting:
            raise ConfigError(f"{name} should be key=value, received '{setting}'")
    return {key.strip(): _value(value.strip()) for key, _, value in (setting.partition("=") for setting in settings)}


def read_experiment(path: Path, settings: list[str]) -> Experiment:
    """Read an experiment file and apply `--set section.key=value`.

    Args:
        path: the file.
        settings: what stands behind `--set`.

    Raises:
        ConfigError: the file, a section or an option is wrong.
    """
    from pydantic import ValidationError

    experiment = load_experiment(path)
    tree = experiment.model_dump() | {"tune": experiment.tune}
    for key, value in read_pairs(settings).items():
        section, _, option = key.rpartition(".")
        sections = {"train": tree["train"], "optimizer": tree["optimizer"], "model": tree["model"]["options"]}
        target = {"": tree, **sections}.get(section)
        if target is None:
            known = ", ".join(f"'{name}.'" for name in sections)
            raise ConfigError(f"--set {key}: should begin with one of {known}, or name a top-level key")
        target[option] = value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise explain(f"{path} with --set", error, Experiment) from error


def data_folder(data: Path | None, experiments: list[Experiment]) -> Path:
    """Choose the prepared folder: the option, else the one all experiments name.

    Args:
        data: what stands behind `--data`.
        experiments: the experiments that will be trained.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if data is not None:
        return data
    named = {experiment.data for experiment in experiments}
    if len(named) != 1 or None in named:
        raise ConfigError("the prepared folder should be given by --data or by one 'data' key in every experiment file")
    return Path(str(named.pop()))


def open_run(run: Path, data: Path | None, split: str) -> tuple[Run, PreparedData, Split]:
    """Open a run with the prepared folder to score, by default the one it was trained on.

    Args:
        run: the run's folder.
        data: what stands behind `--data`.
        split: what stands behind `--split`.

    Raises:
        ConfigError: no such split, or the prepared folder is not here.
    """
    from funnelcast.data.shards import PreparedData
    from funnelcast.data.split import Split
    from funnelcast.run import Run

    parts = [part.value for part in Split]
    if split not in parts:
        raise ConfigError(f"--split should be one of {', '.join(parts)}, received '{split}'")
    opened = Run(run)
    folder = data or Path(opened.record["data"]["folder"])
    if data is None and not folder.is_dir():
        raise ConfigError(f"{folder}: the prepared folder the run was trained on is not here; name it by --data")
    return opened, PreparedData(folder), Split(split)


def _show_version(value: bool) -> None:
    if value:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Forecast the probability of every step of a conversion funnel."""
