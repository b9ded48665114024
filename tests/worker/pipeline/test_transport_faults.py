"""HTTP calls that fail: not sent, broken after they were sent, or without a complete response in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time

import pytest

from llm_gateway.domain.catalog import Target
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.pool_factory import MAX_BODY_BYTES
from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.pipeline.transport import Transport
from tests.worker.pipeline.fakes import provider
from tests.worker.pipeline.provider_server import CALL, Behaviour, Upstream, answering, reset, saying


class TestNeverSent:
    async def test_a_refused_connection_is_not_sent(self, transport: Transport, upstream: Upstream) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        upstream.port = port

        exchange = await transport.post(upstream.provider(), CALL, 5)

        assert (exchange.fault, exchange.status, exchange.body) == ("not_sent", 0, b"")
        assert exchange.message.startswith("No connection: ")
        assert "refused" in exchange.message.lower()

    async def test_a_host_that_does_not_resolve_is_not_sent_to(self, transport: Transport) -> None:
        target = Target("http://does-not-exist.invalid", "", {})

        exchange = await transport.post(provider(target=target), CALL, 5)

        assert exchange.fault == "not_sent"
        assert exchange.message.startswith("No connection: ")

    async def test_a_failed_tls_handshake_means_not_sent(self, transport: Transport) -> None:
        async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            exchange = await transport.post(provider(target=Target(f"https://127.0.0.1:{port}", "", {})), CALL, 5)

        assert exchange.fault == "not_sent"

    async def test_a_provider_without_a_target_is_not_sent_to(self, transport: Transport) -> None:
        exchange = await transport.post(provider(target=None), CALL, 5)

        assert exchange == UpstreamResult(fault="not_sent", message="The provider is not ready yet")

    async def test_a_key_with_a_line_break_is_not_sent_and_not_quoted(
        self, transport: Transport, upstream: Upstream
    ) -> None:
        target = Target(f"http://127.0.0.1:{upstream.port}", "", {"authorization": "Bearer canary\n1"})

        exchange = await transport.post(provider(target=target), CALL, 5)

        assert exchange == UpstreamResult(
            fault="not_sent",
            message="The provider's api_key or base_url holds a character that HTTP headers do not allow: correct it",
        )
        assert upstream.requests == []

    @pytest.mark.parametrize("has_client", [True, False])
    async def test_running_out_of_file_descriptors_is_not_the_providers_fault(
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
    async def test_an_incomplete_or_malformed_response_is_broken_and_not_retried(
        self, transport: Transport, upstream: Upstream, behaviour: Behaviour
    ) -> None:
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
            assert exchange == UpstreamResult(fault="broken", message="The provider's answer is larger than 1000 bytes")

    def test_the_limit_of_a_whole_response_is_32_mib(self) -> None:
        assert MAX_BODY_BYTES == 32 * 1024 * 1024


class TestTimeout:
    @pytest.mark.parametrize(
        "behaviour",
        [saying(pause_s=9), saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", pause_s=9)],
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
        exchange = await transport.post(upstream.provider(), CALL, 0.5)

        assert exchange == UpstreamResult(fault="timeout", message="No complete answer in time")
        assert 0.49 < time.monotonic() - began < 8

    async def test_a_response_that_drips_times_out(self, transport: Transport, upstream: Upstream) -> None:
        upstream.behaviour = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", *[b"x"] * 100, pause_s=0.02)
        began = time.monotonic()

        assert (await transport.post(upstream.provider(), CALL, 0.5)).fault == "timeout"
        assert time.monotonic() - began < 1.9

    async def test_cancellation_while_waiting_is_raised(self, transport: Transport, upstream: Upstream) -> None:
        upstream.behaviour = saying(pause_s=1)
        task = asyncio.create_task(transport.post(upstream.provider(), CALL, 5))
        await upstream.asked.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
