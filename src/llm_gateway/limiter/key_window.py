"""Window of a service key, as one process sees it: what it has counted ahead there, and calls that are over."""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.host_memory import HostMemory
from llm_gateway.limiter.shared_window import REQUEST_SUM, SECOND, TOKEN_SUM, SharedWindow, WindowTable
from llm_gateway.limiter.window import BUCKETS, Window

CALLS_AHEAD = 16
PART = 32
"""A key must have room for as many times the calls that are counted ahead."""


class KeyWindow(SharedWindow):
    """A `SharedWindow` of a service key.

    `ahead_calls` are counted in the second `ahead_second` and not taken yet. `counts_ahead` is called when some are.
    """

    __slots__ = (
        "_ahead_tokens", "_counts_ahead", "_rpm", "_tpm", "_unsettled", "ahead_calls", "ahead_second", "is_busy",
        "is_crowded",
    )  # fmt: skip

    def __init__(
        self,
        memory: HostMemory,
        provider_id: str,
        number: int,
        table: WindowTable,
        counts_ahead: Callable[[KeyWindow], None],
    ) -> None:
        super().__init__(memory, provider_id, number, table)
        self._counts_ahead = counts_ahead
        self.ahead_second = self.ahead_calls = self._ahead_tokens = 0
        self._rpm = self._tpm = 0
        self.is_busy = False
        """Whether calls were counted ahead with the last one under the lock."""
        self.is_crowded = False
        """Whether more than half of the window was taken when calls were counted ahead."""
        self._unsettled: dict[int, list[int]] = {}
        """Reserved tokens, used tokens, and calls given back, by the second of the calls."""

    def take_ahead(self, second: int, rpm: int, tpm: int, tokens: int) -> bool:
        """Take a call out of those that are counted ahead in this second, within these limits. Needs no lock."""
        if second != self.ahead_second or not 0 <= tokens <= self._ahead_tokens or (rpm, tpm) != (self._rpm, self._tpm):
            return False
        self.ahead_calls -= 1
        self._ahead_tokens -= tokens
        return True

    def take_if_fits(self, rpm: int, tpm: int, tokens: int, calls: int = 1) -> tuple[int, int, int] | None:
        """Count a call, and others ahead if it is not the first one under the lock in its second."""
        if self._unsettled or self._ahead_tokens or self.ahead_calls:
            self.settle_noted()
        words, at = self._words, self._at
        if words[at + SECOND] == self.ahead_second:
            most = PART * CALLS_AHEAD
            self.is_busy = words[at + REQUEST_SUM] + most <= rpm and words[at + TOKEN_SUM] + most * tokens <= tpm
        else:
            self.is_busy = False
        ahead = CALLS_AHEAD if self.is_busy else 0
        sums = super().take_if_fits(rpm, tpm, tokens * (ahead + calls), ahead + calls)
        if sums is not None:
            self.ahead_second, requests, all_tokens = sums
            if ahead:
                self.ahead_calls, self._ahead_tokens, self._rpm, self._tpm = ahead, ahead * tokens, rpm, tpm
                self.is_crowded = requests * 2 > rpm or all_tokens * 2 > tpm
                self._counts_ahead(self)
        return sums

    def note(self, second: int, reserved: int, used: int, unsent: int) -> None:
        """Note a call that is over and used no more than it had reserved. Needs no lock."""
        noted = self._unsettled.get(second)
        if noted is None:
            self._unsettled[second] = [reserved, used, unsent]
        else:
            noted[0] += reserved
            noted[1] += used
            noted[2] += unsent

    def settle_noted(self) -> None:
        """Correct the calls that are noted, and give back those that are counted ahead."""
        for second, (reserved, used, unsent) in self._left().items():
            self.settle(second, reserved, used, unsent)
        self._unsettled.clear()
        self.ahead_calls = self._ahead_tokens = 0

    def forget(self) -> None:
        """Give up the slot, and what is noted."""
        self._unsettled.clear()
        self.ahead_calls = self._ahead_tokens = 0
        super().forget()

    def _left(self) -> dict[int, list[int]]:
        """Return what is to be corrected, by the second of the calls."""
        if not self.ahead_calls and not self._ahead_tokens:
            return self._unsettled
        reserved, used, unsent = self._unsettled.get(self.ahead_second, (0, 0, 0))
        of_second = [reserved + self._ahead_tokens, used, unsent + self.ahead_calls]
        return {**self._unsettled, self.ahead_second: of_second}

    def sums(self) -> tuple[int, int, int]:
        """Return the sums of requests and tokens, and the second of the last call."""
        window = self.copy(self.second())
        return window.request_sum, window.token_sum, window.newest

    def copy(self, second: int) -> Window:
        """Return a copy of the window that ends at `second`, with what is noted corrected."""
        window = super().copy(second)
        for noted, (reserved, used, unsent) in self._left().items():
            if noted > window.second - BUCKETS:
                index = noted % BUCKETS
                window.open_tokens[index] = max(0, window.open_tokens[index] - reserved)
                window.tokens[index] -= reserved - used
                window.token_sum -= reserved - used
                window.requests[index] -= unsent
                window.request_sum -= unsent
        return window
