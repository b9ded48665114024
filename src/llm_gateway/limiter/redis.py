"""Rate limiter of all hosts: counted in Redis, and beside it in the limiter of this host, which goes on without Redis.

    take ── own limiter ── full ──▶ refused
              └─ fits ── Redis, with others of the turn ── full ──▶ given back, refused
                              ├─ fits ──▶ granted
                              └─ no reply for 50 ms ──▶ granted if this host is the only one, else given back

The own limiter counts each call of this host, also while Redis counts. Its limits are the whole ones while Redis alone
decides (`counting_mode.py`), and this host's bounds otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llm_gateway.domain.rate_limits import ReportedLimits, WindowState
from llm_gateway.limiter.base import NOBODY, Before, Decision, Limiter, Reservation, Wanted
from llm_gateway.limiter.other_hosts_calls import NEVER
from llm_gateway.limiter.redis_batches import AGAIN_S, RedisBatches, SharedReservation, Windows
from llm_gateway.limiter.redis_membership import RedisHost
from llm_gateway.limiter.redis_scripts import ADD
from llm_gateway.limiter.redis_windows import RedisWindow
from llm_gateway.limiter.window import BUCKETS

MOST_WINDOWS = 4096
"""Windows of which something is known; at more, all is forgotten, and comes with the next replies."""
MOST_NOTED = 50_000
"""Noted seconds of windows at which those that have left the window are dropped; later at twice those that stay."""
LONGEST_WAIT_S, LOOK_S = 3.0, 0.05
"""Longest wait of a request for its key's limits, while this host takes nothing since it has lost Redis; and seconds
between two looks whether it does."""
_EXCEEDS = Decision(exceeds=True)


class RedisLimiter:
    """A `Limiter` that counts the calls of all hosts with the same Redis. `local` is that of this host.

    `prefix` tells its windows from those of other limiters.
    """

    def __init__(self, host: RedisHost, local: Limiter, *, prefix: str) -> None:
        self._mode = host.mode
        self._client = host.client
        self._clock = host.clock
        self._local = local
        self._prefix = f"{host.prefix}:{prefix}:"
        self._server_clock = host.server_clock
        self._windows: dict[str, RedisWindow] = {}
        self._batches = RedisBatches(host, local, self._note)
        self._noted: dict[tuple[str, int], list[int]] = {}
        self._most_noted = MOST_NOTED
        host.join(lambda: bool(self._noted), self.add_noted)
        host.at_end.append(self._batches.send)
        host.when_shared.append(self._unbound)
        self._watchers: dict[str, Callable[[], None]] = {}

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Decision:
        """Reserve one request and `tokens` if both fit into the limits of all hosts; otherwise reserve nothing.

        Raises:
            Overloaded: the limiter of this host cannot tell.
        """
        mode = self._mode
        for _ in range(2):
            window = self._windows.get(provider_id) or self._window(provider_id)
            own: Reservation | Decision | None = None
            # The usual case of `_take_here`. Redis is up then, else `shared_until` is over: there is nothing to note.
            if self._clock() < mode.shared_until and window.others.full is None and tokens <= tpm and rpm >= 1:
                own = self._local.take_now(provider_id, rpm, tpm, tokens, model)
            if own is None:
                decision = await self._take_here(Wanted(provider_id, rpm, tpm, tokens, model))
                own = decision.reservation
                if own is None or not mode.is_up:
                    return decision
            elif type(own) is Decision:
                return own
            future = self._batches.ask(window, rpm, tpm, own)
            try:
                came = await future
            except BaseException:  # edge: cancelled
                self._cancelled(future, (own,))
                raise
            if came is not None:
                return came
        return Decision(None, AGAIN_S)

    def take_now(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Decision | None:
        """Return None, since Redis has to be asked; or that the request exceeds the limit."""
        return _EXCEEDS if tokens > tpm or rpm < 1 else None

    async def take_all(self, wanted: Sequence[Wanted]) -> tuple[list[Reservation], Decision | None]:
        """Reserve in all of these windows, in one trip.

        Raises:
            Overloaded: the limiter of this host cannot tell.
        """
        mode = self._mode
        if self._clock() >= mode.shared_until:
            for _ in range(round(LONGEST_WAIT_S / LOOK_S)):  # no line to wait in, as there is at providers' limits
                if not mode.is_quiet:
                    break
                await asyncio.sleep(LOOK_S)
        if len(wanted) == 1:
            decision = await self.take(*wanted[0])
            return ([decision.reservation], None) if decision.reservation is not None else ([], decision)
        for _ in range(2):
            held: list[Reservation] = []
            windows = self._take_all_now(wanted, held)
            if windows is None:
                refused = await self._take_others_here(wanted, held)
                if refused is not None or not mode.is_up:
                    return held, refused
                windows = tuple([self._window(each.window) for each in wanted])
            future = self._batches.ask_all(windows, wanted, held)
            try:
                came = await future
            except BaseException:  # edge: cancelled
                self._cancelled(future, held)
                raise
            if came is not None:
                return came
        return [], Decision(None, AGAIN_S)

    def _take_all_now(self, wanted: Sequence[Wanted], held: list[Reservation]) -> Windows | None:
        """Reserve at this host's own limiter in the usual case of `_take_here`. Returns the windows.

        Returns None at the first of them where it is another case; `held` has the reservations before it.
        """
        if self._clock() >= self._mode.shared_until:
            return None
        windows: list[RedisWindow] = []
        try:
            for name, rpm, tpm, tokens, model in wanted:
                window = self._windows.get(name) or self._window(name)
                if window.others.full is not None or tokens > tpm or rpm < 1:
                    return None
                own = self._local.take_now(name, rpm, tpm, tokens, model)
                if own is None or type(own) is Decision:
                    return None
                held.append(own)
                windows.append(window)
        except BaseException:  # edge: the limiter of this host cannot tell
            self._batches.give_back(held)
            raise
        return tuple(windows)

    async def _take_others_here(self, wanted: Sequence[Wanted], held: list[Reservation]) -> Decision | None:
        """Reserve at this host's own limiter in the windows after those that `held` is of. Returns the refusal."""
        try:
            for each in wanted[len(held) :]:
                decision = await self._take_here(each)
                if decision.reservation is None:
                    return decision
                held.append(decision.reservation)
        except BaseException:  # edge: cancelled, or the limiter of this host cannot tell
            self._batches.give_back(held)
            raise
        return None

    async def _take_here(self, wanted: Wanted) -> Decision:
        """Reserve at this host's own limiter, within its bounds."""
        provider_id, rpm, tpm, tokens, model = wanted
        if tokens > tpm or rpm < 1:
            return _EXCEEDS
        mode = self._mode
        now, is_up = self._clock(), mode.is_up
        is_shared = now < mode.shared_until
        if is_shared:
            others = self._window(provider_id).others
            wait_s = others.full_s(now, rpm, tpm, tokens) if others.full is not None else 0.0
            if wait_s:
                return Decision(None, wait_s)
        else:
            rpm, tpm = self._bounds(provider_id, rpm, tpm)
            if rpm < 1 or tokens > tpm:
                return Decision(None, mode.again_s())
        decision = await self._local.take(provider_id, rpm, tpm, tokens, model)
        has_changed = (mode.is_up, self._clock() < mode.shared_until) != (is_up, is_shared)
        if has_changed and decision.reservation is not None:  # it had to wait, and other bounds hold by now
            self._batches.give_back([decision.reservation])
            return Decision(None, AGAIN_S)
        if decision.reservation is not None and not is_up:
            self._note(decision.reservation)
        return decision

    def _cancelled(self, future: asyncio.Future[Any], held: Sequence[Reservation]) -> None:
        """Give back what a request holds that was cancelled while it waited; also what Redis has granted by now."""
        if future.cancel() or future.cancelled():
            self._batches.give_back(held)
            return
        came = future.result()
        if came is None:
            return
        granted = came[0] if came.__class__ is tuple else () if came.reservation is None else (came.reservation,)
        for reservation in granted:
            self.settle(reservation, tokens=0, sent=False)

    def _window(self, name: str) -> RedisWindow:
        window = self._windows.get(name)
        if window is None:
            if len(self._windows) >= MOST_WINDOWS:
                self._windows.clear()
            window = self._windows[name] = RedisWindow(name, self._prefix + name)
        return window

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        """Correct the reservation to `tokens`, here and in Redis; `sent=False` releases the request as well."""
        self._local.settle(reservation, tokens, sent, lasted_s)
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        if reservation.__class__ is not SharedReservation:
            noted = self._noted.get((reservation.provider_id, reservation.bucket))
            if noted is not None:
                noted[0] -= not sent
                noted[1] += tokens - reservation.tokens
            return
        window = self._windows.get(reservation.provider_id) or self._window(reservation.provider_id)
        if window.others.full_at != NEVER:
            window.others.settled(self._clock(), reservation, tokens)
        if reservation.memory != self._mode.memory:
            return
        sums = window.unsettled.get(reservation.remote)
        if sums is None or not sent:
            self._batches.settle(window, reservation.remote, reservation.tokens, tokens, 0 if sent else 1)
        else:  # the usual case of `RedisBatches.settle`
            sums[0] += reservation.tokens
            sums[1] += tokens

    def _note(self, reservation: Reservation) -> None:
        """Note a call that Redis has not counted."""
        place = reservation.provider_id, reservation.bucket
        noted = self._noted.get(place)
        if noted is None:
            if len(self._noted) >= self._most_noted:
                oldest = int(self._clock()) - BUCKETS
                self._noted = {each: counts for each, counts in self._noted.items() if each[1] > oldest}
                self._most_noted = max(MOST_NOTED, 2 * len(self._noted))
            noted = self._noted[place] = [0, 0]
        noted[0] += 1
        noted[1] += reservation.tokens

    def add_noted(self) -> Awaitable[bool]:
        """Add to Redis what this process took while Redis was away, as `RedisHost.join` takes it."""
        noted, self._noted = self._noted, {}
        return self._added(noted, [self._client.call_packed(call, ADD) for call in self._calls_of(noted)])

    async def _added(self, noted: dict[tuple[str, int], list[int]], sent: Sequence[Awaitable[Any]]) -> bool:
        replies = [await each for each in sent]
        if any(reply != 0 for reply in replies):
            for place, (requests, tokens) in noted.items():  # twice counted is better than not at all
                kept = self._noted.setdefault(place, [0, 0])
                kept[0] += requests
                kept[1] += tokens
            return False
        return True

    def _calls_of(self, noted: dict[tuple[str, int], list[int]]) -> list[bytes]:
        """Return the packed calls that add these counts: a second later than noted, since they count to the second."""
        now = int(self._clock())
        windows: dict[str, list[int]] = {}
        for (window, bucket), (requests, tokens) in noted.items():
            age = max(now - bucket - 1, 0)
            if age < BUCKETS and requests > 0:
                windows.setdefault(window, []).extend((age, requests, max(tokens, 0)))
        time = "" if self._server_clock is None else int(self._server_clock() * 1e6)
        return [ADD.call([self._prefix + window], [time, *counts]) for window, counts in windows.items()]

    def next_free(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "", *, before: Before = NOBODY
    ) -> float:
        """Return the seconds until a request could fit if those `before` it, and no others, come first; 0 if now."""
        if self._clock() < self._mode.shared_until:
            wait_s = self._local.next_free(provider_id, rpm, tpm, tokens, model, before=before)
            return max(wait_s, self._window(provider_id).others.full_s(self._clock(), rpm, tpm, tokens, before))
        own_rpm, own_tpm = self._bounds(provider_id, rpm, tpm)
        if own_rpm < 1 or min(tokens, tpm) > own_tpm:
            return self._mode.again_s()
        return self._local.next_free(provider_id, own_rpm, own_tpm, tokens, model, before=before)

    def state(self, provider_id: str, rpm: int, tpm: int, model: str = "") -> WindowState:
        """Return what is left of the limits now: here, less what other hosts had when Redis was asked last."""
        if self._clock() < self._mode.shared_until:
            own = self._local.state(provider_id, rpm, tpm, model)
            return self._window(provider_id).others.left(self._clock(), own)
        own_rpm, own_tpm = self._bounds(provider_id, rpm, tpm)
        own = self._local.state(provider_id, own_rpm, own_tpm, model)
        return WindowState(rpm, own.remaining_requests, tpm, own.remaining_tokens, own.reset_s)

    def _bounds(self, window: str, rpm: int, tpm: int) -> tuple[int, int]:
        """Return this host's own limits while Redis does not decide alone."""

        def sums() -> tuple[int, int]:
            own = self._local.state(window, rpm, tpm)
            return rpm - own.remaining_requests, tpm - own.remaining_tokens

        return self._mode.bounds(self._prefix + window, rpm, tpm, sums)

    def cap(self, reservation: Reservation, reported: ReportedLimits) -> None:
        """Lower this host's window of (provider, model) to what the provider reported with the response to this call.

        What other hosts take meanwhile, the provider's next report shows.
        """
        self._local.cap(reservation, reported)

    def uncap(self, provider_id: str, changed_ms: int) -> None:
        """Forget what the provider reported of its limits, once for a change of its account at `changed_ms`."""
        self._local.uncap(provider_id, changed_ms)

    def watch(self, provider_id: str, freed: Callable[[], None] | None) -> None:
        """Call `freed` whenever a call of this host can have made room, or Redis alone decides again.

        Room that other hosts make is not told.
        """
        self._local.watch(provider_id, freed)
        if freed is None:
            self._watchers.pop(provider_id, None)
        else:
            self._watchers[provider_id] = freed

    def _unbound(self) -> None:
        """Let those try at once that wait for room, since this host's bounds no longer hold."""
        loop = asyncio.get_running_loop()
        for freed in self._watchers.values():
            loop.call_soon(freed)

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count a call of an earlier run of this host. Redis has counted it."""
        self._local.refill(provider_id, age_s, tokens)

    def forget(self, provider_id: str) -> None:
        """Drop the window of a deleted provider."""
        self._local.forget(provider_id)
        self._windows.pop(provider_id, None)
        self._client.send(b"DEL", self._prefix + provider_id)

    def close(self) -> None:
        """Give back what this host has counted without a call. Redis counts calls only."""
        self._local.close()
