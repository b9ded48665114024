"""Ask control about tokens over its socket: the worker's question, and control's answer.

A question is a request without a caller, which no client can send: the gate lets nobody through to this path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_gateway.domain.token_verdict import Verdict
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.errors import ManagementUnavailable
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext

PATH = "/internal/token"
TOKEN = b"x-gateway-internal-token"
"""The header with the token."""
AWAY = "The token cannot be verified now, since the gateway's management process does not answer: send it again."


class TokenQuestions:
    """The questions of a worker; `forwarder` is its `Forwarder`."""

    def __init__(self, forwarder: ASGIApp) -> None:
        self._forwarder = forwarder

    async def __call__(self, token: bytes) -> Verdict:
        """Return what control says of a token.

        Raises:
            ManagementUnavailable: it does not answer.
        """
        request_id = new_id()
        headers = [(TOKEN, token)]
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": PATH,
            "raw_path": PATH.encode(),
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
        if status != 200:
            raise ManagementUnavailable(AWAY)
        return msgspec.json.decode(bytes(body), type=Verdict)


class AnswersTokens:
    """ASGI app of control that answers questions about tokens by `verify`, and passes other requests on to `app`."""

    def __init__(self, app: ASGIApp, verify: Callable[[bytes], Awaitable[Verdict]]) -> None:
        self._app = app
        self._verify = verify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] == PATH:
            context: RequestContext = scope[REQUEST_CONTEXT]
            token = context.headers.get(TOKEN)
            if context.caller == NOBODY and token is not None:
                await send_body(send, 200, msgspec.json.encode(await self._verify(token)), JSON, [])
                return
        await self._app(scope, receive, send)


def _no_log(_event: str, **_fields: object) -> None:
    """Log nothing: the client's own request gets a line."""


async def _wait() -> Message:
    """Wait for ever, as for a client that stays."""
    await asyncio.Event().wait()
    raise AssertionError
