"""A clock, a chance and breakers for the tests of what fails."""

from __future__ import annotations

from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Chance:
    """0.5 is no jitter at all."""

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
    """One call after the other: `.` succeeds, `x` fails, `-` tells nothing."""
    for end in ends:
        permit = admitted(breaker)
        {".": breaker.succeed, "x": breaker.fail, "-": breaker.release}[end](permit)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    calls(breaker, "xxxxx")
    assert state(breaker) == "open"
    return breaker
