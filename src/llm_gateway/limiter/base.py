"""The contract of a rate limiter: reserve a request and its tokens before a call, correct them after it."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """One request and `tokens`, counted in the provider's window in the second `bucket` (of the limiter's clock)."""

    provider_id: str
    bucket: int
    tokens: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer of `Limiter.take`, one of three.

    Granted: `reservation` is set. Full: the request may fit in `retry_after_s` seconds. Never: `exceeds` is True, since
    the request is larger than the whole limit.
    """

    reservation: Reservation | None = None
    retry_after_s: float = 0.0
    exceeds: bool = False


class Limiter(Protocol):
    """A sliding window per provider: at most `rpm` requests and `tpm` tokens in any 60 seconds.

    Order of the calls: `refill` at start, for the calls of an earlier run; then, for each call to a provider, `take`
    and at most one `settle`; `forget` when a provider is deleted. Example:

        decision = await limiter.take("openai", rpm=500, tpm=200_000, tokens=1_200)
        if decision.reservation is None:
            ...  # decision.exceeds: reject the request; else: try another provider, or wait decision.retry_after_s
        else:
            used = await call_provider()
            limiter.settle(decision.reservation, tokens=used)
    """

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int) -> Decision:
        """Reserve one request and `tokens` if both fit into the limits `rpm` and `tpm`; otherwise reserve nothing.

        Called before each call to a provider, with the most tokens that the call can use. The limits are passed each
        time, so that a changed limit applies to the next call.
        """
        ...

    def settle(self, reservation: Reservation, *, tokens: int, sent: bool = True) -> None:
        """Correct the reservation to the `tokens` that were used. Must not wait.

        Called at most once per reservation, after the call. With `sent=False`, for a call that was never sent, the
        request is released as well. Not called if the use is unknown (time-out, broken stream): the reservation then
        stays counted.
        """
        ...

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count one request and `tokens` of a call that an earlier run made `age_s` seconds ago. Must not wait.

        Called before the first `take`, once per recent call in the usage records.
        """
        ...

    def forget(self, provider_id: str) -> None:
        """Drop the window of a deleted provider. A `settle` of one of its reservations then has no effect."""
        ...
