"""`serve.toml`: how the service listens, what it refuses, who may ask, who answers whom, and what is logged."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from funnelcast.config import explain
from funnelcast.errors import ConfigError
from funnelcast.experiment.shares import check_shares
from funnelcast.process import allowed_cores

__all__ = [
    "AbSettings",
    "ExposureSettings",
    "Limits",
    "LogSettings",
    "Server",
    "Settings",
    "ShadowSettings",
    "load_settings",
]

_MOST_THREADS = 4


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Server(_Table):
    """How the service listens.

    Args:
        host: address to bind.
        port: 0 takes a free one.
        workers: processes, each with its own copy of the bundles.
        threads: requests of many rows that a process scores at once, beside those of few; None takes `own_threads`.
        connections: open at once; more get 503.
        header_seconds: a client has for the head of a request, up to a fifth longer.
        body_seconds: a client has for its body, up to a fifth longer.
        keep_alive_seconds: a connection may idle between requests.
        drain_seconds: accepted requests have after SIGTERM.
        certificate: PEM file of the certificate and those above it; with `private_key`, TLS is spoken.
        private_key: PEM file of its key, without a password.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=256)
    threads: int | None = Field(default=None, ge=1, le=64)
    connections: int = Field(default=1024, ge=1)
    header_seconds: float = Field(default=5.0, gt=0)
    body_seconds: float = Field(default=5.0, gt=0)
    keep_alive_seconds: int = Field(default=20, ge=1)
    drain_seconds: int = Field(default=8, ge=1)
    certificate: Path | None = None
    private_key: Path | None = None

    @property
    def own_threads(self) -> int:
        """Threads of a process: as set, or one for each core that the workers leave it, up to four.

        ONNX Runtime works without Python's lock, under which more threads than that would wait for each other.
        """
        return self.threads or min(_MOST_THREADS, max(1, allowed_cores() // self.workers))

    @model_validator(mode="after")
    def _check_tls(self) -> Server:
        if (self.certificate is None) != (self.private_key is None):
            given = "private_key" if self.certificate is None else "certificate"
            raise ValueError(f"'certificate' and 'private_key' should stand together, received '{given}' alone")
        return self


class Limits(_Table):
    """What a request may ask for.

    Args:
        body_bytes: of a request.
        held_bytes: of all bodies that are in memory at once.
        rows: candidates of a request.
        waiting: requests that are scored or wait for it; more get 429, before their body is read.
        deadline_ms: until an answer is given or 504; `x-deadline-ms` of a request shortens it.
    """

    body_bytes: int = Field(default=4 << 20, ge=1)
    held_bytes: int = Field(default=256 << 20, ge=1)
    rows: int = Field(default=5000, ge=1)
    waiting: int = Field(default=128, ge=1)
    deadline_ms: int = Field(default=2000, ge=1, le=600_000)


class LogSettings(_Table):
    """A log of files.

    Args:
        folder: of the files; None writes none.
        format: Parquet, or JSON lines.
        waiting: rows that wait to be written; more are counted as lost.
        file_rows: rows of a file.
        file_seconds: after which a file is closed although it has fewer rows.
    """

    folder: Path | None = None
    format: Literal["parquet", "jsonl"] = "parquet"
    waiting: int = Field(default=10_000, ge=1)
    file_rows: int = Field(default=50_000, ge=1)
    file_seconds: float = Field(default=60.0, gt=0)


class ExposureSettings(LogSettings):
    """The log of who was answered by which variant.

    Args:
        folder: see `LogSettings`.
        format: see `LogSettings`.
        waiting: see `LogSettings`.
        file_rows: see `LogSettings`.
        file_seconds: see `LogSettings`.
        scores: whether the last step's reach of every candidate is written too.
    """

    scores: bool = False


class ShadowSettings(LogSettings):
    """Bundles that score requests after these were answered, and the log of both scores.

    Args:
        folder: see `LogSettings`.
        format: see `LogSettings`.
        waiting: requests that wait for a shadow, and rows that wait to be written; more are dropped and counted.
        file_rows: see `LogSettings`, here a row a request.
        file_seconds: see `LogSettings`.
        shares: name of a bundle -> share of the requests that it scores too, above 0 and at most 1.
        held_bytes: of all bodies that wait for a shadow.
    """

    shares: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    waiting: int = Field(default=100, ge=1)
    held_bytes: int = Field(default=32 << 20, ge=1)
    file_rows: int = Field(default=5_000, ge=1)


class AbSettings(_Table):
    """The page of the experiment that runs, made of the exposure log.

    Args:
        page: whether there is `/ab`.
        outcomes: path or pattern of outcomes; without it the page has no rates.
        base: the variant that the others are compared with; None for the first one.
        window_hours: outcomes later than this do not count; None counts all.
        per: rates per exposure or per user.
        alpha: chance of any false alarm, whenever one looks.
        planned_lift: that the test was planned for.
        age_seconds: that a page is kept at the least.
        timeout_seconds: that making a page may take.
        memory: limit of the process that makes it.
    """

    page: bool = False
    outcomes: Path | None = None
    base: str | None = None
    window_hours: float | None = Field(default=None, gt=0, lt=1e6)
    per: Literal["exposure", "user"] = "exposure"
    alpha: float = Field(default=0.05, gt=0, lt=1)
    planned_lift: float = Field(default=0.05, gt=0)
    age_seconds: float = Field(default=60.0, gt=0)
    timeout_seconds: float = Field(default=120.0, gt=0)
    memory: str = "512MB"


class Settings(_Table):
    """All of `serve.toml`.

    Args:
        strict: whether unknown and missing columns are refused; `?strict=` of a request overrides it.
        experiment: its name, which salts the hash of users.
        shares: variant -> share of the users, with the sum 1; without them all bundles share alike.
        traffic: traffic file that is followed; it has the experiment and the shares.
        score_keys: file of the keys that may score; without it FUNNELCAST_SCORE_KEYS, and without that anybody.
        admin_keys: file of the keys that may change things; without it FUNNELCAST_ADMIN_KEYS, and without that nobody.
        server: how the service listens.
        limits: what a request may ask for.
        exposures: the exposure log.
        shadow: bundles that answer nobody and score all the same.
        ab: the page of the experiment.
    """

    strict: bool = False
    experiment: str = Field(default="default", min_length=1, max_length=100)
    shares: dict[str, float] = {}
    traffic: Path | None = None
    score_keys: Path | None = None
    admin_keys: Path | None = None
    server: Server = Server()
    limits: Limits = Limits()
    exposures: ExposureSettings = ExposureSettings()
    shadow: ShadowSettings = ShadowSettings()
    ab: AbSettings = AbSettings()

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.shares:
            try:
                check_shares(self.shares, zero=True)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        if self.traffic is not None and self.model_fields_set & {"shares", "experiment"}:
            raise ValueError("'traffic' should stand without 'shares' and 'experiment', which its file holds")
        if self.ab.page and self.exposures.folder is None:
            raise ValueError("'ab.page' should stand with 'exposures.folder', whose log it shows")
        return self


def load_settings(path: Path | None) -> Settings:
    """Read `serve.toml`; without a file, everything has its default.

    Args:
        path: of the file, or None.

    Raises:
        ConfigError: the file is missing or no TOML, or a key is unknown or wrong.
    """
    if path is None:
        return Settings()
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: should be a settings file, received: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: should be TOML, received: {error}") from error
    try:
        return Settings.model_validate(record)
    except ValidationError as error:
        raise explain(path, error, Settings) from error
