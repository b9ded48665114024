"""One window in Redis: the packed beginnings of its calls, and the settles of this turn that nothing has carried yet.

    settle ──▶ unsettled ── the next take of this window in the same turn ──▶ sent with it, and done before it
                   └─────── the turn ends ──▶ sent together, in one command of the window

So most settles cost no command of their own, and none is done later than it would be alone: before each take that
comes after it, and with the write that ends its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llm_gateway.limiter.other_hosts_calls import OtherHosts
from llm_gateway.limiter.redis_scripts import SETTLE, TAKE
from llm_gateway.redis_client.client import RedisClient
from llm_gateway.redis_client.connection import Reply
from llm_gateway.redis_client.script import argument


class RedisWindow:
    """A window of a `RedisLimiter`, and what is known of other hosts' part in it.

    `take_back` gets the windows of a call, and a reply to it that nobody waits for any more.
    """

    __slots__ = ("_limits", "_rpm", "_settle", "_take", "_tpm", "key", "late", "others", "unsettled")

    def __init__(self, epoch_key: str, key: str, take_back: Callable[[Sequence[RedisWindow], Reply], None]) -> None:
        self.key = key
        self.unsettled: list[bytes] = []
        self.late = partial(take_back, (self,))
        self.others = OtherHosts()
        self._take = TAKE.beginning((epoch_key, key))
        self._settle = SETTLE.beginning((key,))
        self._rpm = self._tpm = -1
        self._limits = b""

    def packed_take(self, time: bytes, rpm: int, tpm: int, tokens: int) -> bytes:
        """Return the packed call that takes one request and `tokens`. It carries what is unsettled."""
        if rpm != self._rpm or tpm != self._tpm:
            self._rpm, self._tpm, self._limits = rpm, tpm, b" %d %d " % (rpm, tpm)
        text = b"%b%b%d" % (time, self._limits, tokens)
        if self.unsettled:
            text += self.carried(2)
        return b"%b$%d\r\n%b\r\n" % (self._take, len(text), text)

    def carried(self, place: int) -> bytes:
        """Return what is unsettled, for a take in which this window is key `place`; it counts as sent."""
        unsettled = self.unsettled
        text = b" %d %d %b" % (place, len(unsettled), b" ".join(unsettled))
        unsettled.clear()
        return text

    def packed_settles(self) -> bytes:
        """Return the packed call that settles what is unsettled; it counts as sent."""
        text = b" ".join(self.unsettled)
        self.unsettled.clear()
        return self._settle + argument(text)


class UnsentSettles:
    """The windows of one limiter with settles of this turn; they are sent with the write that ends it."""

    __slots__ = ("_client", "_windows")

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._windows: list[RedisWindow] = []

    def add(self, window: RedisWindow, second: int, reserved: int, used: int, unsent: int) -> None:
        """Settle a call of this window in the second `second` of Redis's clock, and give back `unsent` requests."""
        unsettled = window.unsettled
        if not unsettled:
            if not self._windows and not self._client.before_write(self._send):
                return  # there is no connection
            self._windows.append(window)
        unsettled.append(b"%d %d %d %d" % (second, reserved, used, unsent))

    def _send(self) -> None:
        windows, self._windows = self._windows, []
        for window in windows:
            if window.unsettled:
                self._client.send_packed(window.packed_settles(), SETTLE)
