"""Pause calls to one model after its provider said that the account has no such model (403 or 404).

No I/O: the clock is injected. One `ModelPause` per (provider, model):

    active ── refused ──▶ paused ── 5 minutes are over, next call ──▶ active

The next call is an ordinary one: if it is refused, too, the pause begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MODEL_PAUSE_S = 300.0


class ModelPause:
    """The pause of one (provider, model)."""

    __slots__ = ("_clock", "_until", "is_paused")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = 0.0
        self.is_paused = False
        """True from a refusal until `end`; while False, no other method need be called."""

    def remaining_s(self) -> float:
        """Return the seconds until a call may start; 0 or less if the pause is over."""
        return self._until - self._clock()

    def end(self) -> None:
        """Become active; call it before the first call after the pause."""
        self.is_paused = False

    def refused(self) -> bool:
        """Report that the provider does not have the model. Returns whether this began a pause."""
        began = not self.is_paused
        self.is_paused = True
        self._until = self._clock() + MODEL_PAUSE_S
        return began

    def dump(self) -> tuple[float, ...]:
        """Return the state for `load`."""
        return self._until, self.is_paused

    def load(self, dumped: Sequence[float]) -> None:
        """Take over the state that another worker's `dump` returned."""
        self._until, is_paused = dumped
        self.is_paused = is_paused > 0
