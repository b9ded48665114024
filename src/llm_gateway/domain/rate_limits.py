"""Rate limits as data: what a provider reports about its own limits, and the state of the gateway's own window."""

from __future__ import annotations

import msgspec


class ReportedLimit(msgspec.Struct, frozen=True, gc=False):
    """One limit as a provider reports it with a response: `remaining` of `limit`, whole again in `reset_s` seconds.

    `limit` is None if the provider does not report it. `counts_bound`: the provider counts a call's `max_tokens` when
    the call arrives; otherwise it counts tokens as they are produced.
    """

    remaining: int
    reset_s: float
    limit: int | None = None
    counts_bound: bool = True


class ReportedLimits(msgspec.Struct, frozen=True, gc=False):
    """The limits that a provider reports with one response; None for one that it does not report."""

    requests: ReportedLimit | None = None
    tokens: ReportedLimit | None = None


class WindowState(msgspec.Struct, frozen=True, gc=False):
    """The state of a provider's rate-limit window, for clients: the limits, and what is left of them.

    `reset_s` is the time in seconds until the window is empty. `remaining_*` is the smaller one of what is left of the
    gateway's own window and of what the provider reported.
    """

    limit_requests: int
    remaining_requests: int
    limit_tokens: int
    remaining_tokens: int
    reset_s: float
