"""The contract of a limiter: take before the call, settle after it."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """What was taken: one request and `tokens`, counted in the second `bucket` of the provider's window."""

    provider_id: str
    bucket: int
    tokens: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Granted (`reservation` is set), full (`retry_after_s` says when it may fit), or never (`exceeds`)."""

    reservation: Reservation | None = None
    retry_after_s: float = 0.0
    exceeds: bool = False


class Limiter(Protocol):
    """Windows of any 60 seconds per provider, requests and tokens taken together or not at all."""

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int) -> Decision:
        """Take one request and `tokens`, if both fit into the limits `rpm` and `tpm`; otherwise take nothing."""
        ...

    def settle(self, reservation: Reservation, *, tokens: int, sent: bool = True) -> None:
        """Correct the reservation to `tokens`; `sent=False` gives the request back too. Never waits."""
        ...

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count a call that was made `age_s` seconds ago, by an earlier run."""
        ...

    def forget(self, provider_id: str) -> None:
        """Drop the window of a provider that is gone."""
        ...
