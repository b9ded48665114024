"""The server as a process: start, signals, drain, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.listening import cannot_listen
from llm_gateway.server import Server, bind
from tests.server.harness import Client, Message, application, echo, running

ROOT = Path(__file__).resolve().parents[2]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
END_S = 20.0


@dataclass
class Process:
    """A process that runs `tests.server.served`, and the lines it wrote."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    port: int = 0

    async def until(self, event: str) -> str:
        """Read lines until one with this event."""
        assert self.process.stdout is not None
        async with asyncio.timeout(END_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line)
                if event_of(line) == event:
                    return line
        raise AssertionError("".join(self.lines))

    async def end(self) -> int:
        """Wait for the process to end by itself, and return its exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(END_S):
            self.lines += (await self.process.stdout.read()).decode().splitlines(keepends=True)
            return await self.process.wait()

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    def told(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    @property
    def events(self) -> list[str]:
        return [event_of(line) for line in self.lines]


def event_of(line: str) -> str:
    """Return the event of a log line; other output as it is."""
    try:
        return str(json.loads(line)["event"])
    except ValueError:
        return line.strip()


@contextlib.asynccontextmanager
async def process(
    behaviour: str = "well", *, port: int = 0, accept_s: float = 0.0, drain_s: float = 10.0
) -> AsyncIterator[Process]:
    arguments = [str(port), behaviour, str(accept_s), str(drain_s)]
    command = [sys.executable, "-m", "tests.server.served", *arguments]
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    it = Process(started)
    try:
        if behaviour in ("well", "stops-badly") and not port:
            found = re.search(r"127\.0\.0\.1:(\d+)", await it.until("ready"))
            assert found is not None
            it.port = int(found[1])
        yield it
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_0(number: signal.Signals) -> None:
    async with process() as server:
        server.told(number)

        assert await server.end() == 0
        assert server.events == ["ready", "on_stopping", "stopping", "application stopped", "stopped"]


async def load(server: Process, keep_alive: bool, answers: list[int]) -> str:
    """Send requests until the server refuses connections. Returns the error of a failed request, or an empty string."""
    request = GET if keep_alive else GET[:-2] + b"Connection: close\r\n\r\n"
    while True:
        try:
            client = await server.connect()
        except ConnectionRefusedError:
            return ""
        try:
            closing = False
            while not closing:
                response = await client.ask(request)
                answers.append(response.status)
                closing = response.headers.get("connection") == "close"
        except (OSError, asyncio.IncompleteReadError) as error:
            return repr(error)
        finally:
            await client.close()


@pytest.mark.parametrize("accept_s", [0.0, 0.3])
async def test_stopping_under_load_loses_no_request(accept_s: float) -> None:
    answers: list[int] = []
    async with process(accept_s=accept_s) as server:
        clients = [asyncio.create_task(load(server, n % 4 != 0, answers)) for n in range(40)]
        await asyncio.sleep(0.3)
        server.told()
        async with asyncio.timeout(END_S):
            wrong = await asyncio.gather(*clients)

        assert wrong == [""] * 40
        assert set(answers) == {200}
        assert await server.end() == 0


async def test_connections_are_closed_after_each_response_while_still_accepting() -> None:
    async with process(accept_s=1.0) as server:
        kept = await server.connect()
        assert "connection" not in (await kept.ask(GET)).headers
        server.told()
        await server.until("on_stopping")
        new = await server.connect()
        for client in (kept, new):
            assert (await client.ask(GET)).headers["connection"] == "close"
            assert await client.rest() == b""
            await client.close()


async def test_requests_that_do_not_end_in_time_are_cancelled() -> None:
    async with process(drain_s=0.2) as server:
        waiting, streaming, idle = [await server.connect() for _ in range(3)]
        await waiting.send(GET.replace(b"/", b"/hang", 1))
        await streaming.send(GET.replace(b"/", b"/stream", 1))
        await streaming.head()
        server.told()
        response = await waiting.response()

        assert (response.status, response.json["code"]) == (503, "overloaded")
        assert int(response.headers["retry-after"]) > 0
        assert await streaming.rest() == b"5\r\nhello\r\n"
        assert await server.end() == 0
        assert "requests cancelled" in server.events
        assert "application stopped" in server.events
        for client in (waiting, streaming, idle):
            await client.close()


@pytest.mark.parametrize("accept_s", [0.0, 60.0])
async def test_a_second_signal_skips_the_waits(accept_s: float) -> None:
    async with process(accept_s=accept_s, drain_s=60.0) as server:
        client = await server.connect()
        await client.send(GET.replace(b"/", b"/hang", 1))
        await asyncio.sleep(0.1)
        server.told()
        await server.until("stopping")
        server.told(signal.SIGINT)

        assert (await client.response()).status == 503
        assert await server.end() == 0
        assert "application stopped" in server.events
        await client.close()


async def test_a_signal_during_the_start_ends_the_process_with_0() -> None:
    async with process("slow") as server:
        await server.until("starting")
        server.told()

        assert await server.end() == 0
        assert server.events == ["starting", "application stopped", "stopped while starting"]


async def test_a_stop_right_after_the_start_stops_the_application() -> None:
    ended: list[str] = []
    servers: list[Server] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send({"type": "lifespan.startup.complete"})
            servers[0].stop()
            await receive()
        finally:
            ended.append("application")

    servers.append(Server(app, accept_s=0, drain_s=0, on_stopping=lambda: None, log=lambda *_, **__: None))
    with contextlib.closing(bind("127.0.0.1", 0)) as sock:
        with pytest.raises(asyncio.CancelledError):
            await servers[0].start(sock)
        assert ended == ["application"]
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


async def test_a_configuration_error_of_the_start_is_the_only_output() -> None:
    async with process("refuses") as server:
        assert await server.end() == 78
        assert server.lines[-1].startswith("refused: Set LLM_GATEWAY_X.")
        assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize(("behaviour", "reason"), [("fails", "no luck"), ("stops-badly", "cannot stop")])
async def test_a_defect_of_the_lifespan_reaches_the_caller(behaviour: str, reason: str) -> None:
    async with process(behaviour) as server:
        if server.port:
            server.told()

        assert await server.end() == 1
        assert reason in server.lines[-1]


async def test_a_port_in_use_is_reported_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with process(port=port) as server:
            assert await server.end() == 78

    sentence = f"Port {port} on 127.0.0.1 is in use: stop the other process or set LLM_GATEWAY_PORT."
    assert server.lines == [f"refused: {sentence}\n"]


async def test_a_port_taken_during_the_start_is_reported_too() -> None:
    stopped: list[bool] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await application(echo)(scope, receive, send)
        stopped.append(True)

    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = Server(app, accept_s=0, drain_s=0, on_stopping=lambda: None, log=lambda *_, **__: None)
    with sock, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigurationError, match="in use"):
            await server.start(sock)

    assert stopped == [True]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "LLM_GATEWAY_PORT above 1023"), (errno.EADDRNOTAVAIL, "set LLM_GATEWAY_HOST")],
)
def test_errors_of_other_addresses_name_the_setting(number: int, advice: str) -> None:
    assert advice in str(cannot_listen(OSError(number, "no"), "10.1.2.3", 80))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "2001:db8::1"])
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_HOST"):
        bind(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_names_and_addresses_of_this_machine_can_be_bound(host: str) -> None:
    with bind(host, 0) as sock:
        assert sock.getsockname()[1] > 0


async def test_a_socket_binds_to_an_ipv6_address() -> None:
    try:
        sock = bind("::1", 0)
    except ConfigurationError:
        pytest.skip("this machine has no IPv6")
    with sock:
        assert sock.family == socket.AF_INET6


async def test_a_request_that_is_arriving_at_the_stop_is_answered() -> None:
    async with running(accept_s=0, drain_s=5) as server:
        client = await server.connect()
        assert (await client.ask(GET)).status == 200
        await client.send(GET[:10])
        await asyncio.sleep(0.02)
        server.server.stop()
        await asyncio.sleep(0.1)
        response = await client.ask(GET[10:])

        assert (response.status, response.headers["connection"]) == (200, "close")


async def test_connections_above_the_limit_get_a_503() -> None:
    async with running(connections=2) as server:
        first, second = [await server.connect() for _ in range(2)]
        await first.ask(GET)
        await second.ask(GET)
        third = await server.connect()
        refused = await third.response()
        assert (refused.status, refused.headers["connection"], refused.json["code"]) == (503, "close", "overloaded")
        assert await third.rest() == b""
        assert (await first.ask(GET)).status == 200, "those that are there go on"
        await first.close()
        while (await (fourth := await server.connect()).ask(GET)).status == 503:  # until the first one's end is seen
            await fourth.close()
        async with asyncio.timeout(END_S):
            while not any(event == "connections refused: raise the limit of open files" for event, _ in server.events):  # noqa: ASYNC110 - the sweep says it
                await asyncio.sleep(0.01)
