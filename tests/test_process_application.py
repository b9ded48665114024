"""Application of a process: its parts open at the start, and close in reverse order."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.process_application import ProcessApplication
from tests.application.driver import Client, lifespan
from tests.server.harness import answer


class Parts(ProcessApplication):
    """Two parts and work in the background; `fails` breaks the start after the first part."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.events: list[str] = []
        self._fails = fails

    async def _open(self) -> ASGIApp:
        self._part("first")
        self._background(self._work())
        if self._fails:
            raise ValueError("no second part")
        self._part("second")
        return self._serve

    def _part(self, name: str) -> None:
        self.events.append(f"{name} open")
        self._stack.callback(self.events.append, f"{name} closed")

    async def _work(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append("work ended")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"served")


async def test_parts_close_in_reverse_order_and_work_in_the_background_ends() -> None:
    app = Parts()
    async with lifespan(app):
        assert (await Client(app).call("GET", "/")).body == b"served"
        assert app.events == ["first open", "second open"]
    assert app.events[2:] == ["second closed", "work ended", "first closed"]


async def test_a_start_that_fails_closes_what_was_open() -> None:
    app = Parts(fails=True)
    with pytest.raises(ValueError, match="no second part"):
        async with lifespan(app):
            pass
    assert app.events == ["first open", "first closed"]


async def test_a_request_before_the_start_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="after its lifespan"):
        await Client(Parts()).call("GET", "/")
