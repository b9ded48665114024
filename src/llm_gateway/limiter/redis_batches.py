"""All that the calls of one turn of the event loop ask of a limiter's windows in Redis, in one command.

    take ────▶ waiting ── the turn ends ──▶ sent ── reply ──▶ decided
    settle ──▶    │                          └── no reply for 50 ms ──▶ given up; what a late reply grants is settled
                  └── no connection ──▶ takes are given up, settles wait for the next connection

So a call costs no command, no reply and no script of its own, neither here nor at the server. The script settles first,
and then takes: for the calls of one window, then for those of several, each in their order. Settles alone wait
`SETTLE_S` for a take that carries them: until then other hosts have less room, never more. A call that is cancelled
stays in its batch; what it is granted is settled at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llm_gateway.limiter.base import Decision, Limiter, Reservation, Wanted
from llm_gateway.limiter.redis_membership import RedisHost
from llm_gateway.limiter.redis_scripts import TURN
from llm_gateway.limiter.redis_windows import Asked, RedisWindow
from llm_gateway.redis_client.connection import Reply, ReplyError
from llm_gateway.redis_client.script import bulk

STEP_S = 0.001
SETTLE_S = 0.002
"""Seconds that settles wait for a take that carries them."""
AGAIN_S = 1.0
"""Seconds after which a request is worth another try that Redis could not decide."""
MOST_WINDOWS = 256
"""Windows of one command: while the server executes it, others wait."""

_OfWindow: TypeAlias = tuple[RedisWindow, int, int, list[Asked]]
"""A window of which calls asked something, its limits of requests and tokens, and the calls that ask of it alone."""
Windows: TypeAlias = tuple[RedisWindow, ...]
OfAll: TypeAlias = tuple[list[Reservation], Decision | None]
"""What `Limiter.take_all` returns."""
_OfSeveral: TypeAlias = tuple["asyncio.Future[OfAll | None]", Sequence[Wanted], list[Reservation]]
"""A call that asks for room in several windows, and what it holds in each at this host."""
_Groups: TypeAlias = dict[Windows, list[_OfSeveral]]
"""Calls that ask for room in the same several windows."""


class SharedReservation(Reservation, frozen=True, gc=False):
    """A reservation that Redis counts, too: in the second `remote` of its clock, in its memory number `memory`."""

    remote: int = 0
    memory: int = 0


class RedisBatches:
    """Collects what is asked of the windows of one limiter, and decides by the replies.

    What is not granted is given back to `local` first. `note` gets what is granted without Redis.
    """

    def __init__(self, host: RedisHost, local: Limiter, note: Callable[[Reservation], None]) -> None:
        self.mode, self.clock, self.local = host.mode, host.clock, local
        self._note = note
        self._host, self._client = host, host.client
        self._epoch_key = bulk(host.epoch_key.encode())
        self._windows: dict[bytes, RedisWindow] = {}
        self._groups: _Groups = {}
        self._is_registered = False
        self._timer: asyncio.TimerHandle | None = None
        self._client.watchers.append(self._changed)

    def ask(self, window: RedisWindow, rpm: int, tpm: int, own: Reservation) -> asyncio.Future[Decision | None]:
        """Ask for room in one window. The future gets the decision; None if Redis has lost its memory: ask again."""
        future: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        if (rpm != window.rpm or tpm != window.tpm) and not self._limit_all((window,), (Wanted("", rpm, tpm, 0),)):
            future.set_result(self.unanswered([own]) or Decision(own))
        else:
            window.asked.append((future, own))
        return future

    def ask_all(
        self, windows: Windows, wanted: Sequence[Wanted], held: list[Reservation]
    ) -> asyncio.Future[OfAll | None]:
        """Ask for room in all of these windows, or in none.

        The future gets what `take_all` returns; None if Redis has lost its memory: ask again.
        """
        future: asyncio.Future[OfAll | None] = asyncio.get_running_loop().create_future()
        for place, (_, rpm, tpm, _, _) in enumerate(wanted):  # zip() takes longer
            window = windows[place]
            if rpm != window.rpm or tpm != window.tpm:
                if self._limit_all(windows, wanted):
                    break
                future.set_result(self.undecided(held))
                return future
        calls = self._groups.get(windows)
        if calls is None:
            calls = self._groups[windows] = []
        calls.append((future, wanted, held))
        return future

    def settle(self, window: RedisWindow, second: int, reserved: int, used: int, unsent: int) -> None:
        """Settle calls of the second `second` of Redis's clock, and give back `unsent` requests."""
        sums = window.unsettled.get(second)
        if sums is not None:
            sums[0] += reserved
            sums[1] += used
            sums[2] += unsent
            return
        if not window.unsettled:
            self._separate(window, window.rpm, window.tpm)
            self._windows[window.packed_key] = window
            self._settle_soon()
        window.unsettled[second] = [reserved, used, unsent]

    def _separate(self, window: RedisWindow, rpm: int, tpm: int) -> None:
        """Send what was asked until now if it does not go into one command with what is asked within these limits."""
        has_changed = window.rpm and (window.rpm != rpm or window.tpm != tpm)
        other = self._windows.get(window.packed_key)
        is_full = len(self._windows) >= MOST_WINDOWS and self._client.is_up
        if has_changed or (is_full if other is None else other is not window):
            self.send()

    def _limit_all(self, windows: Windows, wanted: Sequence[Wanted]) -> bool:
        """Let calls ask of the windows within these limits; False if there is no connection."""
        for window, each in zip(windows, wanted, strict=True):
            self._separate(window, each.rpm, each.tpm)
        for window, each in zip(windows, wanted, strict=True):
            self._windows[window.packed_key] = window
            if not self._register():
                return False
            window.rpm, window.tpm = each.rpm, each.tpm
        return True

    def _register(self) -> bool:
        """Have `send` called at the end of this turn; False if there is no connection."""
        if not self._is_registered:
            self._is_registered = self._client.before_write(self._end_turn)
        return self._is_registered

    def _settle_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._settle_now)

    def _settle_now(self) -> None:
        self._timer = None
        if self._windows:
            self._register()

    def _changed(self, is_up: bool) -> None:
        if not is_up or not self._windows:
            return
        if not self._is_registered:  # nothing is asked: without a connection only settles wait
            waiting = [*self._windows.values()]
            for start in range(0, len(waiting) - MOST_WINDOWS, MOST_WINDOWS):
                part = waiting[start : start + MOST_WINDOWS]
                for window in part:
                    del self._windows[window.packed_key]
                self._send(part, {})
        self._register()

    def _end_turn(self) -> None:
        self._is_registered = False
        self.send()

    def send(self) -> None:
        """Send what was asked until now; what cannot be sent is given up, but for settles."""
        windows, self._windows = [*self._windows.values()], {}
        groups, self._groups = self._groups, {}
        if windows:
            self._send(windows, groups)

    def _send(self, windows: list[RedisWindow], groups: _Groups) -> None:
        server_clock = self._host.server_clock
        text = "-" if server_clock is None else f"{server_clock() * 1e6:.0f}"
        keys, places = [self._epoch_key], {}
        asked: list[_OfWindow] = []
        unsettled = [(window, window.unsettled) for window in windows if window.unsettled]
        for place, window in enumerate(windows, 2):
            places[window] = place
            keys.append(window.packed_key)
            text += window.text()
            if window.rpm:
                asked.append((window, window.rpm, window.tpm, window.asked))
            window.clear()
        text += f" {len(groups)}"
        for of, calls in groups.items():
            text += f" {len(of)} {len(calls)}"
            for window in of:
                text += f" {places[window]}"
            for _, _, held in calls:
                for own in held:
                    text += f" {own.tokens}"
        packed = TURN.packed(len(keys), b"".join(keys), text.encode())
        batch = Batch(self, asked, groups)
        if self._client.send_packed(packed, TURN, batch, batch.late):
            return
        for window, sums in unsettled:
            window.unsettled = sums
            self._windows[window.packed_key] = window
        if unsettled and self._client.is_up:
            self._settle_soon()
        batch.set_result(None)

    def unanswered(self, held: Sequence[Reservation]) -> Decision | None:
        """Decide without Redis. Returns the refusal; None if this host is the only one, which knows all calls."""
        if self.mode.hosts == 1:
            for own in held:
                self._note(own)
            return None
        self.give_back(held)
        return Decision(None, self.mode.again_s() if self.mode.is_quiet else AGAIN_S)

    def undecided(self, held: list[Reservation]) -> OfAll:
        """Decide without Redis about a call for several windows."""
        refusal = self.unanswered(held)
        return (held, None) if refusal is None else ([], refusal)

    def give_back(self, held: Sequence[Reservation]) -> None:
        """Release at this host what is not used."""
        for reservation in held:
            self.local.settle(reservation, tokens=0, sent=False)

    def refuse(self, error: ReplyError) -> None:
        """Look for another connection, since the server cannot do what it was asked."""
        self._client.refuse(error)


class Batch:
    """Calls that were sent in one command. They get its reply as a future does; `late` gets one that came too late."""

    __slots__ = ("_asked", "_asked_at", "_batches", "_groups", "_is_done")

    def __init__(self, batches: RedisBatches, asked: list[_OfWindow], groups: _Groups) -> None:
        self._batches = batches
        self._asked = asked
        self._groups = groups
        self._asked_at = batches.clock()
        self._is_done = False

    def done(self) -> bool:
        """Return True if the calls are decided."""
        return self._is_done

    def set_result(self, reply: Reply) -> None:
        """Decide the calls by a reply, or without Redis if it is no answer of the script."""
        self._is_done = True
        try:
            self._take_over(reply)
        except BaseException:  # edge: a defect; the other calls of the batch must not wait for ever
            self._give_up()
            raise

    def _take_over(self, reply: Reply) -> None:
        mode, asked_at = self._batches.mode, self._asked_at
        if not self._is_answer(reply):
            if isinstance(reply, ReplyError):
                self._batches.refuse(reply)
            self._give_up()
        elif mode.has_counted_all(reply[0], reply[1], asked_at) or mode.compare(reply[0], reply[1], asked_at):
            self._decide(reply)
        else:
            self._forget(reply)

    def _is_answer(self, reply: Reply) -> bool:
        return reply.__class__ is list and len(reply) == 2 + 4 * len(self._asked) + len(self._groups)

    def late(self, reply: Reply) -> None:
        """Settle what Redis granted after the calls were given up."""
        if not self._is_answer(reply):
            return
        at, seconds = 2, {}
        for window, _, _, asked in self._asked:
            second, _, _, full = reply[at : at + 4]
            at += 4
            seconds[window] = second
            for _, own in _parted(asked, full)[0]:
                self._batches.settle(window, second, own.tokens, 0, 1)
        for (windows, calls), places in zip(self._groups.items(), reply[at:], strict=True):
            for number, (_, _, held) in enumerate(calls):
                if not places or not places[number]:
                    for window, own in zip(windows, held, strict=True):
                        self._batches.settle(window, seconds[window], own.tokens, 0, 1)

    def _decide(self, reply: list[Any]) -> None:
        """Decide by the sums of each window, after all calls of the batch, and by what Redis refused."""
        batches, at, memory = self._batches, 2, self._batches.mode.memory
        seconds: dict[RedisWindow, int] = {}
        for window, rpm, tpm, asked in self._asked:
            second, requests, tokens, full = reply[at : at + 4]
            at += 4
            is_crowded = requests * 2 > rpm or tokens * 2 > tpm
            seconds[window] = second
            granted, refused = _parted(asked, full)
            if full:
                batches.give_back([own for future, own in refused if not future.done()])
            if window.others.second != second:
                state = batches.local.state(window.name, rpm, tpm)
                window.others.note(batches.clock(), second, requests, tokens, state)
            if full:
                window.others.note_full(batches.clock(), second, reply[1] / 1e6, full[0])
            for future, own in refused:
                if not future.done():
                    future.set_result(self._full(window, rpm, tpm, own.tokens))
            for future, own in granted:
                if future.done():  # it was cancelled
                    batches.settle(window, second, own.tokens, 0, 1)
                else:
                    future.set_result(Decision(_shared(own, second, memory), 0.0, False, is_crowded))
        for (windows, calls), places in zip(self._groups.items(), reply[at:], strict=True):
            self._decide_group(windows, calls, places, [seconds[window] for window in windows])

    def _decide_group(
        self, windows: Windows, calls: list[_OfSeveral], places: list[int] | int, seconds: list[int]
    ) -> None:
        """Decide calls for these windows. `places`: for each the first one that is full, from 1, or 0; 0 if none."""
        batches = self._batches
        memory = batches.mode.memory
        for number, (future, wanted, held) in enumerate(calls):
            place = places[number] if places.__class__ is list else 0
            if place:
                if not future.done():
                    batches.give_back(held[place - 1 :])
                    each = wanted[place - 1]
                    refusal = self._full(windows[place - 1], each.rpm, each.tpm, held[place - 1].tokens)
                    future.set_result((held[: place - 1], refusal))
            elif future.done():  # it was cancelled
                for window, own, second in zip(windows, held, seconds, strict=True):
                    batches.settle(window, second, own.tokens, 0, 1)
            else:
                shared: list[Reservation] = [_shared(own, seconds[at], memory) for at, own in enumerate(held)]
                future.set_result((shared, None))

    def _full(self, window: RedisWindow, rpm: int, tpm: int, tokens: int) -> Decision:
        return Decision(None, window.others.full_s(self._batches.clock(), rpm, tpm, tokens) or STEP_S)

    def _give_up(self) -> None:
        """Decide the calls without Redis."""
        batches = self._batches
        for _, _, _, asked in self._asked:
            for future, own in asked:
                if not future.done():
                    future.set_result(batches.unanswered([own]) or Decision(own))
        for calls in self._groups.values():
            for several, _, held in calls:
                if not several.done():
                    several.set_result(batches.undecided(held))

    def _forget(self, reply: list[Any]) -> None:
        """Let all calls ask again, since a server that forgot has granted them."""
        for _, _, _, asked in self._asked:
            for future, own in asked:
                if not future.done():
                    self._batches.give_back([own])
                    future.set_result(None)
        for calls in self._groups.values():
            for several, _, held in calls:
                if not several.done():
                    self._batches.give_back(held)
                    several.set_result(None)
        self.late(reply)


def _shared(own: Reservation, second: int, memory: int) -> SharedReservation:
    return SharedReservation(
        own.provider_id, own.bucket, own.tokens, own.model, own.calls_taken, own.tokens_taken, second, memory
    )


def _parted(asked: list[Asked], full: Any) -> tuple[list[Asked], list[Asked]]:
    """Return the calls that were granted and those that were refused; `full` is what Redis told of a full window."""
    if not full:
        return asked, []
    numbers = set(full[1])
    granted = [each for number, each in enumerate(asked, 1) if number not in numbers]
    return granted, [asked[number - 1] for number in full[1]]
