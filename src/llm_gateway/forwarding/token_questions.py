"""Ask control about tokens over its socket: the worker's question, and control's answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp

from llm_gateway.domain.jwt_verdict import Verdict
from llm_gateway.errors import ManagementUnavailable
from llm_gateway.forwarding.internal_requests import AnswersQuestions, ControlQuestions

PATH = "/internal/token"
TOKEN = b"x-gateway-internal-token"
"""The header with the token."""
AWAY = "The token cannot be verified now, since the gateway's management process does not answer: send it again."


class TokenQuestions:
    """The questions of a worker; `forwarder` is its `Forwarder`."""

    def __init__(self, forwarder: ASGIApp) -> None:
        self._questions = ControlQuestions(forwarder, PATH, TOKEN)

    async def __call__(self, token: bytes) -> Verdict:
        """Return what control says of a token.

        Raises:
            ManagementUnavailable: it does not answer.
        """
        body = await self._questions.ask(token)
        if body is None:
            raise ManagementUnavailable(AWAY)
        return msgspec.json.decode(body, type=Verdict)


def answering_tokens(app: ASGIApp, verify: Callable[[bytes], Awaitable[Verdict]]) -> ASGIApp:
    """Return an ASGI app that answers questions about tokens by `verify`, and passes other requests on to `app`."""

    async def answer(token: bytes) -> bytes:
        return msgspec.json.encode(await verify(token))

    return AnswersQuestions(app, PATH, TOKEN, answer)
