"""A clock for limiters, and functions that take from a limiter without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from llm_gateway.limiter.base import Decision, Limiter, Reservation


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, Decision]) -> Decision:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        decision: Decision = stop.value
        return decision
    raise AssertionError("it waited")


def take(limiter: Limiter, rpm: int, tpm: int = 10**9, tokens: int = 0, provider: str = "p") -> Decision:
    return run(limiter.take(provider, rpm, tpm, tokens))


def reserved(
    limiter: Limiter, rpm: int, tpm: int = 10**9, tokens: int = 0, *, provider: str = "p", model: str = ""
) -> Reservation:
    """Take, and return the reservation, which is open."""
    reservation = run(limiter.take(provider, rpm, tpm, tokens, model)).reservation
    assert reservation is not None
    return reservation


def taken(limiter: Limiter, rpm: int, tpm: int = 10**9, tokens: int = 0, provider: str = "p") -> Reservation:
    """Take, and settle with all of the tokens; a test may settle again, with fewer."""
    reservation = reserved(limiter, rpm, tpm, tokens, provider=provider)
    limiter.settle(reservation, tokens=tokens)
    return reservation


def place(decision: Decision) -> tuple[int, int]:
    """Return the second and the tokens of a granted reservation."""
    assert decision.reservation is not None
    return decision.reservation.bucket, decision.reservation.tokens


def free(limiter: Limiter, tpm: int) -> int:
    """Return how many of `tpm` tokens can be taken now, found by takes that are released at once."""
    return next(n for n in range(tpm, -1, -1) if fits(limiter, tpm, n))


def fits(limiter: Limiter, tpm: int, tokens: int, *, rpm: int = 10**9) -> bool:
    reservation = take(limiter, rpm, tpm, tokens).reservation
    if reservation is None:
        return False
    limiter.settle(reservation, tokens=0, sent=False)
    return True
