"""Forwarded requests of unusual form: answered before they are sent whole, as large as allowed, without a body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_gateway.errors import Invalid
from llm_gateway.forwarding import control_server
from llm_gateway.forwarding.forwarder import ForwardLimits
from llm_gateway.forwarding.headers import request_head
from llm_gateway.gate.request_context import REQUEST_CONTEXT, Caller, RequestContext
from llm_gateway.server import Limits
from tests.forwarding.harness import Send, both, in_flight, request, seen
from tests.server.harness import Message, answer

MEGABYTE = 1_000_000


async def test_an_early_answer_ends_the_upload(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Send) -> None:
        await receive()
        await answer(send, b"enough", 413, (b"connection", b"close"))

    async with both(tmp_path, app) as running:
        client = await running.connect()
        await client.send(request("POST", "/x", b"", b"content-length: 1000000") + b"x" * 1000)
        response = await client.response()
        assert (response.status, response.body, response.headers["connection"]) == (413, b"enough", "close")
        assert in_flight(running) == 0
        seen_after = await running.ask("POST", "/x", b"{}")
        assert seen_after.status == 413


async def test_a_connection_whose_request_was_not_sent_whole_takes_no_other_request(tmp_path: Path) -> None:
    paths: list[str] = []

    async def app(scope: Message, receive: Any, send: Send) -> None:
        paths.append(scope["path"])
        await answer(send, b"early")

    async with both(tmp_path, app) as running:
        for _ in range(3):
            client = await running.connect()
            response = await client.ask(request("POST", "/post", b"", b"content-length: 1000") + b"x")
            assert (response.status, response.body) == (200, b"early")
            assert (await running.ask("GET", "/get")).body == b"early"
    assert paths == ["/post", "/get"] * 3


async def test_a_head_as_large_as_the_worker_accepts_reaches_the_application(tmp_path: Path) -> None:
    value = b"v" * (Limits().head_bytes - 200)
    async with both(tmp_path) as running:
        found = seen(await running.ask("GET", "/x", b"", b"x-large: " + value))
        assert found["context"][b"x-large"] == value
        assert (await running.ask("GET", "/x", b"", b"x-large: " + value + b"v" * 200)).status == 431


def test_the_limits_of_the_worker_are_reached_before_those_of_control() -> None:
    workers, controls = Limits(), control_server.LIMITS
    for name in ("body_s", "stalled_s", "head_bytes"):
        assert getattr(controls, name) > 2 * getattr(workers, name)
    for name in ("head_s", "body_bytes", "connections"):
        assert getattr(controls, name) >= getattr(workers, name)
    assert controls.keep_alive_s > 2 * ForwardLimits().idle_s


async def test_methods_without_a_body_are_forwarded_without_one(tmp_path: Path) -> None:
    async with both(tmp_path) as running:
        for method in ("GET", "DELETE", "OPTIONS"):
            found = seen(await running.ask(method, "/x", b"{no json"))
            assert found["body"] == b""
            assert b"content-length" not in found["context"]


async def test_a_request_after_expect_100_continue_is_forwarded(tmp_path: Path) -> None:
    async with both(tmp_path) as running:
        client = await running.connect()
        await client.send(request("POST", "/x", b"", b"content-length: 2", b"expect: 100-continue"))
        assert (await client.response()).status == 100
        found = seen(await client.ask(b"{}"))
    assert found["body"] == b"{}"
    assert b"expect" not in found["context"]


@pytest.mark.parametrize("broken", [b"a\r\nx: y", b"a\ny", b"a\rb", b"a\0b"])
def test_a_line_break_is_never_forwarded(broken: bytes) -> None:
    """It would begin another header, such as the caller's identity, or another request."""
    caller = Caller("ops", frozenset({"read"}))
    context = RequestContext(caller, "1", None, b"1", {}, lambda *_, **__: None)
    plain: dict[str, Any] = {
        "method": "GET",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"a", b"b")],
        REQUEST_CONTEXT: context,
    }
    assert request_head(plain).startswith(b"GET / HTTP/1.1\r\na: b\r\n")
    for field, value in (
        ("raw_path", b"/" + broken),
        ("query_string", broken),
        ("headers", [(b"a", broken)]),
        ("headers", [(broken, b"a")]),
        ("method", broken.decode()),
    ):
        with pytest.raises(Invalid):
            request_head({**plain, field: value})
