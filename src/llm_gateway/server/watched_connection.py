"""A connection that notices when its client reads nothing of its responses, or has left."""

from __future__ import annotations

import math
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llm_gateway.server.polling import has_ended
from llm_gateway.server.shared_state import SharedState

NEVER = math.inf


class WatchedConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which sets `stalled` while the client has much to read.

    `stalled` is the time (seconds on the event loop's clock) at which `is_stalled` is to be asked; `NEVER` while
    nothing waits for the client.
    """

    def __init__(self, config: uvicorn.Config, shared: SharedState, app_state: dict[str, Any]) -> None:
        super().__init__(config, shared, app_state)
        self.shared = shared
        self.limits = shared.limits
        self.stalled = NEVER
        self._unsent = 0  # bytes that the client had not read at the last look
        self._read_at = 0.0  # when the client last read some

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads: the write buffer is full (called by asyncio)."""
        super().pause_writing()
        self.watch()

    def resume_writing(self) -> None:
        """Stop watching: the client has read most of the write buffer (called by asyncio)."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.stalled = NEVER

    def watch(self) -> None:
        """Begin to look, at each sweep, whether the client reads what is written."""
        now = self.loop.time()
        self._unsent = self.transport.get_write_buffer_size()
        self._read_at, self.stalled = now, now + self.limits.sweep_s

    def is_stalled(self, now: float) -> bool:
        """Return whether the client has read nothing for `stalled_s`; sets the time of the next look."""
        unsent = self.transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._read_at = now
        self._unsent, self.stalled = unsent, now + self.limits.sweep_s
        return now - self._read_at >= self.limits.stalled_s

    def has_left(self) -> bool:
        """Return whether the client closed its side while reading is paused; asyncio reports it only when it reads."""
        return self.flow.read_paused and not self.transport.is_closing() and has_ended(self.transport)
