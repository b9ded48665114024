"""ASGI application of a process: it opens the parts of the process when it starts, and closes them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class ProcessApplication(ABC):
    """The application of one process: lifespan startup opens its parts, shutdown closes them in reverse order.

    A subclass opens the parts in `_open` and pushes what closes them on `_stack`.
    """

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._entry: ASGIApp = _not_started

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle the ASGI lifespan, and pass requests to the application that `_open` returned."""
        return self._live(receive, send) if scope["type"] == "lifespan" else self._entry(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._stack:
            self._entry = await self._open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @abstractmethod
    async def _open(self) -> ASGIApp:
        """Open all parts, and return the application for requests.

        Raises:
            ConfigurationError: the settings or the data directory do not allow a start; the message says what to set.
        """

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the requests until the application stops."""
        task = asyncio.get_running_loop().create_task(work)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)


async def _not_started(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("The application serves only after its lifespan has started it.")
