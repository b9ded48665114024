"""Track whether the clients of a request are still connected, so that no call is made for those that disconnected.

    awaited ── its client disconnects, an identical request waits ──▶ awaited by others only ── they leave ──▶ abandoned
       └────── its client disconnects, no identical request waits ───────────────────────────────────────────────▲

An abandoned request ends at once where it waits before a call: in a line, in the pause before a retry, or for the
answer of an identical request (`with presence:`). No call is sent for it (`check`). A call that was sent goes on, since
it is billed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self


class ClientDisconnected(asyncio.CancelledError):
    """No client waits for the answer any more, and the call in question was not sent."""


class ClientPresence:
    """The clients that wait for the answer of one request: its own, and those of identical requests.

    Args:
        receive: ASGI's. It is awaited in `with` blocks only, until it returns `http.disconnect`; without it, `leave`
            has to be called.
        send: ASGI's. If it has an attribute `disconnected`, as that of `server/exchange.py`, it is read as well.
    """

    __slots__ = ("_is_gone", "_others", "_receive", "_send", "_waiting", "_watch")

    def __init__(self, receive: Callable[[], Awaitable[Any]] | None = None, send: object = None) -> None:
        self._receive = receive
        self._send = send
        self._is_gone = False
        self._others = 0
        self._waiting: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the request's own client is there, or an identical request waits for the answer."""
        return self._others > 0 or not (self._is_gone or getattr(self._send, "disconnected", False))

    def check(self) -> None:
        """Raise ClientDisconnected if no client waits for the answer; call it right before a call is sent."""
        # Not by `is_awaited`, since every call is checked.
        if (self._is_gone or getattr(self._send, "disconnected", False)) and not self._others:
            raise ClientDisconnected

    def leave(self) -> None:
        """Note that the request's own client disconnected."""
        self._is_gone = True
        self._end_wait()

    def join(self) -> None:
        """Count an identical request that waits for the answer; call `part` when it does not any more."""
        self._others += 1

    def part(self) -> None:
        """Count an identical request that no longer waits."""
        self._others -= 1
        self._end_wait()

    def __enter__(self) -> Self:
        """Begin a wait: the block is cancelled once no client waits for the answer.

        Raises:
            ClientDisconnected: none does by now.
        """
        self.check()
        self._waiting = asyncio.current_task()
        if self._receive is not None:
            self._watch = asyncio.ensure_future(self._until_gone(self._receive))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the wait."""
        self._waiting = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _until_gone(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def _end_wait(self) -> None:
        if self._waiting is not None and not self.is_awaited:
            self._waiting.cancel()
            self._waiting = None
