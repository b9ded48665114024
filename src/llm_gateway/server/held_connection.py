"""A connection whose requests wait for the intake, or are refused by it, before anything of them is parsed."""

from __future__ import annotations

from typing import Any

import uvicorn

from llm_gateway.server.shared_state import SharedState
from llm_gateway.server.watched_connection import NEVER, WatchedConnection

IDLE, HEAD, BODY, ANSWER, CLOSING, HELD, DROP, REFUSED = range(8)
"""Phases of a connection; `connection.py` draws them."""
MOST_HELD_BYTES = 64 * 1024


class HeldConnection(WatchedConnection):
    """A watched connection that asks the intake about each request, at its first bytes."""

    def __init__(self, config: uvicorn.Config, shared: SharedState, app_state: dict[str, Any]) -> None:
        super().__init__(config, shared, app_state)
        self.intake = shared.intake
        self.phase = IDLE
        self.deadline = NEVER
        self._held = b""  # the first bytes of a request that was not begun
        self._dropped = 0  # bytes to drop of a request that was refused
        self.is_refused = self._sends_on = False  # a refusal is not written yet; more came before it was

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, unless the intake lets the request wait or refuses it (called by asyncio)."""
        phase = self.phase
        if phase == IDLE:
            if self.intake.admits(self, data):
                self.parse(data)
        elif phase == HELD:
            self._held += data
            if len(self._held) > MOST_HELD_BYTES:
                self.begin_held()
        elif phase == DROP:
            self._drop(data)
        elif phase == REFUSED:
            self._sends_on = True
        elif phase != CLOSING:
            self.parse(data)

    @property
    def is_held(self) -> bool:
        """Whether a request waits to be begun."""
        return self.phase == HELD

    def hold(self, data: bytes) -> None:
        """Keep the first bytes of a request until `begin_held` (called by the intake, as the next four are)."""
        self.phase, self.deadline, self._held = HELD, NEVER, data

    def begin_held(self) -> None:
        """Parse what was kept."""
        data, self._held, self.phase = self._held, b"", IDLE
        self.parse(data)
        if self.phase == IDLE:  # it was an empty line, which begins no request
            self.idle()

    def await_refusal(self, missing: int) -> None:
        """Wait for `refuse_unparsed`, at the end of the turn, and drop `missing` bytes, the rest of the request."""
        self.phase, self.deadline = DROP if missing else REFUSED, NEVER
        self._dropped, self.is_refused = missing, True

    def _drop(self, data: bytes) -> None:
        rest = data[self._dropped :]
        self._dropped -= len(data) - len(rest)
        if not self._dropped:
            if self.is_refused:
                self.phase = REFUSED
            else:
                self.idle()
        if rest:  # the client sent its next request before it had the response
            self.data_received(rest)

    @property
    def is_last_response(self) -> bool:
        """Whether the connection closes after its refusal: the server stops, or the client does not wait for it."""
        return self.shared.stopping or self._sends_on or self.flow.write_paused

    def refuse_unparsed(self, response: bytes, now: float) -> bool:
        """Answer a request that was not parsed. Returns False if the client is gone, so that nothing was written."""
        self.is_refused = False
        if self.phase == CLOSING or self.transport.is_closing():
            return False
        if self.is_last_response:
            self.linger(response)
            return True
        self.transport.write(response)
        if self.phase == DROP:
            self.deadline = now + self.limits.body_s
        else:
            self.phase, self.deadline = IDLE, now + self.limits.keep_alive_s
        return True

    def parse(self, data: bytes) -> None:
        """Parse what the client sent."""
        raise NotImplementedError

    def idle(self) -> None:
        """Wait for the next request."""
        raise NotImplementedError

    def refuse(self, status: int) -> None:
        """Accept no more requests; send a response with `status` once all earlier requests are answered."""
        raise NotImplementedError

    def linger(self, response: bytes) -> None:
        """Send a last response, then read and drop data for a moment."""
        raise NotImplementedError
