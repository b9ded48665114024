"""A worker that is alone accepts clients that connect at once within a few turns of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
import uvloop

from llm_gateway.listening import bind
from llm_gateway.server import Limits, Server
from llm_gateway.server.eager_listener import MOST_A_TURN
from tests.server.harness import GET, application, echo

CLIENTS = 300


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for client in opened:
        client.close()


def _server() -> Server:
    return Server(
        application(echo),
        accept_s=0,
        drain_s=0,
        on_stopping=lambda: None,
        log=lambda *_, **__: None,
        limits=Limits(connect_s=0),
    )


async def _turns_until_accepted(clients: list[socket.socket]) -> int:
    """Let clients wait for a server that starts. Returns the turns of the loop after which all have a connection."""
    sock = bind("127.0.0.1", 0)
    sock.listen(2 * CLIENTS)
    clients += [socket.create_connection(sock.getsockname()) for _ in range(CLIENTS)]
    server = _server()
    await server.start(sock)
    turns = 0
    while len(server._shared.connections) < CLIENTS and turns < CLIENTS:
        await asyncio.sleep(0)
        turns += 1
    for client in clients:
        client.sendall(GET)
    heads = [await asyncio.to_thread(client.recv, 12) for client in clients]
    assert heads == [b"HTTP/1.1 200"] * CLIENTS
    server.stop(accepting=False)
    await server.run()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", clients[0].getpeername()[1]))
    return turns


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_clients_that_connect_at_once_are_accepted_within_a_few_turns(
    new_loop: type[asyncio.AbstractEventLoop], clients: list[socket.socket]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        turns = runner.run(_turns_until_accepted(clients))

    assert turns <= 2 * CLIENTS / MOST_A_TURN + 5


def test_a_client_that_leaves_before_it_is_accepted_harms_nobody(clients: list[socket.socket]) -> None:
    async def leave_and_ask() -> bytes:
        sock = bind("127.0.0.1", 0)
        sock.listen(2 * CLIENTS)
        for _ in range(5):
            with contextlib.closing(socket.create_connection(sock.getsockname())) as leaving:
                leaving.sendall(b"GET")
        clients.append(socket.create_connection(sock.getsockname()))
        clients[0].sendall(GET)
        server = _server()
        await server.start(sock)
        head = await asyncio.to_thread(clients[0].recv, 12)
        server.stop(accepting=False)
        await server.run()
        return head

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(leave_and_ask()) == b"HTTP/1.1 200"
