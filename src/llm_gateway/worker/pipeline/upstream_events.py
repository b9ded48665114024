"""The server-sent events of a provider's streamed response, with a time limit for each."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Literal

from llm_gateway.domain.rate_limits import ReportedLimits
from llm_gateway.provider_calls.results import CAUSE_CHARACTERS
from llm_gateway.sse import Event, Splitter, TooLarge
from llm_gateway.upstream.pool import Pool
from llm_gateway.upstream.response import IncompleteResponse, ResponseStream

MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_EVENT_GAP_S = 120.0
"""Seconds without an event, once the content has begun, after which a stream is cut."""


class StreamCut(Exception):
    """A stream ended before it was complete: it timed out or its connection broke, as the message says."""

    def __init__(self, fault: Literal["timeout", "broken"], message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


class UpstreamEvents:
    """Server-sent events of one upstream response. The owner reads them to the end, and calls `close` in any case.

    `limits` are the provider's rate limits as the response's headers report them.
    """

    __slots__ = ("_is_closed", "_pool", "_splitter", "_stream", "_take", "limits")

    def __init__(self, pool: Pool, stream: ResponseStream, limits: ReportedLimits | None = None) -> None:
        self.limits = limits
        self._pool = pool
        self._stream = stream
        self._splitter = Splitter(MAX_EVENT_BYTES)
        self._is_closed = False
        self._take: Callable[[list[Event]], bool]

    async def next(self, timeout_s: float) -> list[Event]:
        """Return all events that have arrived since the last call; an empty list when the stream is over.

        Raises:
            StreamCut: no event arrived for `timeout_s` seconds, or the connection broke.
        """
        deadline = 0.0
        try:
            while True:
                data = await self._stream.read(timeout_s)
                events = self._splitter.take(data) if data else self._splitter.end()
                if events or not data:
                    return events
                # Only whole events count: data that completes none must not extend the wait again and again.
                deadline = deadline or monotonic() + timeout_s
                timeout_s = deadline - monotonic()
        except TimeoutError:
            raise StreamCut("timeout", "No event arrived in time") from None
        except (IncompleteResponse, TooLarge) as error:
            raise StreamCut("broken", str(error)[:CAUSE_CHARACTERS]) from None

    async def deliver(self, take: Callable[[list[Event]], bool], idle_s: float) -> bool:
        """Call `take` with events as they arrive, until it returns False. Returns whether more may arrive after that.

        Raises:
            StreamCut: no event arrived for `idle_s` seconds, or the connection broke.
        """
        self._take = take
        try:
            if await self._stream.deliver(self._take_data, idle_s):
                return True
            if found := self._splitter.end():
                take(found)
        except TimeoutError:
            raise StreamCut("timeout", "No event arrived in time") from None
        except (IncompleteResponse, TooLarge) as error:
            raise StreamCut("broken", str(error)[:CAUSE_CHARACTERS]) from None
        finally:
            del self._take  # breaks a reference cycle: the open stream that it belongs to holds these events
        return False

    def _take_data(self, data: bytes) -> bool:
        events = self._splitter.take(data)
        if not events:
            return True
        self._stream.progressed()
        return self._take(events)

    def close(self) -> None:
        """Return the connection to its pool; close it if the response is not over. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._pool.release(self._stream)
