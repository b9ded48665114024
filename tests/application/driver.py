"""HTTP client that calls an ASGI app directly, without a server, for the API's tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pytest
from starlette.types import ASGIApp, Message

DEV_KEY = "dev-gateway-key"
READS_ONLY = pytest.mark.asyncio(loop_scope="module")
"""Marks a test that changes nothing, so that it can use the gateway that its module shares (`reader`)."""

PATH_CHARACTERS = "/%:@!$&'()*+,;=~"
"""Characters that a client does not encode in a path."""

Headers = Iterable[tuple[str, str | bytes]]


def ignore(*_: object, **__: object) -> None:
    """Drop a log event."""


@dataclass(frozen=True)
class Response:
    """A whole response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Client:
    """A client of `app` with the service key `key` (None: without one)."""

    def __init__(self, app: ASGIApp, key: str | None = DEV_KEY) -> None:
        self.app = app
        self.key = key

    async def call(
        self,
        method: str,
        path: str,
        body: object = b"",
        *,
        headers: Mapping[str, str | bytes] | Headers = (),
        host: str | None = "localhost:8200",
    ) -> Response:
        """Send one request. `body` is bytes, a list of pieces of bytes, or an object to send as JSON."""
        chunks = body if isinstance(body, list) and all(isinstance(piece, bytes) for piece in body) and body else [body]
        pieces = [piece if isinstance(piece, bytes) else json.dumps(piece).encode() for piece in chunks]
        messages: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, start=1)
        ]
        given = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in given}
        if any(pieces) and not names & {"content-length", "transfer-encoding"}:
            is_one = len(pieces) == 1
            given.append(("content-length", str(len(pieces[0]))) if is_one else ("transfer-encoding", "chunked"))
        if self.key is not None:
            given.append(("x-service-key", self.key))
        if host is not None:
            given.append(("host", host))
        return await exchange(self.app, method, path, given, messages)


async def exchange(
    app: ASGIApp, method: str, path: str, headers: Headers, messages: list[Message], address: str = "127.0.0.1"
) -> Response:
    """Make one request of ASGI messages; after the last message, the client sends nothing more."""
    path, _, query = path.partition("?")
    sent: list[Message] = []
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": quote(path, safe=PATH_CHARACTERS).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers
        ],
        "client": (address, 50000),
        "server": ("127.0.0.1", 8200),
        "state": {},
    }

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Response(0, {}, b"")
    start, *rest = sent
    names = [name.decode().lower() for name, _ in start["headers"]]
    once = [name for name in names if name != "set-cookie"]
    assert len(set(once)) == len(once), f"a header came twice: {names}"
    found: dict[str, str] = {}
    for name, (_, value) in zip(names, start["headers"], strict=True):
        found[name] = "\n".join(filter(None, (found.get(name), value.decode("latin-1"))))
    return Response(start["status"], found, b"".join(message.get("body", b"") for message in rest))


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start the app, and stop it at the end (ASGI lifespan)."""
    started, stopping = asyncio.Event(), asyncio.Event()
    waiting: list[Message] = [{"type": "lifespan.startup"}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            started.set()

    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    task.add_done_callback(lambda _: started.set())
    await started.wait()
    if task.done():
        task.result()
    try:
        yield
    finally:
        stopping.set()
        await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("It never came to be")


def assert_problem(response: Response, status: int, code: str) -> dict[str, Any]:
    """Assert that a response is an error: problem details, with the headers that tell whether to retry."""
    assert response.status == status, response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["content-length"]) == len(response.body)
    problem: dict[str, Any] = response.json
    keys = {"type", "title", "status", "detail", "code", "request_id"}
    assert set(problem) == keys | ({"errors"} if status == 422 else set())
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:llm-gateway:error:{code}"
    assert problem["title"]
    assert problem["detail"].endswith((".", "?")) or status in (502, 504), "a provider's own words may end as they like"
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in ("true", "false")
    if status == 422:
        assert problem["errors"]
        assert all(set(error) == {"loc", "msg", "type"} for error in problem["errors"])
    return problem
