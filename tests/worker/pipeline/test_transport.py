"""The upstream HTTP client against a real server on loopback: answers, refusals, and every way to break."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, TypeAlias

import pytest

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.pipeline.transport import MAX_BODY_BYTES, Transport
from tests.worker.pipeline.fakes import provider, snapshot

CALL = UpstreamCall("/chat", b"{}")

Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A server that reads a request whole, remembers it, and then does as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.behaviour: Behaviour = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                self.requests.append((head, await reader.readexactly(length)))
                self.asked.set()
                await self.behaviour(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def provider(self, path: str = "", **changes: Any) -> Provider:
        url = f"http://127.0.0.1:{self.port}"
        return provider(**{"target": Target(f"{url}{path}", f"{url}/models", {"authorization": "Bearer k"}), **changes})


def saying(*parts: bytes, close: bool = False, pause_s: float = 0.0) -> Behaviour:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if close:
            raise ConnectionError

    return behave


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    taken: socket.socket = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
    raise ConnectionError


def answering(status: str, headers: str = "", body: bytes = b"") -> Behaviour:
    return saying(f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(Egress(strict=False), log=lambda *_, **__: None)
    yield made
    await made.close()


async def test_an_answer_returns_its_status_and_body(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = answering("200 OK", "content-type: application/json\r\nretry-after: 5\r\n", b'{"a": 1}')

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(200, b'{"a": 1}')


async def test_the_call_is_sent_with_path_key_and_body(transport: Transport, upstream: Upstream) -> None:
    await transport.post(upstream.provider("/v1"), UpstreamCall("/chat/completions", b'{"model": "m"}'), 5)

    [(head, body)] = upstream.requests
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /v1/chat/completions http/1.1"
    assert {"authorization: bearer k", "user-agent: llm-gateway", "content-length: 14"} <= set(lines)
    assert body == b'{"model": "m"}'


@pytest.mark.parametrize("status", [201, 400, 401, 404, 429, 500, 503, 529])
async def test_every_status_with_its_body(transport: Transport, upstream: Upstream, status: int) -> None:
    upstream.behaviour = answering(f"{status} X", body=b"said")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(status, b"said")


async def test_an_answer_without_a_body_is_an_answer(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = answering("503 X", "retry-after: 3\r\n")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(503, b"", 3.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 20 ", 20.0),
        ("-3", 0.0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00", 0.0),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +999999", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
async def test_retry_after_is_read_as_number_or_date(
    transport: Transport, upstream: Upstream, value: str, seconds: float | None
) -> None:
    upstream.behaviour = answering("429 X", f"Retry-After: {value}\r\n", b"slow")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(429, b"slow", seconds)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000", "+0200"])
async def test_retry_after_a_date(
    transport: Transport, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        at = datetime.now(UTC) + timedelta(seconds=30) + (timedelta(hours=2) if zone == "+0200" else timedelta(0))
        upstream.behaviour = answering("429 X", f"Retry-After: {format_datetime(at)[:-5]}{zone}\r\n")
        exchange = await transport.post(upstream.provider(), CALL, 5)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert exchange.retry_after_s is not None
    assert 27 < exchange.retry_after_s <= 30


async def test_a_connection_is_used_again(transport: Transport, upstream: Upstream) -> None:
    for _ in range(3):
        assert (await transport.post(upstream.provider(), CALL, 5)).status == 200

    assert (len(upstream.requests), upstream.connections) == (3, 1)


async def test_a_body_in_many_parts(transport: Transport, upstream: Upstream) -> None:
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (b"one", b"two" * 100, b"three")]
    upstream.behaviour = saying(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *parts, b"0\r\n\r\n", pause_s=0.005
    )

    assert (await transport.post(upstream.provider(), CALL, 5)).body == b"one" + b"two" * 100 + b"three"


async def test_redirects_are_not_followed(transport: Transport, upstream: Upstream) -> None:
    upstream.behaviour = answering("307 X", f"location: http://127.0.0.1:{upstream.port}/elsewhere\r\n", b"moved")

    assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(307, b"moved")
    assert len(upstream.requests) == 1


async def test_proxies_of_the_environment_are_ignored(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    transport = Transport(Egress(strict=False), log=lambda *_, **__: None)

    assert (await transport.post(upstream.provider(), CALL, 5)).status == 200
    await transport.close()


class TestNeverSent:
    async def test_a_refused_connection_is_not_sent(self, transport: Transport, upstream: Upstream) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        upstream.port = port

        exchange = await transport.post(upstream.provider(), CALL, 5)

        assert (exchange.fault, exchange.status, exchange.body) == ("not_sent", 0, b"")
        assert exchange.message.startswith("No connection: ")
        assert "refused" in exchange.message.lower()

    async def test_a_name_that_does_not_resolve(self, transport: Transport) -> None:
        target = Target("http://does-not-exist.invalid", "", {})

        exchange = await transport.post(provider(target=target), CALL, 5)

        assert exchange.fault == "not_sent"
        assert exchange.message.startswith("No connection: ")

    async def test_a_server_that_speaks_no_tls(self, transport: Transport) -> None:
        async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            exchange = await transport.post(provider(target=Target(f"https://127.0.0.1:{port}", "", {})), CALL, 5)

        assert exchange.fault == "not_sent"

    async def test_a_provider_without_a_target(self, transport: Transport) -> None:
        exchange = await transport.post(provider(target=None), CALL, 5)

        assert exchange == UpstreamResult(fault="not_sent", message="The provider is not ready yet")

    async def test_a_key_that_is_no_header(self, transport: Transport, upstream: Upstream) -> None:
        target = Target(f"http://127.0.0.1:{upstream.port}", "", {"authorization": "Bearer canary\n1"})

        exchange = await transport.post(provider(target=target), CALL, 5)

        assert exchange == UpstreamResult(fault="not_sent", message="The provider's key cannot be sent in a header")
        assert upstream.requests == []


class TestBroken:
    @pytest.mark.parametrize(
        "behaviour",
        [
            reset,
            saying(close=True),
            saying(b"HTTP/1.1 200 O", close=True),
            saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", close=True),
            saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf", close=True),
            saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf", close=True),
            saying(b"\x00\x01\x02 no HTTP at all\r\n\r\n", close=True),
        ],
        ids=["reset", "closed", "half head", "half body", "half chunk", "bad chunk", "no http"],
    )
    async def test_after_it_was_sent(self, transport: Transport, upstream: Upstream, behaviour: Behaviour) -> None:
        upstream.behaviour = behaviour

        exchange = await transport.post(upstream.provider(), CALL, 5)

        assert (exchange.fault, exchange.status, exchange.body) == ("broken", 0, b"")
        assert exchange.message.startswith("The connection broke: ")
        assert len(upstream.requests) == 1, "and it is not sent again"

    @pytest.mark.parametrize(("size", "fault"), [(1000, None), (1001, "broken"), (400_000, "broken")])
    @pytest.mark.parametrize("parts", [1, 2, 3])
    async def test_an_answer_larger_than_the_limit_is_broken(
        self, upstream: Upstream, size: int, fault: str | None, parts: int
    ) -> None:
        transport = Transport(Egress(strict=False), log=lambda *_, **__: None, max_body_bytes=1000)
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode()
        cut = size // parts
        bodies = [b"x" * cut] * (parts - 1) + [b"x" * (size - cut * (parts - 1))]
        upstream.behaviour = saying(head, *bodies, pause_s=0.01 if parts > 1 else 0)

        exchange = await transport.post(upstream.provider(), CALL, 5)
        await transport.close()

        if fault is None:
            assert exchange == UpstreamResult(200, b"x" * 1000)
        else:
            assert exchange == UpstreamResult(fault="broken", message="The answer is larger than 1000 bytes")

    def test_the_limit_is_32_mib(self) -> None:
        assert MAX_BODY_BYTES == 32 * 1024 * 1024


class TestTimeout:
    @pytest.mark.parametrize(
        "behaviour",
        [saying(pause_s=1), saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", pause_s=1)],
        ids=["no answer", "half an answer"],
    )
    async def test_a_stalled_answer_times_out(
        self, transport: Transport, upstream: Upstream, behaviour: Behaviour
    ) -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await behaviour(reader, writer)
            await reader.read()

        upstream.behaviour = stall
        began = time.monotonic()
        exchange = await transport.post(upstream.provider(), CALL, 0.1)

        assert exchange == UpstreamResult(fault="timeout", message="No complete answer in time")
        assert 0.09 < time.monotonic() - began < 0.9

    async def test_a_drip_is_no_answer_in_time(self, transport: Transport, upstream: Upstream) -> None:
        upstream.behaviour = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", *[b"x"] * 100, pause_s=0.02)
        began = time.monotonic()

        assert (await transport.post(upstream.provider(), CALL, 0.15)).fault == "timeout"
        assert time.monotonic() - began < 0.9

    async def test_cancelled_while_it_waits(self, transport: Transport, upstream: Upstream) -> None:
        upstream.behaviour = saying(pause_s=1)
        task = asyncio.create_task(transport.post(upstream.provider(), CALL, 5))
        await upstream.asked.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task


class TestPools:
    async def test_calls_of_many_paths_share_connections(self, transport: Transport, upstream: Upstream) -> None:
        paths = ["/v1/models/a:generate", "/v1/models/x%2Fy%20%C3%A9:generate", "/v1/models/a:generate", "/b?alt=sse"]
        for path in paths:
            await transport.post(upstream.provider("/root"), UpstreamCall(path, b"{}"), 5)

        assert [head.split(b" ")[1].decode() for head, _ in upstream.requests] == ["/root" + path for path in paths]
        assert upstream.connections == 1

    async def test_a_changed_provider_gets_a_new_pool(self, transport: Transport, upstream: Upstream) -> None:
        await transport.post(upstream.provider(), CALL, 5)
        headers = {"authorization": "Bearer new"}
        changed = upstream.provider(updated_at_ms=2, target=Target(f"http://127.0.0.1:{upstream.port}", "", headers))
        await transport.post(changed, CALL, 5)

        assert upstream.connections == 2
        assert [b"Bearer new" in head for head, _ in upstream.requests] == [False, True]

    async def test_every_provider_has_its_own(self, transport: Transport, upstream: Upstream) -> None:
        for name in ("a", "b", "a"):
            await transport.post(upstream.provider(name=name, id=name), CALL, 5)

        assert upstream.connections == 2

    async def test_a_provider_that_is_gone_loses_its_pool(self, transport: Transport, upstream: Upstream) -> None:
        stays, goes = upstream.provider(name="a", id="a"), upstream.provider(name="b", id="b")
        for one in (stays, goes):
            await transport.post(one, CALL, 5)
        transport.keep_only(snapshot([stays]))
        counts = []
        for one in (stays, goes):
            await transport.post(one, CALL, 5)
            counts.append(upstream.connections)

        assert counts == [2, 3]

    async def test_a_closed_transport_may_be_used_again(self, transport: Transport, upstream: Upstream) -> None:
        await transport.post(upstream.provider(), CALL, 5)
        await transport.close()
        await transport.close()

        assert (await transport.post(upstream.provider(), CALL, 5)).status == 200

    @pytest.mark.parametrize("has_client", [True, False])
    async def test_no_more_files_is_no_fault_of_the_provider(
        self, transport: Transport, upstream: Upstream, has_client: bool
    ) -> None:
        if has_client:
            usual, upstream.behaviour = upstream.behaviour, answering("200 OK", "connection: close\r\n")
            assert (await transport.post(upstream.provider(), CALL, 5)).status == 200
            upstream.behaviour = usual
            await asyncio.sleep(0.05)  # both ends of that connection give their file back
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - its own descriptor counts
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            exchange = await transport.post(upstream.provider(), CALL, 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)

        assert (exchange.fault, exchange.is_ours) == ("not_sent", True), exchange.message
        assert (await transport.post(upstream.provider(), CALL, 5)).status == 200, "and it is over with that"

    async def test_a_retry_after_that_is_no_text(self, transport: Transport, upstream: Upstream) -> None:
        upstream.behaviour = saying(b"HTTP/1.1 503 Busy\r\nretry-after: \xe9\r\ncontent-length: 0\r\n\r\n")

        assert await transport.post(upstream.provider(), CALL, 5) == UpstreamResult(503)


async def test_a_stream_that_is_closed_twice_gives_its_connection_back_once(
    transport: Transport, upstream: Upstream
) -> None:
    """Two requests on one connection would take each other's answers."""
    upstream.behaviour = answering("200 OK", "content-type: text/event-stream\r\n", b"data: 1\n\n")
    asked = upstream.provider()
    first = await transport.open(asked, CALL, 5)
    assert not isinstance(first, UpstreamResult)
    while await first.next(5):
        pass
    first.close()
    first.close()

    both = await asyncio.gather(transport.open(asked, CALL, 5), transport.open(asked, CALL, 5))

    assert upstream.connections == 2
    for stream in both:
        assert not isinstance(stream, UpstreamResult)
        stream.close()
