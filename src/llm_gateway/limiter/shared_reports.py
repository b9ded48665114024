"""Calls of one model and the limits that its provider reported, in shared memory.

A report is written beside the valid report, and one store then switches to it. When a call is granted, the
report's time is stored before what is left: a process that is killed in between leaves too little, not too much.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.host_memory import MODEL_WORDS, MODELS, MODELS_AT, HostMemory
from llm_gateway.host_memory.slots import Slots, key_of
from llm_gateway.limiter.reported import Mirror

PROBES = 16
OF, REPORTS, USED, CALLS, TOKENS, BY_REQUESTS, BY_TOKENS = range(2, 9)
"""Words of a model's slot. `OF`: the provider's window that it belongs to. `REPORTS`: the number of the provider's
account that its reports concern. `BY_*`: which of two copies of a report is valid; 0 for no report."""
COPIES_AT = {BY_REQUESTS: (0, 16, 24), BY_TOKENS: (0, 32, 40)}
"""Words of a model's slot at which the copies 1 and 2 of a report begin."""
LEFT, AT, MOST, PER_S, UNTIL, COUNTS_BOUND, TAKEN = range(7)
"""Words of a report: see `Mirror`."""


class NoModelUse:
    """The use of a model in the window of a service key, which no provider reports any limits of."""

    __slots__ = ()

    def is_found(self, owner: int) -> bool:
        """Return True: it takes no slot."""
        return True

    def claim(self, owner: int) -> None:
        """Do nothing, since it takes no slot."""

    def take(self, now: float, tokens: int, account: int) -> tuple[int, int]:
        """Return no totals, since no report is compared with them."""
        return 0, 0

    def report(self, reported: ReportedLimits, now: float, account: int, calls: int, tokens: int) -> None:
        """Drop the report."""

    def wait_s(self, now: float, account: int, tokens: int, requests: int = 1) -> float:
        """Return 0: there is no reported limit to wait for."""
        return 0.0

    def left(self, now: float, account: int, requests: int, tokens: int) -> tuple[int, int]:
        """Return these numbers of requests and tokens."""
        return requests, tokens


class SharedModelUse:
    """View that one process has of a model's slot. Changes need the memory's lock."""

    __slots__ = ("_at", "_floats", "_key", "_slots", "_words")

    def __init__(self, memory: HostMemory, provider_id: str, model: str) -> None:
        self._words: Any = memory.words
        self._floats: Any = memory.floats
        self._slots = Slots(memory.words, MODELS_AT, count=MODELS, size=MODEL_WORDS, probes=PROBES)
        self._key = key_of(f"{provider_id}\0{model}")
        self._at = 0

    def is_found(self, owner: int) -> bool:
        """Find the model's slot of the provider's window `owner`. Returns False if it has none."""
        words, at = self._words, self._at
        if not (at and words[at] == self._key.low and words[at + 1] == self._key.high):
            self._at = self._slots.find(self._key) or 0
        return self._at > 0 and words[self._at + OF] == owner

    def claim(self, owner: int) -> None:
        """Find or make the model's slot. If all its places are in use, the model used longest ago loses its report."""
        if self.is_found(owner):
            return
        words = self._words
        if not self._at:
            self._at = self._slots.vacant(self._key, lambda at: int(words[at + USED]))[0]
        self._slots.free(self._at)
        for word in (BY_REQUESTS, BY_TOKENS, CALLS, TOKENS, REPORTS, USED):
            words[self._at + word] = 0
        words[self._at + OF] = owner
        self._slots.name(self._at, self._key)

    def take(self, now: float, tokens: int, account: int) -> tuple[int, int]:
        """Count a granted call, also in the reports. Returns the model's running totals of calls and tokens."""
        words, at = self._words, self._at
        calls = words[at + CALLS] + 1
        words[at + CALLS] = calls
        total = words[at + TOKENS] + tokens
        words[at + TOKENS] = total
        second = int(now)
        if words[at + USED] != second:
            words[at + USED] = second
        if words[at + REPORTS] == account:
            self._take(BY_REQUESTS, now, 1)
            self._take(BY_TOKENS, now, tokens)
        return calls, total

    def _take(self, kind: int, now: float, amount: int) -> None:
        """Subtract a call from the valid report; the same as `Mirror.take`."""
        words, floats, valid = self._words, self._floats, self._words[self._at + kind]
        if valid:
            place = self._at + COPIES_AT[kind][valid]
            if now < floats[place + UNTIL]:
                left = self._left(place, now)
                floats[place + AT] = now
                floats[place + LEFT] = left - amount if words[place + COUNTS_BOUND] else left

    def _left(self, place: int, now: float) -> float:
        """Return how much is left of a report that is still believed; the same as `Mirror.left_at`."""
        floats = self._floats
        left: float = floats[place + LEFT] + floats[place + PER_S] * (now - floats[place + AT])
        most: float = floats[place + MOST]
        return left if left < most else most  # noqa: FURB136 - min() takes five times as long

    def report(self, reported: ReportedLimits, now: float, account: int, calls: int, tokens: int) -> None:
        """Take over the report of a call, up to and including which the totals were `calls` and `tokens`."""
        words, at = self._words, self._at
        if calls > words[at + CALLS] or tokens > words[at + TOKENS]:
            return  # a call that was counted before the totals were dropped
        if words[at + REPORTS] != account:
            words[at + BY_REQUESTS] = 0
            words[at + BY_TOKENS] = 0
            words[at + REPORTS] = account
        if reported.requests is not None:
            self._report(BY_REQUESTS, reported.requests, now, calls, words[at + CALLS] - calls)
        if reported.tokens is not None:
            self._report(BY_TOKENS, reported.tokens, now, tokens, words[at + TOKENS] - tokens)

    def _report(self, kind: int, reported: ReportedLimit, now: float, taken: int, since: int) -> None:
        words, floats, valid = self._words, self._floats, self._words[self._at + kind]
        if valid and words[self._at + COPIES_AT[kind][valid] + TAKEN] > taken:
            return
        other = 2 if valid == 1 else 1
        place = self._at + COPIES_AT[kind][other]
        mirror = Mirror.of(reported, now, taken, since)
        floats[place + LEFT] = mirror.left
        floats[place + AT] = mirror.at
        floats[place + MOST] = mirror.most
        floats[place + PER_S] = mirror.per_s
        floats[place + UNTIL] = mirror.until
        words[place + COUNTS_BOUND] = mirror.counts_bound
        words[place + TAKEN] = taken
        words[self._at + kind] = other

    def wait_s(self, now: float, account: int, tokens: int, requests: int = 1) -> float:
        """Return the seconds until the reported limits have room for requests with `tokens` in all."""
        if self._words[self._at + REPORTS] != account:
            return 0.0
        return max(self._wait_s(BY_REQUESTS, now, requests), self._wait_s(BY_TOKENS, now, tokens))

    def _wait_s(self, kind: int, now: float, need: int) -> float:
        valid = self._words[self._at + kind]
        if not valid:
            return 0.0
        place = self._at + COPIES_AT[kind][valid]
        if now >= self._floats[place + UNTIL] or self._left(place, now) >= need:
            return 0.0
        return self._mirror(place).wait_s(now, need)

    def left(self, now: float, account: int, requests: int, tokens: int) -> tuple[int, int]:
        """Return these numbers of requests and tokens, or what is left of the reported limits if that is less."""
        words, at = self._words, self._at
        if words[at + REPORTS] == account:
            if valid := words[at + BY_REQUESTS]:
                requests = int(min(requests, self._mirror(at + COPIES_AT[BY_REQUESTS][valid]).left_at(now)))
            if valid := words[at + BY_TOKENS]:
                tokens = int(min(tokens, self._mirror(at + COPIES_AT[BY_TOKENS][valid]).left_at(now)))
        return requests, tokens

    def _mirror(self, place: int) -> Mirror:
        left, at, most, per_s, until = self._floats[place : place + 5]
        counts_bound, taken = self._words[place + COUNTS_BOUND], self._words[place + TAKEN]
        return Mirror(left, at, most=most, per_s=per_s, until=until, counts_bound=counts_bound > 0, taken=taken)
