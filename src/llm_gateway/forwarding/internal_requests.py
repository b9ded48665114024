"""Internal requests from workers to control over its Unix socket: no caller, and the payload in a header.

No client can send one: the gate lets nobody without a key through to these paths.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext


class ControlQuestions:
    """The questions of one kind that a worker asks; `forwarder` is its `Forwarder`."""

    def __init__(self, forwarder: ASGIApp, path: str, header: bytes) -> None:
        self._forwarder = forwarder
        self._path = path
        self._header = header

    async def ask(self, question: bytes) -> bytes | None:
        """Return the JSON document that control answers with; None if it does not answer."""
        request_id = new_id()
        headers = [(self._header, question)]
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": headers,
            REQUEST_CONTEXT: RequestContext(NOBODY, request_id, None, request_id.encode(), dict(headers), _no_log),
        }
        status, body = 0, bytearray()

        async def collect(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))

        await self._forwarder(scope, _wait, collect)
        return bytes(body) if status == 200 else None


class AnswersQuestions:
    """ASGI app of control that answers questions of one kind by `answer`, and passes other requests on to `app`."""

    def __init__(self, app: ASGIApp, path: str, header: bytes, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._app = app
        self._path = path
        self._header = header
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] == self._path:
            context: RequestContext = scope[REQUEST_CONTEXT]
            question = context.headers.get(self._header)
            if context.caller == NOBODY and question is not None:
                await send_body(send, 200, await self._answer(question), JSON, [])
                return
        await self._app(scope, receive, send)


def _no_log(_event: str, **_fields: object) -> None:
    """Log nothing: the client's own request gets a line."""


async def _wait() -> Message:
    """Wait for ever, as for a client that stays."""
    await asyncio.Event().wait()
    raise AssertionError
