"""A model that a running service scores, by the Open Inference Protocol V2; shape legend: B rows, S steps."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from funnelcast.errors import ConfigError

__all__ = ["ServedModel"]

ROWS = 1000  # of a request; a service takes 5,000 unless told otherwise
_SECONDS = 60.0
_WAITS = (0.1, 0.3, 1.0, 3.0, 0.0)  # seconds behind an answer that there is no room
_HEADERS = {"content-type": "application/json"}


class ServedModel:
    """Asks `funnelcast serve`, or another service of the protocol, for reach.

    Args:
        url: of the service, such as `http://127.0.0.1:8000`.
        name: of the model.
        steps: names of the steps, in funnel order, whose reach it has to give.
        key: API key, or None.

    Attributes:
        name: of the model.
        version: of the model, as the service says it.

    Raises:
        ConfigError: nobody answers there, or the service has no such model, or it gives no reach of a step.
    """

    def __init__(self, url: str, name: str, steps: Sequence[str], key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise ConfigError(f"the service should be like http://127.0.0.1:8000, received '{url}'")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=_SECONDS)
        self.name = name
        self._url, self._steps = url, tuple(steps)
        self._path = f"{parts.path.rstrip('/')}/v2/models/{quote(name, safe='')}"
        self._headers = _HEADERS | ({} if key is None else {"authorization": f"Bearer {key}"})
        said = self._ask("GET", self._path)
        with self._says_where():
            given = [output["name"] for output in said["outputs"]]
            self._inputs: list[dict[str, Any]] = [dict(one) for one in said["inputs"]]
            self.version = str(said["versions"][0])
        if lacks := [step for step in steps if f"reach_{step}" not in given]:
            self.close()
            raise ConfigError(f"{url}: model '{name}' should give 'reach_{lacks[0]}', received {', '.join(given)}")

    def close(self) -> None:
        """End the connection; a further request opens it again."""
        self._connection.close()

    def reach(self, rows: pa.Table) -> dict[str, NDArray[np.float64]]:
        """Score raw rows.

        Args:
            rows: [B] the model's inputs as columns; others are passed over.

        Returns:
            Name of each step -> [B] its reach.

        Raises:
            ConfigError: an input is no column, or the service refuses the rows or does not answer.
        """
        parts = [self._part(rows.slice(first, ROWS)) for first in range(0, rows.num_rows, ROWS)]
        return {step: np.concatenate([np.zeros(0), *(part[step] for part in parts)]) for step in self._steps}

    def _part(self, rows: pa.Table) -> dict[str, NDArray[np.float64]]:
        inputs = [{**given, **_tensor(rows, given, self._url)} for given in self._inputs]
        wanted = [{"name": f"reach_{step}"} for step in self._steps]
        with self._says_where():
            body = json.dumps({"inputs": inputs, "outputs": wanted}, allow_nan=False)
        said = self._ask("POST", f"{self._path}/infer", body)
        with self._says_where():
            found = {output["name"]: np.array(output["data"], np.float64) for output in said["outputs"]}
            return {step: found[f"reach_{step}"] for step in self._steps}

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        """Ask; a service that is full for a moment is asked again."""
        for wait in _WAITS:
            status, data = self._send(method, path, body)
            if status not in (429, 503):
                break
            time.sleep(wait)
        if status != 200:
            self.close()
            raise ConfigError(f"{self._url}{path}: answered {status}: {_reason(data)}")
        with self._says_where():
            return json.loads(data)

    def _send(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        """Send a request; a kept connection that the service has closed meanwhile is opened again."""
        with self._says_where():
            kept = self._connection.sock is not None
            try:
                return self._exchange(method, path, body)
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()
                if not kept:
                    raise
            return self._exchange(method, path, body)

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        self._connection.request(method, path, body, self._headers)
        reply = self._connection.getresponse()
        return reply.status, reply.read()

    @contextmanager
    def _says_where(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            self.close()
            wanted = f"{self._url}: a service of the Open Inference Protocol should answer"
            raise ConfigError(f"{wanted}, received {type(error).__name__}: {error}") from error


def _reason(data: bytes) -> str:
    """Take the reason out of an answer, whoever gave it."""
    try:
        said = json.loads(data)
    except ValueError:
        return data[:200].decode(errors="replace")
    return str(said.get("error", said) if isinstance(said, Mapping) else said)


def _tensor(rows: pa.Table, given: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Write a column as shape and data; cells of several values are filled up with null."""
    name = given["name"]
    if name not in rows.column_names:
        raise ConfigError(f"{url}: reads the column '{name}', which the simulated rows do not have")
    values = [None if value != value else value for value in rows[name].to_pylist()]  # NaN is no JSON
    if len(given["shape"]) == 1:
        return {"shape": [len(values)], "data": values}
    width = max((len(cell) for cell in values if cell is not None), default=0)
    data = [[*(cell or ()), *[None] * (width - len(cell or ()))] for cell in values]
    return {"shape": [len(values), width], "data": [item for row in data for item in row]}
