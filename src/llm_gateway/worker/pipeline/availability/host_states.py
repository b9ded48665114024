"""States of breakers, gates and pauses in shared memory, so that all workers of a host have the same ones.

A slot holds the state of one (provider, model), or of one account, as numbers. There is one only for what failed or was
refused once. Each worker works on its own copies, and one word tells it whether a copy is current: the slot's
`SEQUENCE`, or the memory's `CLAIMS` while there is no slot.

    current ── another worker stored ──▶ outdated ── next look: load under the lock ──▶ current
       └── change: take the lock, load, change the copy, store it ──▶ current

A state is stored beside the valid one, and one store, of `SEQUENCE`, makes it valid: its parity tells which of two
places is valid. So a worker that is killed between two stores leaves the state before or after the change. What a call
of a killed worker probed may be probed again (`WorkerPlace.is_alive`).

While a stopped process holds the lock, each worker goes on with its own copies. What others stored meanwhile wins.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from llm_gateway.host_memory import CLAIMS, STATE_WORDS, STATES, STATES_AT, WORD, HostMemory
from llm_gateway.host_memory.lock import LIMITS, HostLock
from llm_gateway.host_memory.retry import Retry
from llm_gateway.host_memory.slots import FREED, NEVER, Key, Slots, key_of
from llm_gateway.host_memory.workers import WorkerPlace

PROBES = 32
OF, LENGTH, SEQUENCE, USED, RESET_MS, LIFTED_MS, NAME_BYTES = range(2, 9)
"""Words of a slot. `OF`: digest of the provider. `LENGTH`: numbers of the state. `USED`: second of the last store.
`RESET_MS`, `LIFTED_MS`: in an account's slot, the change of the provider after which states were reset last."""
NAME, NAME_WORDS = 9, 31
COPIES, COPY_WORDS = 40, 24
PERMIT = 0
"""Place of the permit among the numbers of a state: a reset state has another permit than before."""


class Slot:
    """View that one worker has of the slot of one state.

    `watched` is the word that changes with the state, and `seen` its value at the last look. `loaded` is the state in
    the memory then. An account's slot names a `model` for the log only.
    """

    __slots__ = ("at", "initial", "is_announced", "key", "loaded", "name", "of", "seen", "watched")

    def __init__(
        self, provider_id: str, model: str, provider: str, initial: tuple[float, ...], *, is_account: bool = False
    ) -> None:
        self.name = "\0".join((provider_id, model, provider))
        self.key: Key = key_of(provider_id if is_account else f"{provider_id}\0{model}")
        self.of = key_of(provider_id).low
        self.initial = self.loaded = initial
        self.at = 0
        self.watched = CLAIMS
        self.seen = -1
        self.is_announced = False


class Entry(Protocol):
    """A state of which a worker has a copy. It is not shared any more once `is_current` is False."""

    slot: Slot | None
    is_current: bool

    def dump(self) -> tuple[float, ...]:
        """Return the state as numbers."""
        ...

    def load(self, dumped: Sequence[float]) -> None:
        """Take over a state that `dump` returned."""
        ...


class Stored(NamedTuple):
    """A state in the memory. The `model` of an account's is one that was called first."""

    at: int
    is_account: bool
    provider_id: str
    model: str
    provider: str
    numbers: list[float]


class HostStates:
    """The states in the memory, as one worker sees them. `clock` returns seconds, the same in all processes."""

    def __init__(self, memory: HostMemory, place: WorkerPlace, clock: Callable[[], float]) -> None:
        self.words: Any = memory.words
        self.place = place
        self._floats: Any = memory.floats
        self._lock = HostLock(memory, LIMITS)
        self._slots = Slots(memory.words, STATES_AT, count=STATES, size=STATE_WORDS, probes=PROBES)
        self._clock = clock
        self._late: list[Callable[[], None]] = []
        self._retry = Retry(self._carry_out)

    def turn(self, *entries: Entry) -> Turn:
        """Return a context in which the entries are current and may be changed; their changes are stored at its end."""
        return Turn(self, entries)

    def refresh(self, *entries: Entry) -> None:
        """Load what other workers changed."""
        words = self.words
        for entry in entries:
            slot = entry.slot
            if slot is not None and words[slot.watched] != slot.seen:
                with Turn(self, entries):
                    return

    def enter(self) -> bool:
        """Take the lock. Returns False if another process keeps it."""
        if not self._lock.acquire():
            return False
        try:
            while self._late:
                self._late.pop(0)()
        except BaseException:  # edge: nobody else would give the lock back
            self._lock.release()
            raise
        return True

    def leave(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def change(self, change: Callable[[], None]) -> None:
        """Carry out a change under the lock, now or as soon as this worker gets it."""
        if not self.enter():
            self._late.append(change)
            self._retry.start()
            return
        try:
            change()
        finally:
            self.leave()

    def _carry_out(self) -> bool:
        if not self.enter():
            return False
        self.leave()
        return True

    def load(self, entry: Entry) -> None:
        """Load the entry's state if it changed. Needs the lock."""
        words, slot = self.words, entry.slot
        if slot is None or not entry.is_current or words[slot.watched] == slot.seen:
            return
        at = slot.at
        if not at or words[at] != slot.key.low or words[at + 1] != slot.key.high:
            at = slot.at = self._slots.find(slot.key) or 0
            slot.is_announced = False
        slot.watched = at + SEQUENCE if at else CLAIMS
        slot.seen = words[slot.watched]
        numbers = tuple(self._numbers(at)) if at else slot.initial
        if numbers != slot.loaded:
            slot.loaded = numbers
            entry.load(numbers)

    def store(self, entry: Entry) -> None:
        """Store the entry's state if it changed. Needs the lock, since `load`."""
        slot = entry.slot
        if slot is None or not entry.is_current:
            return
        numbers = entry.dump()
        if numbers == slot.loaded:
            return
        if not slot.at:
            self._claim(slot)
        self._put(slot.at, numbers)
        if not slot.is_announced:  # the worker that made the slot may have been killed before
            self.words[CLAIMS] += 1
            slot.is_announced = True
        slot.loaded, slot.watched, slot.seen = numbers, slot.at + SEQUENCE, self.words[slot.at + SEQUENCE]

    def replace(self, at: int, numbers: Sequence[float]) -> None:
        """Store a state in the slot at this word. Needs the lock."""
        self._put(at, numbers)

    def once(self, slot: Slot, word: int, changed_ms: int, change: Callable[[], None]) -> None:
        """Carry out `change` unless a worker did so after this change of the provider, or a later one. Needs the lock.

        `slot` is the account's, and `word` `RESET_MS` or `LIFTED_MS`. With 0 for `changed_ms`, it is always done.
        """
        slot.at = self._slots.find(slot.key) or 0
        if not slot.at:
            self._claim(slot)
            self.words[CLAIMS] += 1
        if not changed_ms or self.words[slot.at + word] < changed_ms:
            change()
            if changed_ms:  # else the changes before it are still known
                self.words[slot.at + word] = changed_ms

    def stored(self, provider_id: str | None = None) -> Iterator[Stored]:
        """Yield the states in the memory, of one provider or of all."""
        words, of = self.words, None if provider_id is None else key_of(provider_id).low
        for at in self._slots.used():
            if words[at] != FREED and (of is None or words[at + OF] == of):
                name = bytes(memoryview(words[at + NAME : at + NAME + NAME_WORDS]).cast("B")[: words[at + NAME_BYTES]])
                parts = (*name.decode("utf-8", "replace").split("\0"), "", "")
                is_account = words[at + OF] == words[at]
                yield Stored(at, is_account, parts[0], parts[1], parts[2], self._numbers(at))

    def forget(self, provider_id: str) -> None:
        """Give up the slots of a provider. Needs the lock."""
        for stored in self.stored(provider_id):
            self._slots.free(stored.at)
            self.words[stored.at + SEQUENCE] += 1

    def _numbers(self, at: int) -> list[float]:
        words = self.words
        place = at + COPIES + (words[at + SEQUENCE] & 1) * COPY_WORDS
        numbers: list[float] = self._floats[place : place + words[at + LENGTH]].tolist()
        return numbers

    def _put(self, at: int, numbers: Sequence[float]) -> None:
        words, sequence = self.words, self.words[at + SEQUENCE] + 1
        place = at + COPIES + (sequence & 1) * COPY_WORDS
        self._floats[place : place + len(numbers)] = array("d", numbers)
        words[at + USED] = int(self._clock())
        words[at + SEQUENCE] = sequence

    def _claim(self, slot: Slot) -> None:
        """Make a slot with the initial state. If all its places are in use, the state stored longest ago is lost."""
        words, at = self.words, self._slots.vacant(slot.key, lambda at: int(self.words[at + USED]))[0]
        if words[at] != NEVER:
            self._slots.free(at)
        name = slot.name.encode("utf-8", "replace")[: NAME_WORDS * WORD]
        words[at + LENGTH] = len(slot.initial)
        self._put(at, slot.initial)
        words[at + OF] = slot.of
        words[at + RESET_MS] = words[at + LIFTED_MS] = 0
        words[at + NAME_BYTES] = len(name)
        words[at + NAME : at + NAME + NAME_WORDS] = array("q", name.ljust(NAME_WORDS * WORD, b"\0"))
        self._slots.name(at, slot.key)
        slot.at = at


class Turn:
    """A context in which a worker changes states; see `HostStates.turn`."""

    __slots__ = ("_entries", "_has_lock", "_states")

    def __init__(self, states: HostStates, entries: Sequence[Entry]) -> None:
        self._states = states
        self._entries = entries
        self._has_lock = False

    def __enter__(self) -> None:
        self._has_lock = self._states.enter()
        if self._has_lock:
            try:
                for entry in self._entries:
                    self._states.load(entry)
            except BaseException:  # edge: nobody else would give the lock back
                self._states.leave()
                raise

    def __exit__(self, *_: object) -> None:
        if self._has_lock:
            try:
                for entry in self._entries:
                    self._states.store(entry)
            finally:
                self._states.leave()
