"""Who may ask: keys from a file or the environment."""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers

from funnelcast.errors import ConfigError
from funnelcast.serving.http.refusal import RefusalError

__all__ = ["Keys"]

_SHORTEST = 16
_BLANKS = re.compile(r"[ \t]+")  # others, such as those of Unicode, belong to a key, and are refused there


class Keys:
    """The keys of one purpose; their digests are kept, not the keys.

    Args:
        lines: a key each, and behind blanks an ISO date with a time zone from which on it is no longer taken.
        source: where they stand, for messages.
        what: stands before the number of a line in messages.

    Raises:
        ConfigError: a key is short or cannot be sent in a header, or a date is none; no message repeats a key.

    Example:
        >>> keys = Keys(["a key of sixteen".replace(" ", "-"), "an-old-key-of-old 2020-01-01T00:00:00Z"], "here")
        >>> keys.allow("a-key-of-sixteen"), keys.allow("an-old-key-of-old"), keys.allow("")
        (True, False, False)
    """

    def __init__(self, lines: Iterable[str], source: str, what: str = "key") -> None:
        self._known: list[tuple[bytes, datetime | None]] = []
        for number, line in enumerate(lines, 1):
            key, *date = _BLANKS.split(line.strip(), 1)
            if not key or key.startswith("#"):
                continue
            where = f"{source}: {what} {number}"
            if not (key.isascii() and key.isprintable()):
                wanted = "should have letters, digits and signs of ASCII alone"
                raise ConfigError(f"{where} {wanted}, received others, which clients send in different ways")
            if len(key) < _SHORTEST:
                raise ConfigError(f"{where} should have at least {_SHORTEST} characters, received {len(key)}")
            self._known.append((_digest(key), _date("".join(date), where)))

    @classmethod
    def read(cls, path: Path | None, variable: str) -> Keys | None:
        """Read keys of a file, or else of an environment variable with commas; None if there are none.

        Args:
            path: of the file, a key a line, or None.
            variable: of the environment.

        Raises:
            ConfigError: the file cannot be read or holds no key, or a key is wrong.
        """
        if path is not None:
            try:
                # Some editors begin a file with a mark, and a line that is no UTF-8 is refused by its number.
                lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
            except OSError as error:
                raise ConfigError(f"{path}: should be a file of keys, received: {error}") from error
            keys = cls(lines, str(path), "the key of line")
            if not keys._known:
                raise ConfigError(f"{path}: should hold a key a line, received none")
            return keys
        text = os.environ.get(variable, "")
        return cls(text.split(","), variable) if text.strip() else None

    def allow(self, key: str) -> bool:
        """Say whether a key is known and not over; takes the same time for every wrong key.

        Args:
            key: what a client sent.
        """
        now, given, found = datetime.now(UTC), _digest(key), False
        for digest, until in self._known:
            found |= hmac.compare_digest(digest, given) and (until is None or now < until)
        return found

    def check(self, headers: Headers, *, browser: bool = False) -> str:
        """Take `authorization: Bearer KEY` or `x-api-key: KEY`.

        Args:
            headers: of a request.
            browser: also take the key as a password, for which browsers ask, whatever the name beside it.

        Returns:
            What logs may call the key: the first eight digits of its SHA-256.

        Raises:
            RefusalError: there is no key, or none that is known.
        """
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if browser and scheme.lower() == "basic":
            key = _password(key)
        else:
            key = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not self.allow(key):
            received = "one that is not known or over" if key else "none"
            message = f"the header 'authorization' should be 'Bearer KEY' with a known key, received {received}"
            asked = 'Basic realm="funnelcast", charset="UTF-8"' if browser else "Bearer"
            more = {"www-authenticate": asked, "connection": "close"}
            raise RefusalError(401, "wrong_key", message, column="authorization", headers=more)
        return _digest(key).hex()[:8]


def _password(text: str) -> str:
    try:
        return base64.b64decode(text.strip(), validate=True).decode().partition(":")[2]
    except ValueError:  # neither base64 nor UTF-8: no key of ours
        return ""


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _date(text: str, source: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        # What stands there may be the second half of a key; `from None`, since the reason repeats it.
        wanted = "should have an ISO date or nothing behind a blank"
        raise ConfigError(f"{source} {wanted}, received {len(text)} other characters") from None
    if found.tzinfo is None:
        raise ConfigError(f"{source} should have a time zone in its date, received none")
    return found
