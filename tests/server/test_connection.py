"""Client connections: limits of size and time, and pipelining."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from tests.server.harness import CHUNKED, GET, POST, Gated, Message, answer, read_body, refused, running
from tests.waiting import until

KIB = 1024


# Size


def head_of(size: int) -> bytes:
    """Return a request whose line and headers have this size as the gateway counts it, about the bytes sent."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\n"
    return start + b"x-a: " + b"a" * (size - len(start) - len(b"x-a: \r\n\r\n")) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [32 * KIB, 1000, 7])
async def test_a_head_of_32_kib_is_accepted(step: int) -> None:
    request = head_of(32 * KIB)
    async with running() as server:
        client = await server.connect()
        for at in range(0, len(request), step):
            client.writer.write(request[at : at + step])
            if at % (step * 50) == 0:
                await asyncio.sleep(0)

        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "request_",
    [
        head_of(33 * KIB),
        head_of(300 * KIB)[:-4],  # never ends
        b"GET /" + b"a" * 33 * KIB + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 6000 + b"\r\n",
        b"GET /?" + b"a" * 40 * KIB,
    ],
)
async def test_a_larger_head_is_refused(request_: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(request_)
        await refused(client, 431, "headers_too_large")


async def test_a_large_head_behind_another_request_is_refused() -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(GET + head_of(40 * KIB))

        assert (await client.response()).status == 200
        await refused(client, 431, "headers_too_large")


@pytest.mark.parametrize("framing", [b"Content-Length: 2000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n"])
async def test_a_body_over_the_limit_is_refused(framing: bytes) -> None:
    app = Gated()
    async with running(app, body_bytes=1000) as server:
        client = await server.connect()
        await client.send(POST + framing + b"x" * 2000)
        await refused(client, 413, "payload_too_large")

    assert app.ends == ["disconnected"]


async def test_a_body_over_the_limit_that_was_answered_already_ends_the_connection() -> None:
    async def refuse(scope: Message, receive: Any, send: Any) -> None:
        await answer(send, b"no", 401)

    async with running(refuse, body_bytes=1000) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 5000\r\n\r\n")
        assert (await client.response()).status == 401
        await client.send(b"x" * 2000)

        assert await client.rest() == b""


async def test_a_refusal_reaches_a_client_that_goes_on_sending() -> None:
    async with running(body_bytes=1000) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 2000000\r\n\r\n")
        for _ in range(20):
            client.writer.write(b"x" * 100_000)
            await asyncio.sleep(0)

        await refused(client, 413, "payload_too_large")


async def test_tiny_chunks_are_accepted() -> None:
    async with running() as server:
        client = await server.connect()
        response = await client.ask(CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")

        assert response.json["size"] == 50_000


@pytest.mark.parametrize("junk", [b"0\r\nx-a: ", b"1;x="])
async def test_endless_framing_is_refused(junk: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(CHUNKED + junk + b"a" * 1_000_000)
        await refused(client, 400, "bad_request")


async def test_trailers_are_not_taken_for_headers() -> None:
    seen: list[Any] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await read_body(receive)
        seen.extend(scope["headers"])
        await answer(send, b"")

    async with running(app) as server:
        client = await server.connect()
        await client.ask(CHUNKED + b"1\r\nx\r\n0\r\nx-service-key: evil\r\n\r\n")
        await client.ask(GET)

    assert [name for name, _ in seen] == [b"host", b"transfer-encoding", b"host"]


# Time


async def test_an_incomplete_head_times_out() -> None:
    async with running(head_s=0.2) as server:
        client = await server.connect()
        for byte in b"GET / HTTP":
            await client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        await refused(client, 408, "request_timeout")


async def test_each_head_has_its_own_time_limit() -> None:
    async with running(head_s=0.2) as server:
        client = await server.connect()
        for _ in range(3):
            await client.send(GET[:10])
            await asyncio.sleep(0.12)
            assert (await client.ask(GET[10:])).status == 200
        await client.send(GET[:10])
        await refused(client, 408, "request_timeout")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    async with running(head_s=0.1) as server:
        client = await server.connect()
        await client.send(sent)

        assert await client.is_reset_or_closed()


async def test_each_part_of_a_large_body_has_a_time_limit_of_its_own() -> None:
    app = Gated()
    app.gate.set()
    async with running(app, body_s=0.5, body_part_bytes=1000, sweep_s=0.02) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 20000\r\n\r\n")
        for _ in range(10):  # ten times as fast as it must be
            await asyncio.sleep(0.1)
            await client.send(b"x" * 2000)
        assert (await client.response()).status == 200

        await client.send(POST + b"Content-Length: 20000\r\n\r\n" + b"x" * 5000)
        await asyncio.sleep(0.6)  # time for the next part begins
        await client.send(b"x" * 999)
        await refused(client, 408, "request_timeout")


async def test_an_incomplete_body_times_out() -> None:
    app = Gated()
    async with running(app, body_s=0.2) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 100\r\n\r\nsome")
        await refused(client, 408, "request_timeout")

    assert app.ends == ["disconnected"]


async def test_an_incomplete_body_ends_a_response_that_has_begun() -> None:
    seen: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"early", "more_body": True})
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    async with running(app, body_s=0.2) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 100\r\n\r\nsome")
        await client.head()

        assert await client.rest() == b"5\r\nearly\r\n"
        assert seen == ["http.request", "http.disconnect"]


async def test_an_idle_connection_is_closed() -> None:
    async with running(keep_alive_s=0.1) as server:
        client = await server.connect()
        assert (await client.ask(GET)).status == 200

        assert await client.rest() == b""
        assert not server.server._connections()


async def test_a_slow_response_has_no_time_limit() -> None:
    app = Gated()
    async with running(app, head_s=0.05, body_s=0.05, keep_alive_s=0.05, stalled_s=0.05) as server:
        client = await server.connect()
        await client.send(GET)
        await asyncio.sleep(0.3)
        app.gate.set()

        assert (await client.response()).body == b"/"


async def test_incomplete_requests_do_not_slow_down_others() -> None:
    async with running(head_s=1.0) as server:
        slow = []
        for _ in range(300):
            slow.append(await server.connect())
            await slow[-1].send(b"GET / HTTP/1.1\r\nx-slow: ")  # within a second of connecting
        client = await server.connect()
        for _ in range(100):
            assert (await client.ask(GET)).status == 200
        for half in slow:
            assert (await half.response()).status == 408


# Order


async def test_responses_are_sent_in_the_order_of_the_requests() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(
            b"".join(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" % n for n in range(20))
        )
        await until(lambda: app.started)
        await asyncio.sleep(0.05)  # in which no other must begin
        assert app.started == 1
        app.gate.set()

        assert [(await client.response()).body for _ in range(20)] == [b"/%d" % n for n in range(20)]
        assert (await client.ask(GET)).body == b"/"


async def test_pipelined_requests_that_arrive_in_pieces_are_answered() -> None:
    wire = b"".join(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxx" % n for n in range(6))
    async with running() as server:
        client = await server.connect()
        for at in range(0, len(wire), 13):
            client.writer.write(wire[at : at + 13])
            await asyncio.sleep(0.001)

        assert [(await client.response()).json["path"] for _ in range(6)] == [f"/{n}" for n in range(6)]


async def test_too_many_pipelined_requests_are_refused_after_the_others() -> None:
    async with running(pipelined=3) as server:
        client = await server.connect()
        await client.send(GET * 10)
        for _ in range(4):
            assert (await client.response()).status == 200
        await refused(client, 503, "overloaded")


async def test_a_request_after_connection_close_is_not_answered() -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
        assert (await client.response()).status == 200

        assert await client.is_reset_or_closed()


async def test_queued_requests_are_dropped_when_the_client_disconnects() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(GET * 3)
        await until(lambda: app.started)
        client.writer.transport.abort()
        await until(lambda: not server.server._connections())
        app.gate.set()
        await until(lambda: not server.server._shared.tasks)
        assert server.logged() == []


async def test_a_reset_reaches_the_application_as_a_disconnect() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 9\r\n\r\n")
        await until(lambda: app.started)
        linger = struct.pack("ii", 1, 0)
        client.writer.get_extra_info("socket").setsockopt(1, 13, linger)
        await client.close()
        await until(lambda: app.ends)

    assert app.ends == ["disconnected"]
