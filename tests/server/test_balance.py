"""Servers that accept on one socket: each has about as many connections as the others, and none waits in vain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from llm_gateway.host_memory import HostMemory, create, release_place
from llm_gateway.host_memory.workers import CONNECTIONS, IS_ACCEPTING, WorkerPlace
from llm_gateway.listening import bind
from llm_gateway.server import Limits, Server
from llm_gateway.server.balanced_listener import LONGEST_PAUSE_S, BalancedListener
from llm_gateway.server.shared_state import SharedState
from tests.server.harness import GET, Client, Message, answer, application
from tests.waiting import until

WORKERS = 4


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


async def answer_number(number: int, scope: Message, receive: Any, send: Any) -> None:
    """Answer with the number of the worker."""
    await answer(send, b"%d" % number)


class Host:
    """Servers on copies of one socket, each with a place in one memory."""

    def __init__(self, descriptor: int) -> None:
        self.memory = HostMemory(descriptor)
        self.sock = bind("127.0.0.1", 0)
        self.servers: list[Server] = []
        self.places: list[WorkerPlace] = []
        self.clients: list[Client] = []

    async def start(self, number: int) -> Server:
        place = WorkerPlace(self.memory, number)
        server = Server(
            application(partial(answer_number, number)),
            accept_s=0,
            drain_s=0,
            on_stopping=lambda: None,
            log=lambda *_, **__: None,
            limits=Limits(connect_s=0),
            place=place,
        )
        await server.start(self.sock.dup())
        self.servers.append(server)
        self.places.append(place)
        return server

    async def connect(self, count: int) -> None:
        """Open connections at once, and send a request over each."""
        host, port = self.sock.getsockname()
        opened = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(count)))
        clients = [Client(*streams) for streams in opened]
        self.clients += clients
        answers = await asyncio.gather(*(client.ask(GET) for client in clients))
        assert [response.status for response in answers] == [200] * count

    def counts(self) -> list[int]:
        return [len(server._shared.connections) for server in self.servers]

    async def stop(self, server: Server) -> None:
        server.stop(accepting=False)
        await server.run()


@pytest.fixture
async def host(descriptor: int) -> AsyncIterator[Host]:
    made = Host(descriptor)
    for number in range(1, WORKERS + 1):
        await made.start(number)
    yield made
    for client in made.clients:
        client.writer.close()
    for server in made.servers:
        with contextlib.suppress(Exception):
            await made.stop(server)
    made.sock.close()


@pytest.mark.parametrize("at_once", [64, 1, 7])
async def test_64_connections_over_4_workers_none_has_over_1_5_times_the_mean(host: Host, at_once: int) -> None:
    while len(host.clients) < 64:
        await host.connect(min(at_once, 64 - len(host.clients)))
    assert sum(host.counts()) == 64
    assert max(host.counts()) <= 1.5 * 64 / WORKERS


async def test_closed_connections_are_replaced_where_they_are_missing(host: Host) -> None:
    await host.connect(64)
    for client in [c for c in host.clients if (await c.ask(GET)).body == b"1"]:
        client.writer.close()
    await until(lambda: host.counts()[0] == 0)
    assert host.places[1].accepting() == (WORKERS, sum(host.counts()))
    await host.connect(64 - sum(host.counts()))
    assert max(host.counts()) <= 1.5 * 64 / WORKERS


async def test_connections_are_accepted_though_the_others_do_not_run_or_are_dead(host: Host, descriptor: int) -> None:
    for number in (11, 12):
        WorkerPlace(host.memory, number).hold(IS_ACCEPTING, 1)  # never accepts
    dead = WorkerPlace(host.memory, 13)
    dead.hold(IS_ACCEPTING, 1)
    dead.hold(CONNECTIONS, 10_000)
    release_place(descriptor, 13)
    started = time.monotonic()
    await host.connect(8)
    for _ in range(4):
        await host.connect(1)
    assert time.monotonic() - started < 12 * LONGEST_PAUSE_S + 1.0
    assert sum(host.counts()) == 12
    assert host.places[0].accepting()[1] == 12


async def test_a_worker_that_stops_leaves_its_share_to_the_others(host: Host) -> None:
    leaving = host.servers.pop()
    leaving.retire()
    await leaving.run()
    await host.connect(30)
    assert sum(host.counts()) == 30
    assert host.places[0].accepting() == (WORKERS - 1, 30)
    assert max(host.counts()) <= 1.5 * 10


async def test_a_worker_that_is_alone_accepts_everything_at_once(descriptor: int) -> None:
    host = Host(descriptor)
    server = await host.start(1)
    try:
        await host.connect(20)
        assert host.places[0].accepting() == (1, 20)
    finally:
        for client in host.clients:
            client.writer.close()
        await host.stop(server)
        host.sock.close()


async def test_an_accept_that_fails_is_logged_and_tried_again(descriptor: int) -> None:
    """A socket that does not listen stands for a lack of descriptors."""
    events: list[tuple[str, dict[str, Any]]] = []
    shared = SharedState(
        Limits(), lambda event, **fields: events.append((event, fields)), WorkerPlace(HostMemory(descriptor), 1)
    )
    listener = BalancedListener(socket.socket(), asyncio.Protocol, shared)
    await until(lambda: events)
    assert events == [("connections cannot be accepted", {"level": "error", "problem": "Invalid argument"})]
    listener.close()
