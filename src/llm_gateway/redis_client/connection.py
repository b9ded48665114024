"""One connection to a Redis server: commands in their order, replies in the same order (RESP 2).

    open ── call ──▶ pending ── reply ──▶ done
      │                 └── 50 ms without a reply ──▶ given up; the reply is dropped when it comes, or told to `late`
      └── closed by either side, or a malformed reply ──▶ ended: all pending calls are given up

All commands of one turn of the event loop go out in one write. One timer watches the oldest pending call, not each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, cast

import hiredis

from llm_gateway.redis_client.script import Script


class _Lost:
    """Result of a call that got no reply."""

    def __repr__(self) -> str:
        return "LOST"


LOST: Final = _Lost()
Reply: TypeAlias = Any
"""What the server replied: bytes, int, None, a list of these, a `ReplyError`; or `LOST`."""
ReplyError = hiredis.ReplyError
Late: TypeAlias = Callable[[Reply], None]

READ_S = 0.002
"""Seconds for which a late loop reads before it gives calls up."""
MOST_PENDING = 20_000
"""Calls without a reply yet; more are refused at once."""
MOST_UNSENT_BYTES = 8 * 1024 * 1024
"""Bytes that wait for the socket; commands beyond are refused at once."""
MOST_REPLY_BYTES = 64 * 1024 * 1024
"""Bytes of one reply; a server that sends more is disconnected."""


class Counters:
    """Counts of all connections to a server, for metrics."""

    __slots__ = ("errors", "reconnects", "refused", "timeouts", "trips")

    def __init__(self) -> None:
        self.trips = self.timeouts = self.errors = self.refused = self.reconnects = 0


class Receiver(Protocol):
    """Receiver of a reply: a future, or what is like one."""

    def done(self) -> bool:
        """Return True if it got a reply, or does not want one any more."""
        ...

    def set_result(self, result: Reply, /) -> None:
        """Take the reply, or `LOST`. Must not raise."""
        ...


_Pending: TypeAlias = tuple["Receiver | None", float, "Script | None", bytes, "Late | None"]
"""A call without a reply yet: who gets it, the time at which it was sent, its script and its bytes as long as it can be
sent again, and what gets a reply that comes too late."""


class Connection(asyncio.Protocol):
    """A connection that `loop.create_connection` makes. `ended` is the reason for its end, once it has ended.

    Args:
        counters: of the client.
        timeout_s: seconds after which a call without a reply is given up.
        on_stall: called with True when a call was given up, and with False when nothing is pending again.
    """

    def __init__(self, counters: Counters, timeout_s: float, on_stall: Callable[[bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._timeout_s = timeout_s
        self._on_stall = on_stall
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._pending: deque[_Pending] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._composers: deque[Callable[[], None]] = deque()
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self.is_stalled = False
        self.stalled_at = 0.0
        self.ended: asyncio.Future[str] = self._loop.create_future()

    def call(self, packed: bytes, script: Script | None = None, late: Late | None = None) -> asyncio.Future[Reply]:
        """Send a packed command. The future gets its reply, or `LOST`; it never gets an exception.

        `script` is what it calls. `late` gets a reply that comes after the call was given up or cancelled.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self.send(packed, script, future, late):
            future.set_result(LOST)
        return future

    def send(
        self,
        packed: bytes,
        script: Script | None = None,
        receiver: Receiver | None = None,
        late: Late | None = None,
    ) -> bool:
        """Send a packed command, whose reply `receiver` gets. Returns False if it cannot be sent."""
        unsent_bytes = self._unsent_bytes + len(packed)
        pending = self._pending
        if unsent_bytes > MOST_UNSENT_BYTES or len(pending) >= MOST_PENDING or self._is_paused:
            self._counters.refused += 1
            return False
        if not self._is_flush_due and not self._flush_soon():
            return False
        self._unsent_bytes = unsent_bytes
        self._unsent.append(packed)
        pending.append((receiver, self._loop.time(), script, packed if script is not None else b"", late))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check)
        return True

    def before_write(self, compose: Callable[[], None]) -> bool:
        """Call `compose` right before the next write, for the commands that it sends. Returns False if it cannot be."""
        if not self._is_flush_due and not self._flush_soon():
            return False
        self._composers.append(compose)
        return True

    def _flush_soon(self) -> bool:
        if self._transport is None:
            return False
        self._is_flush_due = True
        self._loop.call_soon(self._flush)
        return True

    def _compose(self) -> None:
        """Call all composers, also if one of them raises."""
        try:
            while self._composers:
                self._composers.popleft()()
        finally:
            if self._composers:
                self._compose()

    def _flush(self) -> None:
        try:
            self._compose()
        finally:
            self._is_flush_due = False
            unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
            if self._transport is not None and unsent:
                self._counters.trips += 1
                self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def expect_within(self, seconds: float) -> None:
        """Set the time after which a call without a reply is given up."""
        self._timeout_s = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        """Give up calls soon: a loop that was late itself has to read first what came meanwhile."""
        self._timer = self._loop.call_later(READ_S, self._expire)

    def _expire(self) -> None:
        """Give up the calls whose time is over, and set the timer for the next one."""
        self._timer = None
        due = self._loop.time() - self._timeout_s
        rest = self._timeout_s
        expired = []
        for receiver, sent_at, *_ in self._pending:
            if sent_at > due:
                rest = sent_at - due
                break
            if receiver is not None and not receiver.done():
                expired.append(receiver)
        if not self._pending:
            return
        self._timer = self._loop.call_later(rest, self._check)
        if not self.is_stalled and self._pending[0][1] <= due:
            self.is_stalled, self.stalled_at = True, self._loop.time()
            self._on_stall(True)
        self._counters.timeouts += len(expired)
        for receiver in expired:
            receiver.set_result(LOST)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to take commands."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of classes of their own
        self._transport.set_write_buffer_limits(MOST_UNSENT_BYTES)

    def pause_writing(self) -> None:
        """Refuse commands while the server does not read them."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Take commands again."""
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        """Give replies to the calls that they belong to."""
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if not pending:
                    self.close("it sent a reply to nothing")
                    return
                receiver, _, script, packed, late = pending.popleft()
                if reply.__class__ is ReplyError:
                    reply = self._failed(reply, script, packed, receiver, late)
                    if reply is None:
                        continue
                if receiver is not None and not receiver.done():
                    receiver.set_result(reply)
                elif late is not None:
                    late(reply)
        except hiredis.ProtocolError:
            self.close("it does not speak the protocol of Redis")
            return
        if reader.len() > MOST_REPLY_BYTES:
            self.close("a reply is too large")
        elif not pending and self.is_stalled:
            self.is_stalled = False
            self._on_stall(False)

    def _failed(
        self,
        error: ReplyError,
        script: Script | None,
        packed: bytes,
        receiver: Receiver | None,
        late: Late | None,
    ) -> Reply:
        """Load a script that the server does not know, and call it again: then return None. Else return the error."""
        if script is not None and str(error).startswith("NOSCRIPT"):
            if self.send(script.load) and self.send(packed, None, receiver, late):
                return None
            return LOST
        self._counters.errors += 1
        return error

    def connection_lost(self, error: Exception | None) -> None:
        """Give up all pending calls."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, deque()
        self._unsent, self._unsent_bytes, self._is_flush_due = [], 0, False
        self._compose()
        for receiver, *_ in pending:
            if receiver is not None and not receiver.done():
                receiver.set_result(LOST)
        if not self.ended.done():
            self.ended.set_result(f"the connection broke: {error}" if error else "it closed the connection")

    def close(self, reason: str) -> None:
        """Close the connection at once."""
        if not self.ended.done():
            self.ended.set_result(reason)
        if self._transport is not None:
            self._transport.abort()
