"""A head and its body are one write, and no byte is lost or late."""

from __future__ import annotations

import pytest

from funnelcast.serving.http.joined import JoinedWrites

HEAD, CONTINUE = b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"


class Transport:
    """What was written, a write each."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.mark.parametrize(
    ("writes", "ended", "expected"),
    [
        ([HEAD, b"body"], False, [HEAD + b"body"]),
        ([HEAD, b""], False, [HEAD]),
        ([HEAD], False, []),
        ([HEAD], True, [HEAD]),
        ([CONTINUE], False, [CONTINUE]),
        ([CONTINUE, HEAD, b"body"], False, [CONTINUE, HEAD + b"body"]),
        ([HEAD, b"one", b"two"], False, [HEAD + b"one", b"two"]),
        ([HEAD, b"body", HEAD, HEAD], False, [HEAD + b"body", HEAD + HEAD]),
    ],
)
def test_heads_wait_for_bodies(writes: list[bytes], ended: bool, expected: list[bytes]) -> None:
    transport = Transport()
    joined = JoinedWrites(transport)  # type: ignore[arg-type]
    for data in writes:
        joined.write(data)
    if ended:
        joined.flush()
        joined.flush()
    assert transport.written == expected
    joined.close()
    assert joined.is_closing() and b"".join(transport.written) == b"".join(writes)
