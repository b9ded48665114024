"""The answer to "may this candidate be called now?": a permit for one call, or how long to wait."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Wait(NamedTuple):
    """A candidate must not be called for `seconds`; `limited`: it is at a rate limit, else it failed or refused."""

    seconds: float
    limited: bool


class Permit(Protocol):
    """Leave for one call, which ends in exactly one of `succeed`, `fail`, `limited`, `refused` or `release`."""

    def holds(self) -> bool:
        """Whether the candidate may still be called."""
        ...

    def accepted(self) -> None:
        """The provider serves the call; said before its end, with the first content of a stream."""
        ...

    def succeed(self) -> None:
        """The call was answered, all of it."""
        ...

    def fail(self, message: str) -> None:
        """The call failed by the provider's fault, as `message` says (redacted)."""
        ...

    def limited(self, said_s: float | None, message: str) -> float:
        """The call was answered 429, with `said_s` as its Retry-After. Returns the seconds a client is told to wait."""
        ...

    def refused(self, request_id: str, content: int, message: str) -> None:
        """The provider refused the account; `content` is a hash of what was sent, to tell requests apart."""
        ...

    def release(self) -> None:
        """The call ended without telling anything, or was never made."""
        ...
