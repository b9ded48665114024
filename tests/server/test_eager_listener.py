"""A worker that is alone accepts clients that connect at once in few turns of the loop, and its stop loses none."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import uvloop

from llm_gateway.listening import bind
from llm_gateway.server import Limits, Server
from llm_gateway.server.eager_listener import MOST_A_TURN
from llm_gateway.server.opening import Opening
from llm_gateway.server.shared_state import SharedState
from tests.server.harness import GET, Handler, Message, answer, application, echo
from tests.waiting import until

CLIENTS = 300
WAIT_S = 10.0


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for client in opened:
        client.close()


def server_of(handler: Handler = echo) -> Server:
    return Server(
        application(handler),
        accept_s=0,
        drain_s=5,
        on_stopping=lambda: None,
        log=lambda *_, **__: None,
        limits=Limits(connect_s=0),
    )


def connect(address: tuple[str, int], count: int = 1) -> list[socket.socket]:
    return [socket.create_connection(address, timeout=WAIT_S) for _ in range(count)]


async def _accepted_by_turn(clients: list[socket.socket]) -> list[int]:
    """Let clients wait for a server that starts. Returns how many have a connection after each turn of the loop."""
    sock = bind("127.0.0.1", 0)
    sock.listen(2 * CLIENTS)
    clients += connect(sock.getsockname(), CLIENTS)
    server = server_of()
    await server.start(sock)
    found = [0]
    while found[-1] < CLIENTS and len(found) < CLIENTS:
        await asyncio.sleep(0)
        found.append(len(server._shared.connections))
    for client in clients:
        client.sendall(GET)
    heads = [await asyncio.to_thread(client.recv, 12) for client in clients]
    assert heads == [b"HTTP/1.1 200"] * CLIENTS
    server.stop(accepting=False)
    await server.run()
    with pytest.raises(ConnectionRefusedError):
        connect(clients[0].getpeername())
    return found


def test_clients_that_connect_at_once_are_accepted_within_a_few_turns(clients: list[socket.socket]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        accepted = runner.run(_accepted_by_turn(clients))

    assert len(accepted) <= 2 * CLIENTS / MOST_A_TURN + 5
    most = max(after - before for before, after in pairwise(accepted))
    assert 1 < most <= MOST_A_TURN + 1, "a turn stays short"


@pytest.mark.parametrize("turns", range(6))
def test_a_request_over_a_connection_that_came_just_before_the_stop_is_answered(
    turns: int, clients: list[socket.socket]
) -> None:
    """A client that connects later is accepted by the successor, which has the same socket."""

    async def slow(_scope: Message, _receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, b"done")

    async def retire_and_connect() -> list[bytes]:
        sock = bind("127.0.0.1", 0)
        successors = sock.dup()
        old, new = server_of(slow), server_of(slow)
        await old.start(sock)
        old.retire()
        stopping = asyncio.create_task(old.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        clients.extend(connect(successors.getsockname(), 3))
        for client in clients:
            client.sendall(GET)
        await stopping
        await new.start(successors)
        heads = [await asyncio.to_thread(client.recv, 12) for client in clients]
        new.stop(accepting=False)
        await new.run()
        return heads

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(retire_and_connect()) == [b"HTTP/1.1 200"] * 3


async def test_a_socket_that_becomes_no_connection_is_closed_and_not_counted() -> None:
    def fail() -> asyncio.Protocol:
        raise OSError("no protocol")

    shared = SharedState(Limits(), lambda *_, **__: None)
    ours, theirs = socket.socketpair()
    with theirs:
        Opening(fail, shared).open(ours)
        assert shared.open_connections() == 1
        await until(lambda: shared.open_connections() == 0)
        assert ours.fileno() == -1


async def test_that_the_system_accepts_nothing_is_told_once_a_second() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    opening = Opening(asyncio.Protocol, SharedState(Limits(), lambda event, **fields: events.append((event, fields))))
    for _ in range(3):
        opening.tell(OSError(24, "Too many open files"))
    assert events == [("connections cannot be accepted", {"level": "error", "problem": "Too many open files"})]


def test_a_client_that_leaves_before_it_is_accepted_harms_nobody(clients: list[socket.socket]) -> None:
    async def leave_and_ask() -> bytes:
        sock = bind("127.0.0.1", 0)
        sock.listen(2 * CLIENTS)
        for leaving in connect(sock.getsockname(), 5):
            leaving.sendall(b"GET")
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaving.close()  # with a reset
        clients.extend(connect(sock.getsockname()))
        clients[0].sendall(GET)
        server = server_of()
        await server.start(sock)
        head = await asyncio.to_thread(clients[0].recv, 12)
        server.stop(accepting=False)
        await server.run()
        return head

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(leave_and_ask()) == b"HTTP/1.1 200"
