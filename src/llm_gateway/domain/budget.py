"""Budgets: what the requests that match may spend in a period, and the accounts that their spending is counted in.

A budget has one account, or one for each value of a dimension (`per`). An account of a period is a new account: nothing
is ever set to zero.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import msgspec

Unit: TypeAlias = Literal["usd", "tokens", "requests"]
PeriodName: TypeAlias = Literal["hour", "day", "week", "month", "quarter", "total"]
Mode: TypeAlias = Literal["hard", "soft", "observe"]
Hold: TypeAlias = Literal["expected", "bound"]

DIMENSIONS = ("team", "key", "user_id", "service", "task_type", "model", "provider", "session", "agent")
"""What a budget can match and be counted per, besides tags (`tag:NAME`)."""
OVERDRAFT_PERCENT = 20
"""Default of a budget's `overdraft`, as percent of its limit."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A budget. Amounts are in its `unit`: nano-dollars, tokens or requests.

    Attributes:
        match: globs by dimension, all of which a request must match; empty: all requests.
        per: the dimension whose values have an account each; None: one account.
        limit: the most that an account may spend in a period.
        timezone: IANA name of the zone whose clock the period's boundaries are on.
        anchor: the first day of a month or quarter (1 to 28), of a week (1 Monday to 7), or hour of a day (0 to 23).
        carry: the part of what the last period left that is added to the limit, 0.0 to 1.0.
        mode: `hard` refuses, `soft` warns, `observe` counts.
        hold: what is held for a request before it is sent: its `expected` cost, or the most it can cost (`bound`).
        unpriced: whether a model without a known price is refused in a budget of dollars.
        overdraft: with `expected`, the most that the bounds of requests in flight may exceed what is held for them.
        notify_at: parts of the limit, such as 0.8; a webhook gets a message at each.
        override_limit: another limit until `override_until_ms` (milliseconds UTC).
    """

    id: str
    name: str
    match: dict[str, str] = {}
    per: str | None = None
    unit: Unit = "usd"
    limit: int
    period: PeriodName = "month"
    timezone: str = "UTC"
    anchor: int = 1
    carry: float = 0.0
    mode: Mode = "hard"
    hold: Hold = "expected"
    unpriced: Literal["reject", "allow"] = "reject"
    overdraft: int = 0
    notify_at: tuple[float, ...] = ()
    override_limit: int | None = None
    override_until_ms: int = 0

    @property
    def rejects_unpriced(self) -> bool:
        """Whether it refuses calls of a model whose price is not known."""
        return self.mode == "hard" and self.unit == "usd" and self.unpriced == "reject"

    @property
    def is_never_passed(self) -> bool:
        """Whether no account spends more than its limit: all that a request can take is held before it is sent."""
        return self.mode == "hard" and self.hold == "bound" and self.unit != "requests"


class AccountRef(NamedTuple):
    """Name of an account in one period, in which a request's spending is counted.

    `value` is the value of the budget's `per` dimension, "" if it has none. `period_start_ms` is in milliseconds UTC.
    """

    budget_id: str
    value: str
    period_start_ms: int


class Balance(NamedTuple):
    """Spending of an account: nano-dollars, tokens and requests."""

    nanos: int = 0
    tokens: int = 0
    requests: int = 0

    def of(self, unit: Unit) -> int:
        """Return the amount in a budget's unit."""
        return self.nanos if unit == "usd" else self.tokens if unit == "tokens" else self.requests
