"""Ask control for more of a budget's account over its socket: the worker's question, and control's answer."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.lease_answer import LeaseAnswer
from llm_gateway.forwarding.internal_requests import AnswersQuestions, ControlQuestions

PATH = "/internal/lease"
QUESTION = b"x-gateway-internal-lease"
"""The header with the account and the amount, as base64 of a JSON array."""
WAIT_S = 0.75
"""Longest wait for an answer: control itself waits for other hosts for a third of it."""
AWAY = LeaseAnswer("unavailable", text="the gateway's management process does not answer")


class LeaseQuestions:
    """The questions of a worker; `forwarder` is its `Forwarder`."""

    def __init__(self, forwarder: ASGIApp, wait_s: float = WAIT_S) -> None:
        self._questions = ControlQuestions(forwarder, PATH, QUESTION)
        self._wait_s = wait_s

    async def __call__(self, ref: AccountRef, need: int) -> LeaseAnswer:
        """Return what control says, within `wait_s` seconds."""
        question = b64encode(msgspec.json.encode((ref, need)))
        try:
            async with asyncio.timeout(self._wait_s):
                body = await self._questions.ask(question)
        except TimeoutError:
            return AWAY
        return AWAY if body is None else msgspec.json.decode(body, type=LeaseAnswer)


def answering_leases(app: ASGIApp, ask: Callable[[AccountRef, int], Awaitable[LeaseAnswer]]) -> ASGIApp:
    """Return an ASGI app that answers questions about leases by `ask`, and passes other requests on to `app`."""

    async def answer(question: bytes) -> bytes:
        ref, need = msgspec.json.decode(b64decode(question), type=tuple[AccountRef, int])
        return msgspec.json.encode(await ask(ref, need))

    return AnswersQuestions(app, PATH, QUESTION, answer)
