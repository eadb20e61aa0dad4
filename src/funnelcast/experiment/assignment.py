"""Which arm a user belongs to: a stable hash, the same on every machine and in every language."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError
from funnelcast.experiment.shares import are_shares

__all__ = ["assign", "places"]


def places(users: Iterable[str | int], salt: str) -> NDArray[np.float64]:
    """Return where the hash puts users: the first 8 bytes of SHA-256("<salt>:<user>") as a share of 2^64.

    Args:
        users: user ids; a number counts as its decimal text.
        salt: the experiment's name or any text of its own.

    Returns:
        [U] numbers in [0, 1]; rounding can lift the last ones to 1.

    Example:
        >>> places(["ann", 7], "spring").round(6).tolist()
        [0.899199, 0.434125]
    """
    heads = [hashlib.sha256(f"{salt}:{user}".encode()).digest()[:8] for user in users]
    return np.frombuffer(b"".join(heads), dtype=">u8") / 2.0**64


def assign(users: Iterable[str | int], salt: str, shares: Sequence[float] = (0.5, 0.5)) -> NDArray[np.int64]:
    """Assign users to arms by the first 8 bytes of SHA-256("<salt>:<user>"), as a share of 2^64.

    A user stays in one arm; another salt draws anew, so that experiments with salts of their own are independent. Where
    shares change while an experiment runs, `allocation.Allocation` moves fewer users.

    Args:
        users: user ids; a number counts as its decimal text.
        salt: the experiment's name or any text of its own.
        shares: share of each arm, each > 0, with the sum 1.

    Returns:
        [U] number of the arm, from 0.

    Raises:
        ConfigError: the shares are no shares.

    Example:
        >>> assign(["ann", "bob", "cem", "dov"], "spring").tolist()
        [1, 0, 1, 1]
    """
    if not are_shares(shares):
        raise ConfigError(f"shares should be above 0 with the sum 1, received {list(shares)}")
    # Rounding can lift a place to 1 and the last border below it; such a user is in the last arm.
    number = np.searchsorted(list(accumulate(shares)), places(users, salt), side="right")
    return np.minimum(number, len(shares) - 1)
