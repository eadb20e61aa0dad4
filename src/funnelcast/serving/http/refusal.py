"""Why a request gets no scores: one status, one code and one line that names row and column."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

__all__ = [
    "RefusalError",
    "excerpt",
    "forget_frames",
    "new_request_id",
    "overloaded",
    "quoted",
    "refusal_body",
    "request_id_of",
    "slow_body",
]

_EXCERPT = 40  # characters of a client's text in a message
_MESSAGE = 400
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_IDS = random.Random()  # an id is no secret, and asking the system for 16 bytes takes as long as parsing a row


class RefusalError(Exception):
    """A request is refused.

    Args:
        status: of HTTP, 4xx or 5xx.
        code: a word for programs.
        message: a line for people.
        row: number of the candidate from 0, or None.
        column: name of the raw column or of the part of the request, or None.
        headers: more headers of the answer.

    Example:
        >>> RefusalError(400, "wrong_type", "should be a number", row=3, column="price").to_json()
        {'code': 'wrong_type', 'message': 'should be a number', 'row': 3, 'column': 'price'}
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        row: int | None = None,
        column: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.code, self.message = status, code, message[:_MESSAGE]
        # A name may hold half a surrogate pair, of which there is no UTF-8.
        self.row, self.column = row, None if column is None else _cut(column).encode(errors="backslashreplace").decode()
        self.headers = dict(headers or {})
        super().__init__(self.message)

    def to_json(self) -> dict[str, object]:
        """Return the `error` of an answer."""
        return {"code": self.code, "message": self.message, "row": self.row, "column": self.column}


def forget_frames(error: BaseException) -> None:
    """Let go of the frames that an exception came through, once it is answered.

    They hold the request's body and rows, and some of them the exception, as a value that is handed on: without this
    all of it stays in memory until a full collection, of which there are few.

    Args:
        error: that nobody raises again.
    """
    error.__traceback__ = None


def refusal_body(error: RefusalError, request_id: str, path: str) -> dict[str, object]:
    """Say why, as JSON data; in V2, `error` is a line of text.

    Args:
        error: the refusal.
        request_id: of the request.
        path: of the request.
    """
    detail = error.to_json()
    if path.startswith("/v2"):
        return {**detail, "error": error.message, "request_id": request_id}
    return {"error": detail, "request_id": request_id}


def request_id_of(given: str) -> str:
    """Return the id that a client gave, or a new one where it is not to be repeated.

    Args:
        given: the header `x-request-id`.
    """
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """Return an id of 32 hexadecimal digits."""
    return f"{_IDS.getrandbits(128):032x}"


def overloaded(reason: str = "all places are taken", **headers: str) -> RefusalError:
    """Make the refusal of what there is no room for.

    Args:
        reason: what there is too little of.
        headers: more headers of the answer.
    """
    message = f"{reason}; try again later"
    return RefusalError(429, "overloaded", message, headers={"retry-after": "1", **headers})


def slow_body(seconds: float, received: int) -> RefusalError:
    """Make the refusal of a body that did not come in time.

    Args:
        seconds: that it had.
        received: bytes of it.
    """
    message = f"the body should be complete within {seconds:g} s, received {received:,} bytes"
    return RefusalError(408, "slow_body", message, column="body", headers={"connection": "close"})


def excerpt(value: object) -> str:
    """Say what was received, without repeating more of it than a glance needs.

    Args:
        value: what JSON held.

    Example:
        >>> excerpt("x" * 100), excerpt(7), excerpt([1, 2]), excerpt(None)
        ("text 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'", 'the number 7', 'a list of 2', 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {quoted(value)}"
    if isinstance(value, int | float):
        return f"the number {_cut(repr(value))}"
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"


def quoted(name: str) -> str:
    """Write a name that a client gave in quotes, on one line and cut to what a glance needs.

    Args:
        name: of a column, a key or a model.

    Example:
        >>> print(quoted("price"), quoted("x" * 100))
        'price' 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'
    """
    return repr(_cut(name))


def _cut(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."
