"""Disk space reserved for requests in flight, and the buffer for unbilled records that must not take it.

What a request may still write is bounded when its intent is written. With I the intent's entry, which holds the record
so far and the attempt, an attempt's outcome is no longer than I and the growth of an attempt; a request's settle is no
longer than all its I, its last provider and model once more, the growth of each attempt and that of the record.
"""

from __future__ import annotations

TEXT_BYTES = 6
"""Of one character at most, as JSON: a control character is written as six (RFC 8259, section 7)."""

ERROR_CHARACTERS = 600
"""Of an attempt's error: what a provider said is cut to 500, its name (63) and status stand before it."""

NAME_CHARACTERS = 256
"""Of the model, the call's id and the finish reason that a provider reports, each."""

FIGURES_BYTES = 1500
"""Names of fields, counts, times, a price the intent did not know; with the record's own outcome, status and sums."""

GROWTH_BYTES = TEXT_BYTES * (ERROR_CHARACTERS + 3 * NAME_CHARACTERS) + FIGURES_BYTES
"""What an attempt's end can add to what its intent said of it."""

UNBILLED_BYTES = 8 * 1024 * 1024
"""How much memory the records that bought nothing may take while there is no space for them."""


def promised_bytes(intent_bytes: int) -> int:
    """Return the upper bound of the bytes an attempt can still write, given the size of its intent."""
    return 3 * intent_bytes + 2 * GROWTH_BYTES


class ReservedSpace:
    """Sums the bytes promised to requests in flight; `least` bytes stay reserved even without any."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._promised: dict[str, int] = {}
        self._sum = 0

    def __len__(self) -> int:
        """How many requests are in flight."""
        return len(self._promised)

    def bytes_with(self, promise: int) -> int:
        """What must stay free if so much more is promised."""
        return max(self._least, self._sum + promise)

    def promise(self, request_id: str, size: int) -> None:
        """An attempt of the request is about to be sent."""
        self._promised[request_id] = self._promised.get(request_id, 0) + size
        self._sum += size

    def withdraw(self, request_id: str, size: int) -> None:
        """The attempt is not sent after all."""
        left = self._promised.pop(request_id, 0) - size
        if left > 0:
            self._promised[request_id] = left
        self._sum -= size

    def redeem(self, request_id: str) -> bool:
        """The request writes its last entry. Whether it was in flight."""
        size = self._promised.pop(request_id, 0)
        self._sum -= size
        return size > 0


class UnbilledBuffer:
    """Bounded buffer in memory for entries of requests that cost nothing, while the disk has no space for them."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self.bytes = 0
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._frames or self._lost)

    def add(self, frame: bytes) -> None:
        """Keep an entry, or count it as lost when there are too many."""
        if self.bytes + len(frame) > UNBILLED_BYTES:
            self._lost += 1
            return
        self._frames.append(frame)
        self.bytes += len(frame)

    def take(self) -> tuple[list[bytes], int]:
        """What was kept, and how many were lost; nothing is left."""
        taken = self._frames, self._lost
        self._frames, self.bytes, self._lost = [], 0, 0
        return taken
