"""Refusals by the server itself, which no application sees: their request ids, and requests cut short."""

from __future__ import annotations

import pytest

from tests.server.harness import CHUNKED, GET, POST, Gated, refused, running
from tests.waiting import until


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".replace(b"chunked", b"chunked;q=1"),
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_an_unsupported_transfer_coding_is_refused(request_: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(request_)
        await refused(client, 400, "bad_request")


async def test_chunked_is_recognised_in_any_case_and_forgotten_after_its_request() -> None:
    async with running() as server:
        client = await server.connect()
        response = await client.ask(POST + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        assert response.json["body"] == "hi"
        assert (await client.ask(b"GET / HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (b"x-a: 1\r\nno colon\r\n\r\n", "bad_request"),
        (b"x-a: " + b"a" * 40_000, "headers_too_large"),
        (b"Content-Length: 9\r\n\r\nshort", "request_timeout"),
        (b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, "payload_too_large"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_request"),
    ],
)
async def test_a_refusal_echoes_an_id_that_precedes_the_fault(rest: bytes, code: str) -> None:
    async with running(body_s=0.1, body_bytes=1000) as server:
        client = await server.connect()
        response = await client.ask(POST + b"X-Request-Id: mine-1\r\n" + rest)

    assert response.json["code"] == code
    assert response.headers["x-request-id"] == response.json["request_id"] == "mine-1"


@pytest.mark.parametrize("own", [b"", b"a b", b"\xff", b"a" * 129])
async def test_an_invalid_id_is_not_echoed(own: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(POST + b"x-request-id: " + own + b"\r\nno colon\r\n\r\n")
        await refused(client, 400, "bad_request")


async def test_an_id_is_not_echoed_to_the_next_request() -> None:
    async with running() as server:
        client = await server.connect()
        assert (await client.ask(GET[:-2] + b"x-request-id: first\r\n\r\n")).status == 200
        await client.send(b"GARBAGE\r\n\r\n")
        await refused(client, 400, "bad_request")


async def test_a_queued_refusal_keeps_its_id() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(GET + GET[:-2] + b"x-request-id: second\r\nx-a: 1\r\nno colon\r\n\r\n")
        app.gate.set()

        assert (await client.response()).body == b"/"
        assert (await client.response()).headers["x-request-id"] == "second"


@pytest.mark.parametrize("sent", [b"GET / HT", POST + b"Content-Length: 9\r\n\r\nshort", CHUNKED + b"5\r\nsh"])
async def test_a_request_that_is_cut_short_is_refused(sent: bytes) -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(sent)
        client.writer.write_eof()
        await refused(client, 400, "bad_request")
        await until(lambda: not server.server._connections())
    assert set(app.ends) <= {"disconnected"}


async def test_a_request_cut_short_behind_another_gets_no_response() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(GET + POST[:10])
        client.writer.write_eof()

        assert await client.is_reset_or_closed()
