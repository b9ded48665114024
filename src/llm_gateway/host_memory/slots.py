"""Tables of fixed slots in shared memory, found by the hash of a name.

A slot begins with its name's 128-bit digest in two words. The first word is `NEVER` before its first use and `FREED`
after it was given up; a digest's first word is odd, so that it is neither. While a slot gets another name, its first
word is `FREED`, and it is stored last: no process finds a slot whose content is another one's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

KEY_LOW, KEY_HIGH = 0, 1
NEVER, FREED = 0, 2


class Key(NamedTuple):
    """Digest of a name, as two signed words."""

    low: int
    high: int


def key_of(name: str) -> Key:
    """Return the digest of a name of any length."""
    low, high = struct.unpack("<qq", blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    return Key(low | 1, high)


class Slots:
    """A table of `count` slots of `size` words, the first at the word `start`; a name is in one of `probes` places."""

    __slots__ = ("_count", "_probes", "_size", "_start", "_words")

    def __init__(self, words: Any, start: int, *, count: int, size: int, probes: int) -> None:
        self._words = words
        self._start = start
        self._count = count
        self._size = size
        self._probes = probes

    def find(self, key: Key) -> int | None:
        """Return the word at which the key's slot begins; None if it has none."""
        words = self._words
        for probe in range(self._probes):
            at = self._place(key, probe)
            low = words[at]
            if low == key.low and words[at + KEY_HIGH] == key.high:
                return at
            if low == NEVER:
                return None
        return None

    def vacant(self, key: Key, last_use: Callable[[int], int]) -> tuple[int, bool]:
        """Return a slot for a key that has none, and True; if all its places are in use, the oldest one and False.

        `last_use` returns the second of the last use of the slot that begins at a word.
        """
        words, oldest, since = self._words, -1, 0
        for probe in range(self._probes):
            at = self._place(key, probe)
            if words[at] in (NEVER, FREED):
                return at, True
            used = last_use(at)
            if oldest < 0 or used < since:
                oldest, since = at, used
        return oldest, False

    def free(self, at: int) -> None:
        """Give up a slot. Its content stays until it gets another name."""
        self._words[at + KEY_LOW] = FREED

    def name(self, at: int, key: Key) -> None:
        """Give a slot to a key, after its content was made ready."""
        self._words[at + KEY_HIGH] = key.high
        self._words[at + KEY_LOW] = key.low

    def used(self) -> list[int]:
        """Return the words at which slots begin that have been used."""
        words, size = self._words, self._size
        places = range(self._start, self._start + self._count * size, size)
        return [at for at in places if words[at] != NEVER]

    def _place(self, key: Key, probe: int) -> int:
        return self._start + ((key.low >> 1) + probe) % self._count * self._size
