"""Rate limiter of all processes of a host: exact counts in shared memory, changed under the memory's lock.

    take ── lock free ──▶ granted or full, as in one process
      └── lock held ──▶ tries again for 250 ms, with the event loop running ── still held ──▶ Overloaded (503)

A holder that is killed gives the lock back; one that is stopped makes the others refuse. What must not wait (`settle`,
`cap`) is then kept, and carried out by the next method that gets the lock, or by a timer; until then too much counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llm_gateway.domain.rate_limits import ReportedLimits, WindowState
from llm_gateway.errors import Overloaded
from llm_gateway.host_memory import DIRTY, PROVIDERS, WORKERS, HostMemory
from llm_gateway.host_memory.lock import LIMITS, HostLock
from llm_gateway.host_memory.retry import Retry
from llm_gateway.limiter.base import NOBODY, Before, Decision, OneByOne, Reservation
from llm_gateway.limiter.shared_window import (
    PROVIDER_WINDOWS,
    SharedWindow,
    WindowTable,
    drop_open,
    has_open,
    recompute_sums,
)
from llm_gateway.limiter.window import BUCKETS, Window, blend

LONGEST_WAIT_S = 0.25
"""Longest wait for the lock: on a machine that other work fills, a holder may get no processor for 50 ms."""
STEP_S = 0.001
"""Seconds after which it is tried again."""
LOOK_S = 0.05
"""Seconds between two looks for room that another process made, while requests wait."""
MOST_WINDOWS, IDLE_S = 2 * PROVIDERS, 2 * BUCKETS
"""Windows of this process at which those are dropped that have no place in the memory, or no call in the last `IDLE_S`
seconds; later at twice those that stay. What they count stays in the memory."""
_EXCEEDS = Decision(exceeds=True)


class SharedLimiter(OneByOne):
    """A `Limiter` that counts the calls of all processes that opened the same memory.

    Args:
        memory: shared by the processes.
        number: this process's number, below `WORKERS`; no other living process has it.
        clock: seconds, the same in all processes.
        table: area of the memory that its windows are in: those of providers, or of service keys.
    """

    def __init__(
        self,
        memory: HostMemory,
        number: int,
        clock: Callable[[], float] = time.monotonic,
        table: WindowTable = PROVIDER_WINDOWS,
    ) -> None:
        if not 0 <= number < WORKERS:
            raise ValueError(f"The number of a process is 0 to {WORKERS - 1}, not {number}.")
        self._memory = memory
        self._table = table
        self._has_models = table.has_models
        self._most = MOST_WINDOWS
        self._words: Any = memory.words
        self._lock = HostLock(memory, LIMITS)
        self._try_lock, self._release = self._lock.try_lock, self._lock.release
        self._number = number
        self._clock = clock
        self._now, self._behind, self._is_crowded = clock(), 0.0, False
        self._windows: dict[str, Any] = {}  # of what `_open` returns
        self._watchers: dict[str, Callable[[], None]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._late: list[Callable[[], None]] = []
        self._retry = Retry(self._carry_out)
        self._freed: list[str] = []

    async def take(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "") -> Decision:
        """Reserve one request and `tokens` if both fit into the limits `rpm` and `tpm`; otherwise reserve nothing.

        Raises:
            Overloaded: another process held the lock for 250 ms, or the memory has no room for another window.
        """
        came = self.take_now(provider_id, rpm, tpm, tokens, model)
        if came is None:
            await self._enter_later()
            came = self._take(provider_id, rpm, tpm, tokens if tokens > 0 else 0, model)  # noqa: FURB136
        return came if type(came) is Decision else Decision(came, 0.0, False, self._is_crowded)

    def take_now(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = ""
    ) -> Reservation | Decision | None:
        """Reserve as `take` does, unless another process holds the lock: then return None.

        Raises:
            Overloaded: the memory has no room for another window.
        """
        if tokens > tpm or rpm < 1:
            return _EXCEEDS
        code = self._try_lock()
        if (code or self._late or self._words[DIRTY]) and not self._entered(code):
            return None
        return self._take(provider_id, rpm, tpm, tokens if tokens > 0 else 0, model)  # noqa: FURB136

    def _take(self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str) -> Reservation | Decision:
        """Reserve a request if it fits, and note whether its window is crowded. Needs the lock, and gives it back."""
        try:
            now, window = self._clock() + self._behind, self._windows.get(provider_id)
            if window is None or now < self._now or not window.ends_at(int(now)):
                window = self._window(provider_id)
                now = self._now
            self._now = now
            calls, model_tokens, wait_s, sums = 0, 0, 0.0, None
            if not self._has_models:
                sums = window.take_if_fits(rpm, tpm, tokens)
            else:
                use, account = window.use(model), window.account()
                wait_s = use.wait_s(now, account, tokens)
                if not wait_s:
                    sums = window.take_if_fits(rpm, tpm, tokens)
                    if sums is not None:
                        calls, model_tokens = use.take(now, tokens, account)
        finally:
            self._leave()
        if sums is not None:
            second, requests, all_tokens = sums
            self._is_crowded = requests * 2 > rpm or all_tokens * 2 > tpm
            return Reservation(provider_id, second, tokens, model, calls, model_tokens)
        window_s = window.copy(int(now)).wait_s(now, rpm, tpm, tokens)
        # It is 0 if another process made room meanwhile.
        return Decision(None, max(wait_s, window_s) or STEP_S, by_model=wait_s > window_s)

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        """Correct the reservation to `tokens` (negative counts as 0); `sent=False` releases the request as well.

        It has no effect once the reservation's second has left the window.
        """
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        code = self._try_lock()
        if (code or self._late or self._words[DIRTY]) and not self._entered(code):
            self._keep(partial(self._settle, reservation, tokens, sent, lasted_s))
            return
        try:
            self._settle(reservation, tokens, sent, lasted_s)
        finally:
            self._leave()

    def _settle(self, reservation: Reservation, tokens: int, sent: bool, lasted_s: int | None) -> None:
        if (window := self._known(reservation.provider_id)) is None:
            return
        bucket = reservation.bucket
        window.durations.add(int(self._clock() + self._behind) - bucket if lasted_s is None else lasted_s)
        if window.settle(bucket, reservation.tokens, tokens, 0 if sent else 1):
            if self._has_models:
                if reservation.tokens:
                    window.used_share = blend(window.used_share, reservation.tokens, tokens)
                window.free_room()
            if self._watchers:
                self._freed.append(reservation.provider_id)

    def next_free(
        self, provider_id: str, rpm: int, tpm: int, tokens: int, model: str = "", *, before: Before = NOBODY
    ) -> float:
        """Return the seconds until a request could fit if those `before` it, and no others, come first; 0 if now."""
        now = self._time()
        known = self._known(provider_id)
        window = Window(int(now)) if known is None else known.copy(int(now))
        requests = before.requests + 1
        tokens = min(max(tokens, 0) + int(before.tokens * window.used_share), tpm)
        use = None if known is None else known.known_use(model)
        reported = 0.0 if known is None or use is None else use.wait_s(now, known.account(), tokens, requests)
        return max(reported, window.wait_s(now, rpm, tpm, tokens, min(requests, rpm)))

    def cap(self, reservation: Reservation, reported: ReportedLimits) -> None:
        """Lower the window of (provider, model) to what the provider reported with the response to this call."""
        self._change(partial(self._cap, reservation, reported))

    def _cap(self, reservation: Reservation, reported: ReportedLimits) -> None:
        window = self._known(reservation.provider_id)
        use = None if window is None else window.known_use(reservation.model)
        if window is None or use is None:
            return
        use.report(reported, self._time(), window.account(), reservation.calls_taken, reservation.tokens_taken)
        window.free_room()
        self._freed.append(reservation.provider_id)

    def uncap(self, provider_id: str, changed_ms: int) -> None:
        """Forget what the provider reported of its limits, once for a change of its account at `changed_ms`."""
        self._change(partial(self._uncap, provider_id, changed_ms))

    def _uncap(self, provider_id: str, changed_ms: int) -> None:
        if (window := self._known(provider_id)) is not None:
            window.forget_reports(changed_ms)

    def state(self, provider_id: str, rpm: int, tpm: int, model: str = "") -> WindowState:
        """Return what is left of the limits now; the smaller one of the window's and of what the provider reported."""
        now = self._time()
        known = self._known(provider_id)
        if known is None:
            return WindowState(rpm, max(rpm, 0), tpm, max(tpm, 0), 0.0)
        request_sum, token_sum, newest = known.sums()
        if known.second() != int(now):
            window = known.copy(int(now))
            request_sum, token_sum = window.request_sum, window.token_sum
        requests, tokens = rpm - request_sum, tpm - token_sum
        use = known.known_use(model)
        if use is not None:
            requests, tokens = use.left(now, known.account(), requests, tokens)
        reset_s = newest + BUCKETS - now if request_sum else 0.0
        requests = requests if requests > 0 else 0  # noqa: FURB136 - max() takes five times as long
        tokens = tokens if tokens > 0 else 0  # noqa: FURB136 - max() takes five times as long
        return WindowState(rpm, requests, tpm, tokens, reset_s if reset_s > 0 else 0.0)

    def watch(self, provider_id: str, freed: Callable[[], None] | None) -> None:
        """Call `freed` whenever a settled call or a provider's report can have made room; None ends it.

        Room that another process made is noticed within `LOOK_S`, by a timer of the running event loop.
        """
        if freed is None:
            self._watchers.pop(provider_id, None)
            return
        self._watchers[provider_id] = freed
        if (known := self._known(provider_id)) is not None:
            known.has_news()  # what was before is not news
        if self._look is None:
            self._look_again()

    def refill(self, provider_id: str, age_s: float, tokens: int) -> None:
        """Count one request and `tokens` of a call that an earlier run made `age_s` seconds ago.

        For new memory only: memory that outlived the processes has counted the call. See `HostMemory.is_filled`.
        It counts in the second after its start, but not later than now: records hold the time at which a call started,
        and its provider may have received it a little later.
        """
        self._change(partial(self._refill, provider_id, self._time() - age_s, tokens))

    def _refill(self, provider_id: str, started: float, tokens: int) -> None:
        window = self._window(provider_id)
        newest = window.second()
        second = min(int(started) + 1, newest)
        if second > newest - BUCKETS:
            window.refill(second, max(tokens, 0))

    def forget(self, provider_id: str) -> None:
        """Drop the window of a deleted provider; settling its open reservations then has no effect."""
        self._change(partial(self._forget, provider_id))

    def _forget(self, provider_id: str) -> None:
        if (window := self._known(provider_id)) is not None:
            window.forget()
        self._windows.pop(provider_id, None)

    def close(self) -> None:
        """Carry out what is late: at once, or as soon as the lock can be had."""
        self._retry.now()

    def release_worker(self, number: int) -> None:
        """Drop the open tokens of a process that died, in all windows. What it took counts until it leaves the window.

        Called by the next process with this number. Without it waits are estimated too short for a minute, as they are
        in windows whose only row is that of all processes.
        """
        if self._table.rows == 1:
            return
        # All pages of the memory are new to a process that has just started. It must not read them under the lock,
        # for which calls of the other workers wait; nobody else writes what the dead process held.
        held = [at for at in self._table.of(self._words).used() if has_open(self._words, at, number)]
        if held:
            self._change(partial(self._release_worker, number, held))

    def _release_worker(self, number: int, held: Sequence[int]) -> None:
        for at in held:
            drop_open(self._words, at, number)

    def _change(self, change: Callable[[], None]) -> None:
        """Carry out a change under the lock, now or when it can be had."""
        if self._entered(self._try_lock()):
            try:
                change()
            finally:
                self._leave()
        else:
            self._keep(change)

    def _keep(self, change: Callable[[], None]) -> None:
        self._late.append(change)
        self._retry.start()

    def _carry_out(self) -> bool:
        is_entered = self._entered(self._try_lock())
        if is_entered:
            self._leave()
        return is_entered

    def _entered(self, code: int) -> bool:
        """Go on after a try of the lock that returned `code`, and do what is due. Returns False if another has it."""
        if code and not self._lock.resolve(code):
            return False
        try:
            if self._words[DIRTY]:  # a holder was killed
                recompute_sums(self._words, self._words[DIRTY])
                self._words[DIRTY] = 0
            while self._late:
                self._late.pop(0)()
        except BaseException:  # edge: nobody else would give the lock back
            self._release()
            raise
        return True

    def _leave(self) -> None:
        """Give the lock back, and tell the watchers of providers that have room now."""
        self._release()
        if self._freed:
            freed, self._freed = self._freed, []
            for provider_id in freed:
                self._tell(provider_id)

    async def _enter_later(self) -> None:
        """Take the lock within 250 ms.

        Raises:
            Overloaded: it is still held.
        """
        deadline = time.monotonic() + LONGEST_WAIT_S
        while time.monotonic() < deadline:
            await asyncio.sleep(STEP_S)
            if self._entered(self._try_lock()):
                return
        raise Overloaded(
            "The rate limits are locked by another process of the gateway, which does not run: send the request again.",
            retry_after_s=1,
        )

    def _tell(self, provider_id: str) -> None:
        if (freed := self._watchers.get(provider_id)) is not None:
            freed()

    def _look_again(self) -> None:
        if (loop := asyncio._get_running_loop()) is not None:  # without an event loop nobody waits
            self._look = loop.call_later(LOOK_S, self._look_for_room)

    def _look_for_room(self) -> None:
        self._look = None
        for provider_id in list(self._watchers):
            if (known := self._known(provider_id)) is not None and known.has_news():
                self._tell(provider_id)
        if self._watchers:
            self._look_again()

    def _time(self) -> float:
        now = self._clock() + self._behind
        if now < self._now:  # the clock stepped back
            self._behind += self._now - now
            now = self._now
        self._now = now
        return now

    def _open(self, provider_id: str) -> SharedWindow:
        return SharedWindow(self._memory, provider_id, self._number, self._table)

    def _known(self, provider_id: str) -> SharedWindow | None:
        """Return the provider's window if it has one."""
        window: SharedWindow | None = self._windows.get(provider_id)
        if window is None:
            window = self._open(provider_id)
            if not window.is_found():
                return None
            self._windows[provider_id] = window
        return window if window.is_found() else None

    def _window(self, provider_id: str) -> SharedWindow:
        """Return the provider's window, advanced to the current second of the limiter's time, which is now `_now`."""
        second = int(self._time())
        window: SharedWindow | None = self._windows.get(provider_id)
        if window is None:
            if len(self._windows) >= self._most:
                self._drop_idle(second)
            window = self._open(provider_id)
            self._windows[provider_id] = window
        if not window.is_found() and not window.claim(second):
            del self._windows[provider_id]
            raise Overloaded(
                f"The memory that the workers share has no room for {self._table.holder}: send the request again.",
                retry_after_s=1,
            )
        window.advance(second)
        return window

    def _drop_idle(self, second: int) -> None:
        """Drop the windows of this process that have lost their place or are idle: up to 50,000 keys have one each."""
        self._windows = {
            provider_id: window
            for provider_id, window in self._windows.items()
            if window.is_found() and second - window.second() < IDLE_S
        }
        self._most = max(MOST_WINDOWS, 2 * len(self._windows))
