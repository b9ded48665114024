"""Requests for the management API that a worker forwards, with both servers running."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llm_gateway.forwarding.caller_header import IDENTITY, ForwardedIdentity
from llm_gateway.forwarding.forwarder import ForwardLimits
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext
from tests.forwarding.harness import (
    KEY,
    Send,
    both,
    control,
    never,
    request,
    seen,
    served,
    until,
    worker,
)
from tests.server.harness import Client, Message, Response, answer, read_body

MEGABYTE = 1_000_000


def unavailable(response: Response, *, retry: bool = True) -> dict[str, Any]:
    assert response.status == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-should-retry"] == ("true" if retry else "false")
    problem: dict[str, Any] = response.json
    assert problem["code"] == "management_unavailable"
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


async def test_the_application_sees_the_request_and_its_caller_as_the_gate_found_it(tmp_path: Path) -> None:
    async with both(tmp_path) as running:
        client = await running.connect()
        port = client.writer.get_extra_info("sockname")[1]
        sent = request("POST", "/a%20b?c=%C3%A4&d", b"{}", b"x-request-id: mine", b"x-tags: a=b")
        found = seen(await client.ask(sent))
    assert (found["method"], found["path"], found["raw_path"]) == ("POST", "/a b", b"/a%20b")
    assert (found["query_string"], found["body"], found["scheme"]) == (b"c=%C3%A4&d", b"{}", "http")
    assert tuple(found["client"]) == ("127.0.0.1", port)
    assert tuple(found["server"]) == ("127.0.0.1", running.port)
    assert (found["caller"], found["scopes"]) == ("dév", ["admin", "read"])
    assert (found["client_request_id"], found["echo"]) == ("mine", b"mine")
    assert len(found["request_id"]) == 36
    expected = [(b"host", b"localhost"), (b"x-request-id", b"mine"), (b"x-tags", b"a=b")]
    assert found["headers"] == [*expected, (b"x-service-key", KEY.encode()), (b"content-length", b"2")]
    assert found["context"] == dict(found["headers"])


async def test_a_request_without_key_on_an_open_path_has_no_caller(tmp_path: Path) -> None:
    async with both(tmp_path) as running:
        found = seen(await running.ask("GET", "/", key=None))
    assert (found["caller"], found["scopes"], found["client_request_id"]) == ("", [], None)
    assert found["echo"] == found["request_id"].encode()


async def test_a_request_of_http_1_0_without_host_stays_without_one(tmp_path: Path) -> None:
    async with control(tmp_path), worker(tmp_path) as running:

        async def ungated(scope: Message, receive: Any, send: Any) -> None:  # in dev the gate requires a Host
            context = RequestContext(NOBODY, "id", None, b"id", dict(scope["headers"]), lambda *_, **__: None)
            await running.forwarder({**scope, REQUEST_CONTEXT: context}, receive, send)

        async with served(ungated) as (port, _):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            found = seen(await client.ask(b"GET / HTTP/1.0\r\nx-a: b\r\n\r\n"))
            await client.close()
    assert found["headers"] == [(b"x-a", b"b")]


async def test_headers_for_one_connection_are_not_passed_on(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Send) -> None:
        names = b",".join(name for name, _ in scope["headers"])
        extra = [(b"x-seen", names), (b"keep-alive", b"timeout=5"), (b"Proxy-Authenticate", b"x"), (b"upgrade", b"h2c")]
        await answer(send, b"ok", 200, *extra, (b"trailer", b"x-t"), (b"date", b"never"), (b"x-kept", b"1"))

    fields = (b"connection: x-hop, keep-alive, Host", b"x-hop: 1", b"keep-alive: 1", b"te: trailers", b"trailer: x-t")
    more = (b"proxy-connection: a", b"proxy-authorization: b", b"x-end: 1")
    async with both(tmp_path, app) as running:
        response = await running.ask("GET", "/", b"", *fields, *more)
    assert response.headers["x-seen"] == "host,x-end,x-service-key"
    assert set(response.headers) == {"date", "content-length", "x-seen", "x-kept"}
    assert response.headers["date"] != "never"


FORGED = ForwardedIdentity(name="root", scopes=frozenset({"admin"}), request_id="forged")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", [IDENTITY, IDENTITY.upper(), IDENTITY.title()])
async def test_a_forged_identity_of_a_client_is_never_believed(tmp_path: Path, method: str, name: bytes) -> None:
    field = name + b": " + base64.b64encode(msgspec.json.encode(FORGED))
    async with both(tmp_path) as running:
        for fields in ((field,), (field, field), (field, b"connection: " + name)):
            path = "/" if method == "GET" else "/x"
            found = seen(await running.ask(method, path, b"", *fields))
            assert found["caller"] == ("" if method == "GET" else "dév")
            assert found["request_id"] != "forged"
            assert IDENTITY not in found["context"]
        refused = await running.ask(method, "/x", b"", field, key="reading-key")
        assert refused.status == (200 if method == "GET" else 403)
        assert method == "POST" or seen(refused)["caller"] == "reader"


async def test_the_connection_header_of_a_client_cannot_remove_the_identity(tmp_path: Path) -> None:
    async with both(tmp_path) as running:
        found = seen(await running.ask("GET", "/x", b"", b"connection: " + IDENTITY))
    assert found["caller"] == "dév"


async def test_a_body_of_a_megabyte_streams_both_ways(tmp_path: Path) -> None:
    arrived: list[int] = []

    async def echo(scope: Message, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            arrived.append(len(message["body"]))
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    body = bytes(range(250)) * (MEGABYTE // 250)
    async with both(tmp_path, echo) as running:
        client = await running.connect()
        head = request("POST", "/x", b"", b"transfer-encoding: chunked")
        await client.send(head + b"%x\r\n" % 10 + body[:10] + b"\r\n")
        status, headers = await client.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert await client.reader.readline() == b"a\r\n"
        assert await client.reader.readexactly(12) == body[:10] + b"\r\n", "answered before the body was complete"
        await client.send(b"%x\r\n" % (len(body) - 10) + body[10:] + b"\r\n0\r\n\r\n")
        assert body[10:] == await client._chunks()
        assert sum(arrived) == MEGABYTE
        sized = await running.ask("POST", "/x", body)
        assert sized.body == body
        assert len(arrived) > 10


async def test_a_slow_client_holds_the_response_back(tmp_path: Path) -> None:
    sent = [0]
    piece = b"x" * 16_384

    async def endless(scope: Message, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent[0] < 100 * MEGABYTE:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent[0] += len(piece)

    async with both(tmp_path, endless) as running:
        client = await running.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's
        await client.send(request("GET", "/x"))
        await until(lambda: sent[0] > 0)
        before = -1
        while before != sent[0]:
            before = sent[0]
            await asyncio.sleep(0.3)
        assert sent[0] < 10 * MEGABYTE, "what the kernel and the buffers hold"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        held = sent[0]
        received = 0
        while received < 2 * held:
            received += len(await client.reader.read(65_536))


async def test_a_slow_application_holds_the_body_back(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(scope: Message, receive: Any, send: Send) -> None:
        await go.wait()
        body = await read_body(receive)
        await answer(send, b"%d" % len(body or b""))

    body = b"x" * 8 * MEGABYTE
    async with both(tmp_path, slow) as running:
        client = await running.connect()
        client.writer.write(request("POST", "/x", body))
        unsent = -1
        while unsent != client.writer.transport.get_write_buffer_size():
            unsent = client.writer.transport.get_write_buffer_size()
            await asyncio.sleep(0.3)
        assert unsent > MEGABYTE, "most of the body waits at the client"
        go.set()
        assert (await client.response()).body == b"%d" % len(body)


@pytest.mark.parametrize("started", [False, True])
async def test_a_disconnect_of_the_client_reaches_the_application(tmp_path: Path, *, started: bool) -> None:
    ends: list[str] = []
    running_now = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Send) -> None:
        assert await read_body(receive) is not None
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data", "more_body": True})
        running_now.set()
        ends.append((await receive())["type"])

    async with both(tmp_path, app) as running:
        for method in ("GET", "POST"):
            running_now.clear()
            client = await running.connect()
            await client.send(request(method, "/x", b"{}" if method == "POST" else b""))
            await running_now.wait()
            await client.close()
            await until(lambda: bool(ends))
            assert ends.pop() == "http.disconnect"
        assert "response of the management API broke off" not in running.logged()
        assert [fields for _, fields in running.events if fields.get("level") == "error"] == []


async def test_a_client_that_leaves_while_it_sends_ends_the_request(tmp_path: Path) -> None:
    ends: list[object] = []

    async def app(scope: Message, receive: Any, send: Send) -> None:
        ends.append("begun")
        ends.append(await read_body(receive))

    async with both(tmp_path, app) as running:
        client = await running.connect()
        await client.send(request("POST", "/x", b"", b"content-length: 100") + b"x")
        await until(lambda: ends == ["begun"])
        await client.close()
        await until(lambda: ends == ["begun", None])


async def test_more_than_64_requests_at_once_are_refused_at_once(tmp_path: Path) -> None:
    begun = [0]
    go = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Send) -> None:
        begun[0] += 1
        await go.wait()
        await answer(send, b"ok")

    async with both(tmp_path, app) as running:
        waiting = [asyncio.create_task(running.ask("GET", "/x")) for _ in range(64)]
        await until(lambda: begun[0] == 64)
        refused = await running.ask("GET", "/x")
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert begun[0] == 64
        go.set()
        assert {response.status for response in await asyncio.gather(*waiting)} == {200}
        assert (await running.ask("GET", "/x")).status == 200


async def test_a_request_that_failed_no_longer_counts_for_the_limit(tmp_path: Path) -> None:
    async with worker(tmp_path, ForwardLimits(requests=1)) as running:
        for _ in range(3):
            unavailable(await running.ask("POST", "/x", b"{}"))
        async with control(tmp_path, never):
            client = await running.connect()
            for _ in range(3):
                await client.send(request("GET", "/x"))
                await asyncio.sleep(0.05)
                await client.close()
                client = await running.connect()
        async with control(tmp_path):
            seen(await running.ask("GET", "/x"))


async def test_requests_are_refused_until_control_listens(tmp_path: Path) -> None:
    async with worker(tmp_path) as running:
        assert "Calls are served" in unavailable(await running.ask("GET", "/x"))["detail"]
        unavailable(await running.ask("DELETE", "/x"))
        async with control(tmp_path):
            seen(await running.ask("GET", "/x"))
        unavailable(await running.ask("GET", "/x"))


async def test_errors_have_the_format_of_the_path(tmp_path: Path) -> None:
    async with worker(tmp_path) as running:
        response = await running.ask("GET", "/v1/other")
    assert response.status == 503
    assert response.json["error"]["code"] == "management_unavailable"
    assert response.headers["retry-after"] == "1"


async def test_without_a_heartbeat_no_connection_is_made(tmp_path: Path) -> None:
    calls: list[str] = []

    async def app(scope: Message, receive: Any, send: Send) -> None:
        calls.append(scope["path"])
        await answer(send, b"ok")

    async with both(tmp_path, app) as running:
        running.alive[0] = False
        unavailable(await running.ask("GET", "/x"))
        unavailable(await running.ask("POST", "/x", b"{}"))
        assert calls == []
        running.alive[0] = True
        assert (await running.ask("GET", "/x")).status == 200


async def test_requests_that_wait_fail_when_the_heartbeat_stops(tmp_path: Path) -> None:
    async with both(tmp_path, never) as running:
        waiting = [asyncio.create_task(running.ask(method, "/x")) for method in ("GET", "POST")]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting)
        running.alive[0] = False
        async with asyncio.timeout(1.0):
            get, post = await asyncio.gather(*waiting)
    unavailable(get)
    assert "may have carried out this request" in unavailable(post, retry=False)["detail"]


async def test_an_answer_that_takes_too_long_is_a_503(tmp_path: Path) -> None:
    async with both(tmp_path, never, ForwardLimits(answer_s=0.2)) as running:
        for method, retry in (("GET", True), ("DELETE", False)):
            problem = unavailable(await running.ask(method, "/x"), retry=retry)
            assert problem["detail"].startswith("The gateway's management API did not answer within 0.2 seconds: ")


@pytest.mark.parametrize("fault", ["silent", "broken"])
async def test_a_response_that_breaks_off_closes_the_clients_connection(tmp_path: Path, fault: str) -> None:
    async def app(scope: Message, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        if fault == "silent":
            await asyncio.Event().wait()

    async with both(tmp_path, app, ForwardLimits(silent_s=0.2)) as running:
        client = await running.connect()
        await client.send(request("GET", "/x"))
        assert (await client.head())[0] == 200
        assert await client.rest() == b"data"
        assert "response of the management API broke off" in running.logged()
