"""Clients that come together do not wait for a turn of the loop each."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import uvloop

from funnelcast.serving.http.run import _listening
from funnelcast.serving.http.settings import Settings

CLIENTS = 40


class _Counted(asyncio.Protocol):
    number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).number += 1


async def turns(sockets: list[socket.socket]) -> int:
    """Turns of the loop until all clients are connected, whose connections the system took before the first."""
    loop, count = asyncio.get_running_loop(), 0
    servers = [await loop.create_server(_Counted, sock=one, backlog=CLIENTS) for one in sockets]
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(sockets[0].getsockname()))
        until, _Counted.number = loop.time() + 10, 0
        while _Counted.number < CLIENTS and loop.time() < until:
            count += 1
            await asyncio.sleep(0)
        assert _Counted.number == CLIENTS
    for server in servers:
        server.close()
    return count


def test_a_turn_takes_two_connections() -> None:
    with _listening(Settings.model_validate({"server": {"port": 0}})) as sockets:
        several = uvloop.run(turns(sockets))
    with _listening(Settings.model_validate({"server": {"port": 0}})) as sockets:
        one = uvloop.run(turns(sockets[:1]))
    assert several <= CLIENTS / 2 + 1 < CLIENTS - 5 < one
