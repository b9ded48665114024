"""Admin port: which paths it serves, and how many requests it takes at once."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from llm_gateway.control.admin_port import MOST_REQUESTS, ManagementOnly
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext


class Waiting:
    """An application whose requests wait for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.count += 1
        await self.go.wait()


class Passing:
    """An application that answers nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


async def status_of(app: ManagementOnly, path: str = "/api/v1/usage/export") -> int:
    """Return the status of a response of the app's own; 0 if the request got through."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("no body is read")

    context = RequestContext(NOBODY, "id", None, b"id", {}, lambda *_, **__: None)
    scope = {"type": "http", "path": path, "method": "GET", "query_string": b"", "headers": []}
    await app({**scope, REQUEST_CONTEXT: context}, receive, send)
    return int(sent[0]["status"]) if sent else 0


async def test_spend_limits_are_served_beside_the_management_api_and_calls_are_not() -> None:
    app = ManagementOnly(Passing())
    served = ["/api/v1/budgets", "/v1/organizations/spend_limits", "/v1/organizations/spend_limits/spl_1"]
    refused = ["/v1/chat/completions", "/v1/models", "/v1beta/models", "/api/v1/generate", "/api/v1/routing/explain"]
    assert [await status_of(app, path) for path in served] == [0] * len(served)
    assert [await status_of(app, path) for path in refused] == [404] * len(refused)


async def test_more_than_64_requests_at_once_are_refused_until_one_has_ended() -> None:
    waiting = Waiting()
    app = ManagementOnly(waiting)
    running = [asyncio.create_task(status_of(app)) for _ in range(MOST_REQUESTS)]
    await asyncio.sleep(0)
    assert await status_of(app) == 503
    running.pop().cancel()
    await asyncio.sleep(0)
    waiting.go.set()
    assert await status_of(app) == 0
    assert await asyncio.gather(*running) == [0] * (MOST_REQUESTS - 1)
    assert waiting.count == MOST_REQUESTS + 1
