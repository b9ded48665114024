"""Amounts that are held in budgets' accounts ahead of requests: those of a busy combination of values take no lock.

    closed ── two requests within 20 ms, and much is left ──▶ open ── no request for 0.1 s, or little is left ──▶ closed
                                                                      or the period of an account ends soon
                    a request takes its bound ◀── open ◀── what it has not spent comes back when it is settled

An advance is held in the memory like the amounts of a request, and what its requests have spent is noted in this
worker's own rows before they are journalled (`ROW_LATE`). So no limit is passed, and nothing is lost if the worker is
killed: control counts what is noted and releases the rest. Accounts count what is noted with the next advance, or after
0.1 s. Requests of an advance hold their bounds in all accounts, so they have no gaps.

Other workers find less room by what is open here. So an advance is for few requests, and only while each account has
room for 32 advances, and an overdraft of one, if it has any use for that. This worker's own requests find no less: one
that would be refused gets what is held ahead for others, if that is enough for it. At the end of a period nothing is
open: what is carried over would be less by it.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway import wall_clock
from llm_gateway.host_memory.account_group import AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.retry import Retry
from llm_gateway.worker.pipeline.budget_account import Matched

REQUESTS_AHEAD = 64
"""Requests that an advance is for."""
PART = 32
"""An account must have room for as many advances."""
MOST_OPEN = 256
"""Advances that a worker has open at once: a request that needs room looks at all of them."""
SOON_MS = 1_000
"""Milliseconds before the end of a period from which on nothing is held ahead."""


class Advances:
    """The open advances of a worker, in its `accounts`; there are none without any. `clock_ms`: milliseconds UTC."""

    def __init__(self, accounts: BudgetAccounts | None, clock_ms: Callable[[], int] = wall_clock.now_ms) -> None:
        self._accounts = accounts
        self._clock_ms = clock_ms
        self._open: list[Matched] = []
        self._retry = Retry(self.review)

    def fill(self, matched: Matched, nanos: int, tokens: int) -> bool:
        """Hold as much as some requests of this size can cost; close the advance if that is too much.

        Returns whether it is held. It is for requests that cost something.
        """
        advance = matched.advance
        if not nanos or not tokens:
            return False
        nanos, tokens = REQUESTS_AHEAD * nanos, REQUESTS_AHEAD * tokens
        if not advance.is_open and len(self._open) >= MOST_OPEN:
            return False
        if self._is_small(matched, nanos, tokens) and self._change(matched, nanos, tokens, REQUESTS_AHEAD):
            if not advance.is_open:
                advance.is_open = True
                self._open.append(matched)
                self._retry.start()
            return True
        self._close(matched)
        return False

    def take(self, matched: Matched, nanos: int, tokens: int) -> bool:
        """Fill an advance that had not as much as a request can cost, and take it. Returns False if it has not now."""
        return self.fill(matched, nanos, tokens) and matched.advance.take(nanos, tokens)

    def give_way(self, place: AccountPlace, missing: int) -> bool:
        """Release amounts of an account, so that `missing` less is held there; none if they are not as much.

        Returns whether any were released. So what is held ahead here refuses no request of this worker, and is closed
        for none that is refused all the same.
        """
        if missing > place.held:
            return False
        found = []
        for matched in self._open:
            for kind, each, _, _ in matched.rooms:
                if each is place:
                    found.append(matched)
                    missing -= matched.advance.of(kind)
            if found and missing <= 0:
                break
        if missing > 0:
            return False
        before = len(self._open)
        for matched in found:
            self._close(matched)
        return len(self._open) < before

    def close(self) -> None:
        """Release all that is held and not taken by requests: at once, or as soon as the accounts are not locked."""
        for matched in self._open:
            matched.advance.is_used = False
        self._retry.now()

    def review(self) -> bool:
        """Close what is not used, and count what is noted as spent in the rest. Returns True if nothing is open."""
        for matched in [*self._open]:
            advance = matched.advance
            if advance.is_used and self._is_small(matched, advance.nanos, advance.tokens):
                advance.is_used = False
                self._change(matched, advance.nanos, advance.tokens, advance.requests)
            else:
                self._close(matched)
        return not self._open

    def _close(self, matched: Matched) -> None:
        """Release what is left of an advance; later if the accounts are locked."""
        if matched.advance.is_open and self._change(matched, 0, 0, 0):
            matched.advance.is_open = False
            self._open.remove(matched)

    def _change(self, matched: Matched, nanos: int, tokens: int, requests: int) -> bool:
        """Hold this much in place of what is left. Returns False if the accounts have no room, or are locked."""
        if self._accounts is None:
            return False
        advance = matched.advance
        more_nanos, more_tokens = nanos - advance.nanos, tokens - advance.tokens
        more = more_nanos, more_nanos, more_tokens, more_tokens, requests - advance.requests
        if not self._accounts.hold_more(matched.group, more):
            return False
        advance.nanos, advance.tokens, advance.requests = nanos, tokens, requests
        return True

    def _is_small(self, matched: Matched, nanos: int, tokens: int) -> bool:
        """Return whether these amounts are a small part of what each account has left, and not beyond its overdraft.

        Nothing is small at the end of a period.
        Requests whose gaps are beyond it go one at a time: they would wait for the advance of others.
        """
        if self._accounts is None or matched.until_ms - self._clock_ms() < SOON_MS:
            return False
        amounts, taken = (nanos, nanos, tokens, tokens, REQUESTS_AHEAD), self._accounts.taken
        for kind, place, limit, overdraft in matched.rooms:
            amount = amounts[kind]
            if amount > overdraft or PART * amount > limit - taken(place):
                return False
        return True
