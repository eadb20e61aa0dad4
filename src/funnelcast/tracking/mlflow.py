"""Runs in MLflow's store: a database file or a server."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
import warnings
from collections.abc import Iterable
from typing import Any

from funnelcast.errors import ConfigError
from funnelcast.registry import TRACKERS
from funnelcast.tracking import TrackedRun

__all__ = ["MLflow", "allowed_names"]

_METRICS, _PARAMETERS = 1000, 100  # of one request
_VALUE = 6000  # characters of a parameter


def allowed_names(names: Iterable[str]) -> dict[str, str]:
    """Bring names to the letters that MLflow takes; names that would fall together get numbers.

    Args:
        names: any texts.

    Example:
        >>> allowed_names(["test/buy/auc", "a(b)", "a[b]"])
        {'test/buy/auc': 'test/buy/auc', 'a(b)': 'a_b_', 'a[b]': 'a_b_.2'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        plain = re.sub(r"[^A-Za-z0-9_./ -]", "_", name)[:240]
        plain = "/".join(part if part.strip(".") else "_" for part in plain.split("/"))
        new, number = plain, 2
        while new in taken:
            new, number = f"{plain}.{number}", number + 1
        taken.add(new)
        found[name] = new
    return found


@TRACKERS.register
class MLflow:
    """MLflow runs, in an experiment named after the dataset: curves as metrics, the configuration as parameters.

    MLflow's own reports home are switched off, unless `MLFLOW_DISABLE_TELEMETRY` says otherwise.

    Args:
        target: MLflow's tracking address, such as `sqlite:///runs.db` or `http://server:5000`.

    Raises:
        ConfigError: a package is missing.
    """

    def __init__(self, target: str) -> None:
        missing = [name for name in ("mlflow", "sqlalchemy") if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} should be installed: pip install 'funnelcast[track]'")
        self._target = target

    def write(self, run: TrackedRun) -> str:
        """Write a run; an earlier export of the same training is deleted.

        Args:
            run: what to write.

        Raises:
            ConfigError: the store cannot be opened or refuses the run.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        with warnings.catch_warnings():  # of its own use of SQLAlchemy
            warnings.simplefilter("ignore")
            from mlflow.exceptions import MlflowException

            try:
                number = self._write(run)
            except (MlflowException, OSError, ValueError) as error:
                words = " ".join(str(error).split())[:300]
                raise ConfigError(
                    f"{self._target}: should be an address that MLflow can write, received: {words}"
                ) from error
        return f"{self._target}, run {number}"

    def _write(self, run: TrackedRun) -> str:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._target)
        name = run.dataset or "funnelcast"
        experiment = client.get_experiment_by_name(name)
        identity = experiment.experiment_id if experiment is not None else client.create_experiment(name)
        same = f"tags.`funnelcast.run` = '{run.tags['funnelcast.run']}'"
        former = client.search_runs([identity], filter_string=same)
        number = str(client.create_run(identity, run_name=run.name, tags=run.tags).info.run_id)
        _log(client, number, run)
        if run.tags["funnelcast.state"] == "complete":
            client.set_terminated(number)
        for old in former:
            client.delete_run(old.info.run_id)
        return number


def _log(client: Any, number: str, run: TrackedRun) -> None:
    """Write metrics and parameters in as few requests as MLflow allows."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    names = allowed_names(point.name for point in run.points)
    metrics = [Metric(names[point.name], point.value, now, point.step) for point in run.points]
    keys = allowed_names(run.parameters)
    parameters = [Param(keys[key], value[:_VALUE]) for key, value in run.parameters.items()]
    for start in range(0, len(metrics), _METRICS):
        client.log_batch(number, metrics=metrics[start : start + _METRICS])
    for start in range(0, len(parameters), _PARAMETERS):
        client.log_batch(number, params=parameters[start : start + _PARAMETERS])
