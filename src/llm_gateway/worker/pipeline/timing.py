"""The clock, sleep and random numbers of failover, and the deadline of a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from llm_gateway.errors import DeadlineExceeded
from llm_gateway.worker.pipeline.routing_state import RoutingState

TOO_LATE = (
    "No provider answered within the request's deadline, which is its x-request-timeout-ms, else "
    "LLM_GATEWAY_REQUEST_TIMEOUT_SECONDS: raise it, or ask for less."
)
DEADLINE_SLACK_S = 0.005
"""Seconds before the deadline from which no attempt is started: it could not be answered any more."""


class Timing(NamedTuple):
    """Clock, sleep and random numbers of failover, injected so that tests control them."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def remaining_s(self, state: RoutingState) -> float:
        """Return the seconds until the request's deadline."""
        return state.request.deadline - self.clock()

    def check_deadline(self, state: RoutingState) -> None:
        """Check that another attempt can still be answered.

        Raises:
            DeadlineExceeded: the deadline passed, or is too near. The error names the last failure.
        """
        if self.remaining_s(state) <= DEADLINE_SLACK_S:
            last = f" The last attempt: {state.failure.message}" if state.failure is not None else ""
            raise DeadlineExceeded(f"{TOO_LATE}{last}")
