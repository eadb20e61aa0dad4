"""A traffic file: the share of the users that each variant gets, changed while services run."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from funnelcast.errors import ArtifactError, ConfigError, choices
from funnelcast.experiment.allocation import Allocation
from funnelcast.files import read_json, write_json
from funnelcast.serving.registry import user_name

__all__ = ["Traffic", "read_traffic", "set_shares", "switch_off"]

FORMAT = 1
_KIND = "a traffic file"


class Traffic(NamedTuple):
    """What a traffic file says.

    Args:
        experiment: salt of the users' hash; it stays while shares change.
        allocation: of the users.
        since: when it was last changed; None for shares that no file holds.
    """

    experiment: str
    allocation: Allocation
    since: datetime | None = None


def read_traffic(path: Path) -> Traffic:
    """Read a traffic file.

    Args:
        path: of the file.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    record = read_json(path, _KIND, "experiment", "parts", "changes", version=FORMAT)
    try:
        parts = tuple((str(name), float(width)) for name, width in record["parts"])
        since = datetime.fromisoformat(record["changes"][-1]["time"])
        return Traffic(str(record["experiment"]), Allocation(parts), since)
    except (ConfigError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ArtifactError(f"{path}: should be {_KIND}, received: {error}") from error


def set_shares(
    path: Path, shares: Mapping[str, float], experiment: str | None = None, by: str | None = None
) -> Traffic:
    """Write shares; services that follow the file take them within a second.

    Args:
        path: of the file; made where it is missing.
        shares: variant -> share of the users, >= 0 with the sum 1.
        experiment: name of a new experiment, which draws all users anew; None goes on with the file's.
        by: who changes it, for the file; None for the user of this process.

    Raises:
        ConfigError: the shares are no shares, or a new file gets no experiment.
        ArtifactError: the file is damaged or cannot be written.
    """
    with _lock(path):
        former = read_traffic(path) if path.exists() else None
        name = experiment if experiment is not None else former.experiment if former else ""
        if not name:
            raise ConfigError(f"{path}: a new traffic file needs the name of its experiment, received none")
        goes_on = former is not None and former.experiment == name
        allocation = former.allocation.reweighed(shares) if former and goes_on else Allocation.of(shares)
        return _write(path, Traffic(name, allocation), "shares", by)


def switch_off(path: Path, variant: str, by: str | None = None) -> Traffic:
    """Take all users from a variant; the others get them in proportion to their shares, and keep their own.

    Args:
        path: of the file.
        variant: that shall answer nobody.
        by: who changes it, for the file; None for the user of this process.

    Raises:
        ConfigError: the variant has no share, or all of it.
        ArtifactError: the file is missing or damaged.
    """
    with _lock(path):
        former = read_traffic(path)
        shares = former.allocation.shares
        if variant not in shares:
            raise ConfigError(f"{path}: '{variant}' should be a variant with a share; {choices(shares, variant)}")
        rest = {name: share for name, share in shares.items() if name != variant}
        if not rest:
            raise ConfigError(f"{path}: '{variant}' has all users; give another variant a share first")
        whole = sum(rest.values())
        scaled = {name: share / whole for name, share in rest.items()}
        return _write(path, former._replace(allocation=former.allocation.reweighed(scaled)), "off", by)


def _write(path: Path, traffic: Traffic, action: str, by: str | None) -> Traffic:
    changes: list[Any] = read_json(path, _KIND, "changes", version=FORMAT)["changes"] if path.exists() else []
    now = datetime.now(UTC)
    change = {"time": now.isoformat(), "by": by or user_name(), "action": action}
    record = {
        "format": FORMAT,
        "experiment": traffic.experiment,
        "parts": traffic.allocation.parts,
        "changes": [*changes, {**change, "shares": traffic.allocation.shares}],
    }
    write_json(path, record)
    return traffic._replace(since=now)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        with path.with_name(f".{path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ArtifactError(f"{path}: could not be changed: {error}") from error
