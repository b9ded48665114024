"""Remember which request sizes exceeded a model's context window, so that later ones of that size try others first.

No I/O: the clock is injected. Windows that are listed are `Candidate.context_window`; this is for what only a
provider's refusal told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

REMEMBERED_S = 600.0
"""Seconds for which a refusal is remembered: models are replaced, and estimates of tokens are rough."""

_Key: TypeAlias = tuple[str, str]


class _TooLarge(NamedTuple):
    """The size of a request that was refused: estimated input tokens, and those with `max_tokens`."""

    input_tokens: int
    total_tokens: int
    until: float


class ContextLimits:
    """Sizes refused within ten minutes, the smallest one of each (provider id, model)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.sizes: dict[_Key, _TooLarge] = {}
        """The sizes remembered; while it is empty, `exceeds` need not be called."""

    def learn(self, provider_id: str, model: str, input_tokens: int, total_tokens: int) -> None:
        """Remember that a request of this estimated size was refused; `total_tokens` includes `max_tokens`."""
        now = self._clock()
        known = self.sizes.get((provider_id, model))
        if known is None or known.until <= now or input_tokens <= known.input_tokens:
            self.sizes[provider_id, model] = _TooLarge(input_tokens, total_tokens, now + REMEMBERED_S)

    def exceeds(self, provider_id: str, model: str, input_tokens: int, total_tokens: int) -> bool:
        """Return whether a request of at least this size was refused by input and in total.

        A larger input with a smaller `max_tokens` may fit, so both must be at least as large.
        """
        key = provider_id, model
        known = self.sizes.get(key)
        if known is None:
            return False
        if known.until <= self._clock():
            del self.sizes[key]
            return False
        return input_tokens >= known.input_tokens and total_tokens >= known.total_tokens

    def forget(self, provider_id: str) -> None:
        """Drop what is remembered of a provider that was deleted or has another address or key."""
        for key in [key for key in self.sizes if key[0] == provider_id]:
            del self.sizes[key]
