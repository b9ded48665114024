"""Responses on the wire, and the ASGI messages that the application receives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.server.harness import Client, Message, answer, read_body, running
from tests.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def saying(*messages: Message) -> Any:
    """Return an application that reads the request, then sends these messages."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await read_body(receive)
        for message in messages:
            await send(message)

    return app


async def test_a_connection_is_kept_alive() -> None:
    async with running() as server:
        client = await server.connect()
        first = await client.ask(b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        second = await client.ask(GET)

    assert first.json == {
        "method": "POST",
        "path": "/a b",
        "http_version": "1.1",
        "query": "c=d",
        "size": 3,
        "body": "abc",
        "headers": {"host": "x", "content-length": "3"},
    }
    assert second.status == 200
    assert "date" in second.headers
    assert "connection" not in second.headers


async def test_a_body_without_length_is_chunked() -> None:
    async with running(saying(START, body(b"one", more=True), body(b"", more=True), body(b"two"))) as server:
        client = await server.connect()
        for _ in range(2):
            response = await client.ask(GET)
            assert response.headers["transfer-encoding"] == "chunked"
            assert response.body == b"onetwo"


async def test_an_http_1_0_client_gets_no_chunks() -> None:
    async with running(saying(START, body(b"one", more=True), body(b"two"))) as server:
        client = await server.connect()
        response = await client.ask(b"GET / HTTP/1.0\r\n\r\n")

    assert "transfer-encoding" not in response.headers
    assert response.headers["connection"] == "close"
    assert response.body == b"onetwo"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_that_must_not_have_a_body_have_none(method: str, status: int) -> None:
    messages = (start((b"content-length", b"5"), status=status), body(b"hello"))
    async with running(saying(*messages)) as server:
        client = await server.connect()
        request = f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for _ in range(2):
            response = await client.ask(request, method=method)
            assert response.status == status
            assert response.body == b""


async def test_the_head_is_sent_with_an_empty_piece_of_body() -> None:
    release = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"", more=True))
        await release.wait()
        await send(body(b"late"))

    async with running(app) as server:
        client = await server.connect()
        await client.send(GET)
        status, _ = await client.head()
        release.set()

        assert status == 200
        assert await client._chunks() == b"late"


@pytest.mark.parametrize(
    "request_head", [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"]
)
async def test_a_connection_is_closed_if_the_client_requests_it(request_head: bytes) -> None:
    async with running() as server:
        client = await server.connect()
        response = await client.ask(request_head)

        assert response.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_a_connection_is_closed_if_the_application_requests_it() -> None:
    async with running(saying(start((b"Connection", b"Close"), (b"Content-Length", b"2")), body(b"hi"))) as server:
        client = await server.connect()
        response = await client.ask(GET)

        assert response.headers["connection"] == "close"
        assert response.body == b"hi"
        assert await client.rest() == b""


async def test_100_continue_is_sent_when_the_application_reads() -> None:
    async with running() as server:
        client = await server.connect()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        assert (await client.ask(head)).status == 100
        assert (await client.ask(b"hi")).json["size"] == 2
        assert (await client.ask(GET)).status == 200


async def test_100_continue_is_not_sent_to_http_1_0_clients() -> None:
    async with running() as server:
        client = await server.connect()
        head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"

        assert (await client.ask(head)).json["size"] == 2


async def test_a_response_before_100_continue_ends_the_connection() -> None:
    async def refuse(scope: Message, receive: Any, send: Any) -> None:
        await answer(send, b"no", 401)

    async with running(refuse) as server:
        client = await server.connect()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 26\r\n\r\n"
        response = await client.ask(head)
        await client.send(GET)

        assert response.status == 401
        assert response.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_an_unread_body_is_skipped() -> None:
    async def refuse(scope: Message, receive: Any, send: Any) -> None:
        await answer(send, b"no", 401)

    async with running(refuse) as server:
        client = await server.connect()
        response = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"x" * 100)
        assert response.status == 401

        assert (await client.ask(b"x" * 299_900 + GET)).status == 401


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [body(b"no start")],
        [START],
        [START, START],
        [start((b"x-a", b"1\r\nset-cookie: evil=1")), body(b"")],
        [start((b"x-a\n", b"1")), body(b"")],
        [start((b"x-a", b"1\0")), body(b"")],
        [start((b"content-length", b"many")), body(b"")],
        [start((b"content-length", b"1")), body(b"too long")],
        [start((b"content-length", b"9")), body(b"short")],
    ],
)
async def test_an_application_that_violates_asgi_or_http_is_a_500(messages: list[Message]) -> None:
    async with running(saying(*messages)) as server:
        client = await server.connect()
        response = await client.ask(GET)

        assert response.status == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-should-retry"] == "false"
        assert response.json["code"] == "internal_error"
        assert response.json["request_id"] == response.headers["x-request-id"]
        assert "evil" not in str(response)
        assert len(server.logged()) == 1
        assert await client.rest() == b""


async def test_a_500_echoes_the_clients_request_id() -> None:
    async with running(saying()) as server:
        client = await server.connect()
        response = await client.ask(GET[:-2] + b"x-request-id: mine\r\n\r\n")

        assert (response.status, response.headers["x-request-id"]) == (500, "mine")


async def test_a_failed_head_request_has_no_body() -> None:
    async with running(saying()) as server:
        client = await server.connect()
        response = await client.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", method="HEAD")

        assert response.status == 500
        assert await client.rest() == b""


async def test_a_response_that_fails_midway_is_cut_off() -> None:
    async with running(saying(START, body(b"half", more=True), START)) as server:
        client = await server.connect()
        await client.send(GET)
        await client.head()

        assert await client.rest() == b"4\r\nhalf\r\n"
        assert server.logged() == ["request failed"]


@pytest.mark.parametrize(("messages", "event"), [((), "response incomplete"), ((START, START), "request failed")])
async def test_a_query_behind_an_encoded_question_mark_is_not_logged(messages: tuple[Any, ...], event: str) -> None:
    async with running(saying(*messages)) as server:
        client = await server.connect()
        await client.send(b"GET /path%3Fkey=sekret HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()

        [logged] = [fields for _, fields in server.events if fields.get("level") == "error"]
        assert logged["path"] == "/path"
        assert server.logged() == [event]


async def test_a_message_after_the_end_is_logged_and_not_sent() -> None:
    async with running(saying(start((b"content-length", b"2")), body(b"ok"), body(b"more"))) as server:
        client = await server.connect()

        assert (await client.ask(GET)).body == b"ok"
        assert (await client.ask(GET)).body == b"ok"
        assert server.logged() == ["request failed"] * 2


async def test_the_application_receives_a_disconnect() -> None:
    seen: list[str] = []
    listens: list[str] = []
    done = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        assert await read_body(receive) == b""
        listens.append(scope["path"])
        both = await asyncio.gather(receive(), receive())
        seen.extend(message["type"] for message in both)
        await send(START)
        await send(body(b"nobody listens"))
        done.set()

    async with running(app) as server:
        client = await server.connect()
        await client.send(GET)
        await until(lambda: listens)
        await client.close()
        await asyncio.wait_for(done.wait(), 5)

        assert seen == ["http.disconnect"] * 2
        assert server.logged() == []


async def test_the_application_receives_a_disconnect_after_its_response() -> None:
    seen: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await read_body(receive)
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await answer(send, b"")
        seen.append((await waiting)["type"])
        seen.append((await receive())["type"])

    async with running(app) as server:
        client = await server.connect()
        await client.ask(GET)
        await client.ask(GET)

    assert seen == ["http.disconnect"] * 4


async def flood(client: Client, pieces: int) -> int:
    """Send body data until the server stops reading; return the number of bytes sent."""
    sent = 0
    for _ in range(pieces):
        client.writer.write(b"x" * 65536)
        try:
            await asyncio.wait_for(client.writer.drain(), 0.3)
        except TimeoutError:
            break
        sent += 65536
    return sent


async def test_reading_pauses_while_the_application_does_not_read() -> None:
    release = asyncio.Event()
    sizes: list[int | None] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await release.wait()
        whole = await read_body(receive)
        sizes.append(len(whole) if whole is not None else None)
        await answer(send, b"ok")

    size = 8 * 1024 * 1024
    async with running(app, body_s=0.5) as server:
        client = await server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        sent = await flood(client, size // 65536)
        [connection] = server.server._connections()
        assert connection.active is not None
        held = connection.active.buffered
        assert held < 1_000_000
        await asyncio.sleep(0.7)  # longer than `body_s`, but it is the server that does not read
        release.set()
        client.writer.write(b"x" * max(0, size - sent - 65536))

        assert (await client.response()).body == b"ok"
        assert sizes == [size]


async def test_the_application_waits_for_a_slow_client() -> None:
    written = 0
    done = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        nonlocal written
        await send(START)
        for _ in range(400):
            await send(body(b"x" * 65536, more=True))
            written += 1
        await send(body(b""))
        done.set()

    async with running(app) as server:
        client = await server.connect()
        await client.send(GET)
        await asyncio.sleep(0.2)
        assert written < 300
        response = await client.response()
        await done.wait()

    assert len(response.body) == 400 * 65536


async def test_a_client_that_stops_reading_is_disconnected() -> None:
    cut = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(400):
            await send(body(b"x" * 65536, more=True))
        assert (await receive())["type"] == "http.disconnect"
        cut.set()

    async with running(app, stalled_s=0.1) as server:
        client = await server.connect()
        await client.send(GET)

        await asyncio.wait_for(cut.wait(), 5)


async def test_a_client_that_reads_slowly_is_not_disconnected() -> None:
    """The limit is on time without any progress, not on the whole response."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"x" * 60_000_000))

    async with running(app, stalled_s=0.3, sweep_s=0.05) as server:
        client = await server.connect()
        await client.send(GET)
        began, got = time.monotonic(), 0
        while got < 60_000_000:
            data = await client.reader.read(1_000_000)
            assert data, f"cut off after {got} bytes"
            got += len(data)
            await asyncio.sleep(len(data) / 40_000_000)

    assert time.monotonic() - began > 3 * 0.3
