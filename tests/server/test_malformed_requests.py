"""Malformed and unusual requests: which are refused, and how the others are read."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.harness import CHUNKED, GET, POST, Gated, echo, refused, running
from tests.waiting import until


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx-a: 1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: a\r\n\r\n".replace(b"//[", b"http://["),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, identity\r\n\r\nabc",
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"OPTIONS / RTSP/1.0\r\nHost: a\r\n\r\n",
        b"GET / RTSP/1.0\r\nHost: a\r\n\r\n",
        b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n",
        CHUNKED + b"zz\r\n",
    ],
)
async def test_malformed_requests_are_refused(request_: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        await client.send(request_)
        await refused(client, 400, "bad_request")

        assert server.logged() == []


async def test_another_protocol_is_refused_however_its_request_line_arrives() -> None:
    async with running() as server:
        client = await server.connect()
        for byte in b"\r\nOPTIONS / RTSP/1.0\r\nHost: a\r\n\r\n":
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await refused(client, 400, "bad_request")


async def test_garbage_is_refused_after_earlier_requests_are_answered() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(GET + GET + b"GARBAGE\r\n\r\n" + GET)
        await until(lambda: app.started)
        app.gate.set()
        for _ in range(2):
            assert (await client.response()).body == b"/"
        await refused(client, 400, "bad_request")


async def test_a_queued_request_with_a_malformed_body_is_refused_in_its_turn() -> None:
    app = Gated()
    async with running(app) as server:
        client = await server.connect()
        await client.send(GET + CHUNKED + b"zz\r\n")
        await until(lambda: app.started)
        app.gate.set()
        assert (await client.response()).body == b"/"
        await refused(client, 400, "bad_request")

    assert app.started == 1


@pytest.mark.parametrize("target", [b"http://host/a?b", b"/a?b#c"])
async def test_absolute_targets_and_fragments_are_parsed(target: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        seen = (await client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")).json

        assert (seen["path"], seen["query"]) == ("/a", "b")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_an_upgrade_is_ignored_and_its_body_is_kept(protocol: bytes) -> None:
    head = POST + b"Connection: keep-alive, Upgrade\r\nUpgrade: " + protocol + b"\r\nContent-Length: 4\r\n\r\n"
    async with running(echo) as server:
        client = await server.connect()
        first = await client.ask(head + b"body" + GET)

        assert first.json["body"] == "body"
        assert "upgrade" not in first.json["headers"]
        assert (await client.response()).status == 200
        await client.send(head + b"bo")
        await asyncio.sleep(0.02)
        assert (await client.ask(b"dy")).json["body"] == "body"
