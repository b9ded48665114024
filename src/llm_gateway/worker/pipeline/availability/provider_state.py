"""States of one provider and of its models, as one worker sees them; `host_states.py` shares them with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llm_gateway.domain.catalog import Candidate
from llm_gateway.worker.pipeline.availability.account_pause import AccountPause
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker
from llm_gateway.worker.pipeline.availability.host_states import Slot
from llm_gateway.worker.pipeline.availability.model_pause import ModelPause
from llm_gateway.worker.pipeline.availability.rate_limit_gate import RateLimitGate
from llm_gateway.worker.pipeline.availability.sliding_counts import SlidingCounts

OF_BREAKER, OF_GATE = 6, 10
"""Numbers of the breaker's state, and of the gate's after it."""

LogChange: TypeAlias = Callable[[str, Candidate, str, float | None], None]
"""Log a change: the event, the candidate whose call caused it, the reason, and for how many seconds, if known."""


class ModelState:
    """The state of one (provider, model): its breaker, its gate and its pause.

    `candidate` is the one of the last change, for the log. `is_current` is False once the configuration has replaced
    it; only calls in flight still report to it.
    """

    __slots__ = ("breaker", "candidate", "gate", "is_current", "pause", "slot")

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self.breaker = CircuitBreaker(clock, random)
        self.gate = RateLimitGate(clock)
        self.pause = ModelPause(clock)
        self.candidate: Candidate | None = None
        self.is_current = True
        self.slot: Slot | None = None

    def dump(self) -> tuple[float, ...]:
        """Return the state as numbers, the breaker's first."""
        return (*self.breaker.dump(), *self.gate.dump(), *self.pause.dump())

    def load(self, dumped: Sequence[float]) -> None:
        """Take over a state that `dump` returned."""
        self.breaker.load(dumped[:OF_BREAKER])
        self.gate.load(dumped[OF_BREAKER : OF_BREAKER + OF_GATE])
        self.pause.load(dumped[OF_BREAKER + OF_GATE :])


class ProviderState:
    """The state of one provider: its account, its models, its calls in flight, and its recent calls and retries.

    The account is what `dump` and `load` are about; models have slots of their own.
    """

    __slots__ = ("account", "calls", "candidate", "in_flight", "is_current", "log_change", "models", "slot")

    def __init__(self, clock: Callable[[], float], log_change: LogChange) -> None:
        self.log_change = log_change
        self.account = AccountPause(clock)
        self.candidate: Candidate | None = None
        self.models: dict[str, ModelState] = {}
        self.in_flight = 0
        self.calls = SlidingCounts()
        self.is_current = True
        self.slot: Slot | None = None

    def dump(self) -> tuple[float, ...]:
        """Return the account's state as numbers."""
        return self.account.dump()

    def load(self, dumped: Sequence[float]) -> None:
        """Take over a state that `dump` returned."""
        self.account.load(dumped)

    def drop_models(self) -> list[ModelState]:
        """Detach and return the models; what calls in flight still report to them is neither logged nor shared."""
        models, self.models = self.models, {}
        dropped = list(models.values())
        for model in dropped:
            model.is_current = False
        return dropped
