"""The contract of a rate limiter: reserve a request and its tokens before a call, correct them after it.

A reservation is open from `take` to `settle`. What is only reserved is counted apart from what was used: settling an
open reservation can make room long before its second leaves the window.

    take ── granted ──▶ open ── settle(tokens, sent) ──▶ used: counts until its second leaves the window
      │                   └──── never settled ─────────▶ counts in full until its second leaves the window
      └── full ──▶ wait `retry_after_s`, or for the callback of `watch`, and take again
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, final

import msgspec

from llm_gateway.domain.rate_limits import ReportedLimits, WindowState


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """One request and `tokens`, counted in the provider's window in the second `bucket` (of the limiter's clock).

    `calls_taken` and `tokens_taken` are the model's running totals up to and including this reservation. They tell
    which calls a provider cannot have counted yet in the limits that it reports with this call's response.
    """

    provider_id: str
    bucket: int
    tokens: int
    model: str = ""
    calls_taken: int = 0
    tokens_taken: int = 0


class Before(msgspec.Struct, frozen=True, gc=False):
    """The requests that come before another one, and the tokens that they will reserve."""

    requests: int = 0
    tokens: int = 0


NOBODY = Before()


@final
class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer of `Limiter.take`, one of three.

    Granted: `reservation` is set; `is_crowded` is True if more than half of the window is taken now. Full: the request
    may fit in `retry_after_s` seconds; `by_model` is True if only the limits that the provider reported for this model
    are full for so long. Never: `exceeds` is True, since the request is larger than the whole limit.
    """

    reservation: Reservation | None = None
    retry_after_s: float = 0.0
    exceeds: bool = False
    is_crowded: bool = False
    by_model: bool = False


class Wanted(NamedTuple):
    """One request and `tokens` in the window of a provider or a service key: the arguments of `Limiter.take`."""

    window: str
    rpm: int
    tpm: int
    tokens: int
    model: str = ""


class Limiter(Protocol):
    """A sliding window per provider: at most `rpm` requests and `tpm` tokens in any 60 seconds.

    Order of the calls: `refill` at start, for the calls of an earlier run; then, for each call to a provider, `take`,
    at most one `cap`, and exactly one `settle`; `uncap` when a provider's address or key changed, `forget` when it is
    deleted; `close` at the end. Example:

        decision = await limiter.take("openai", rpm=500, tpm=200_000, tokens=1_200, model="gpt-5")
        if decision.reservation is None:
            ...  # decision.exceeds: reject the request; else: try another provider, or wait decision.retry_after_s
        else:
            response = await call_provider()
            limiter.cap(decision.reservation, limits_reported_in(response.headers))
            limiter.settle(decision.reservation, tokens=response.tokens_used)
    """

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Decision:
        """Reserve one request and `tokens` if both fit into the limits `rpm` and `tpm`; otherwise reserve nothing.

        Called before each call to a provider, with the most tokens that the call can use. The limits are passed each
        time, so that a changed limit applies to the next call. `model` selects the limits that `cap` reported.

        Raises:
            Overloaded: the backend cannot tell within 250 ms whether the request fits.
        """
        ...

    def take_now(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = ""
    ) -> Reservation | Decision | None:
        """Reserve as `take` does, but without waiting, and without telling whether the window is crowded.

        Returns the reservation, or the decision that there is none; None if the backend cannot tell at once.

        Raises:
            Overloaded: there is no room for another window.
        """
        ...

    async def take_all(self, wanted: Sequence[Wanted]) -> tuple[list[Reservation], Decision | None]:
        """Reserve in each of these windows, in their order.

        Returns all reservations and None; or those before the first window that is full, and the decision about that
        one. The caller settles them.

        Raises:
            Overloaded: as `take`; nothing is reserved then.
        """
        ...

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        """Correct the reservation to the `tokens` that were used. Must not wait.

        Called once per reservation, after the call. With `sent=False`, for a call that was never sent, the request is
        released as well. If the use is unknown (time-out, broken stream), `tokens` is the whole reservation. `lasted_s`
        are the whole seconds that the call took, if they are known.
        """
        ...

    def next_free(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "", *, before: Before = NOBODY
    ) -> float:
        """Return the seconds until a request could fit if those `before` it, and no others, come first; 0 if now.

        Of the tokens reserved before it, the share counts that recent calls used of theirs; of a service key's none,
        since nobody waits in line for its limits. If settling open reservations could make the room, it is the time by
        which nine of ten calls like them have ended, at least 1 s. More than a whole limit counts as the whole limit.
        Must not wait: a remote backend answers from the last state that it saw.
        """
        ...

    def cap(self, reservation: Reservation, reported: ReportedLimits) -> None:
        """Lower the window of (provider, model) to what the provider reported with the response to this call.

        Its limit refills evenly until it is whole; calls taken after this one are subtracted, since the provider had
        not counted them. A later call's report replaces an earlier one's. Must not wait.
        """
        ...

    def uncap(self, provider_id: str, changed_ms: int) -> None:
        """Forget what the provider reported of its limits, since it is called with another account now.

        `changed_ms` is the time of the change. Processes that share a window call this one after the other; only the
        first call for a change has an effect, so that reports that came after it stay.
        """
        ...

    def state(self, provider_id: str, rpm: int, tpm: int, model: str = "") -> WindowState:
        """Return what is left of the limits now, for clients. Must not wait."""
        ...

    def watch(self, provider_id: str, freed: Callable[[], None] | None) -> None:
        """Call `freed` whenever a call of this process makes room in the provider's window; None ends it.

        Used while requests wait for room. Room that appears as time passes is not reported, and room that another
        process makes in a shared window is reported late or never: a waiter takes again after `retry_after_s` at the
        latest.
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

    def close(self) -> None:
        """Give back at once what is counted without a call. Called at the end of the process. Must not wait."""
        ...


class OneByOne:
    """The `take_all` of limiters that tell at once: one window after the other."""

    async def take_all(self: Limiter, wanted: Sequence[Wanted]) -> tuple[list[Reservation], Decision | None]:
        """Reserve in each of these windows; see `Limiter.take_all`."""
        held: list[Reservation] = []
        try:
            for each in wanted:
                decision = await self.take(*each)
                if decision.reservation is None:
                    return held, decision
                held.append(decision.reservation)
        except BaseException:  # edge: a request that is cancelled while it waits holds nothing
            for reservation in held:
                self.settle(reservation, tokens=0, sent=False)
            raise
        return held, None
