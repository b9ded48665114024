"""A clock, random numbers and circuit breakers for tests, and functions that drive them."""

from __future__ import annotations

from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Chance:
    """A source of random numbers that returns `value`; 0.5 means no jitter."""

    def __init__(self) -> None:
        self.value = 0.5

    def __call__(self) -> float:
        return self.value


def state(breaker: CircuitBreaker) -> str:
    return breaker.state


def admitted(breaker: CircuitBreaker) -> int:
    permit = breaker.admit()
    assert permit is not None
    return permit


def calls(breaker: CircuitBreaker, ends: str) -> None:
    """Make one call after the other: `.` succeeds, `x` fails, `-` is released."""
    for end in ends:
        permit = admitted(breaker)
        {".": breaker.succeed, "x": breaker.fail, "-": breaker.release}[end](permit)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    calls(breaker, "xxxxx")
    assert state(breaker) == "open"
    return breaker
