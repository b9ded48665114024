"""Forwarded requests whose worker or control stops in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llm_gateway.forwarding.control_server import ControlServer
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.forwarder import ForwardLimits
from tests.forwarding.harness import Send, control, in_flight, request, until, with_lifespan, worker
from tests.server.harness import Message, answer, read_body


class Held:
    """An application that answers once `go` is set, and keeps how each request ended."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.ends: list[str] = []

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        await read_body(receive)
        self.begun += 1
        waiting = [asyncio.ensure_future(self.go.wait()), asyncio.ensure_future(receive())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self.ends.append("answered" if self.go.is_set() else waiting[1].result()["type"])
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        finally:
            for each in waiting:
                each.cancel()
        await answer(send, b"ok")


@asynccontextmanager
async def stoppable(data_dir: Path, app: Held, drain_s: float) -> AsyncIterator[ControlServer]:
    address = ControlSocket(data_dir)
    server = ControlServer(with_lifespan(app), address, drain_s=drain_s, log=lambda *_, **__: None)
    await server.start()
    serving = asyncio.create_task(server.run())
    yield server
    server.stop()
    await serving
    address.close()


async def test_a_worker_that_stops_ends_the_requests_at_control(tmp_path: Path) -> None:
    held = Held()
    async with control(tmp_path, held):
        async with worker(tmp_path) as running:
            client = await running.connect()
            await client.send(request("GET", "/x"))
            other = await running.connect()
            await other.send(request("POST", "/x", b"{}"))
            await until(lambda: held.begun == 2)
            running.clients.clear()  # they stay open, so that the worker's server cancels the requests
        await until(lambda: held.ends == ["http.disconnect"] * 2)
        for each in (client, other):
            await each.close()


async def test_a_control_that_stops_answers_the_requests_in_flight(tmp_path: Path) -> None:
    held = Held()
    async with stoppable(tmp_path, held, drain_s=5.0) as server, worker(tmp_path) as running:
        waiting = [asyncio.create_task(running.ask(method, "/x")) for method in ("GET", "POST")]
        await until(lambda: held.begun == 2)
        server.stop()
        await asyncio.sleep(0.3)
        assert (await running.ask("GET", "/x")).status == 503, "it no longer listens"
        held.go.set()
        assert [(response.status, response.body) for response in await asyncio.gather(*waiting)] == [(200, b"ok")] * 2
        assert held.ends == ["answered"] * 2


async def test_a_control_that_stops_cancels_requests_after_its_drain_time(tmp_path: Path) -> None:
    held = Held()
    async with stoppable(tmp_path, held, drain_s=0.2) as server, worker(tmp_path) as running:
        waiting = asyncio.create_task(running.ask("GET", "/x"))
        await until(lambda: held.begun == 1)
        server.stop()
        response = await waiting
        assert (response.status, response.json["code"], response.headers["retry-after"]) == (503, "overloaded", "1")
        assert "connection" not in response.headers, "the worker goes on serving this client"
        assert held.ends == ["cancelled"]


async def test_requests_wait_while_another_control_takes_over(tmp_path: Path) -> None:
    limits = ForwardLimits(requests=2, hand_over_s=5.0)
    async with worker(tmp_path, limits) as running:
        async with control(tmp_path):
            assert (await running.ask("GET", "/x")).status == 200, "it leaves a connection that is used again"
        running.handed_over[0] = True
        waiting = [asyncio.create_task(running.ask(*each)) for each in (("GET", "/x"), ("POST", "/x", b"{}"))]
        await until(lambda: in_flight(running) == 2)
        refused = await running.ask("GET", "/x")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1"), "they have a limit"
        async with control(tmp_path):
            running.handed_over[0] = False
            assert [response.status for response in await asyncio.gather(*waiting)] == [200, 200]


async def test_requests_do_not_wait_for_ever_for_another_control(tmp_path: Path) -> None:
    async with worker(tmp_path, ForwardLimits(hand_over_s=0.05)) as running:
        running.handed_over[0] = True
        assert (await running.ask("POST", "/x", b"{}")).status == 503
        assert in_flight(running) == 0
