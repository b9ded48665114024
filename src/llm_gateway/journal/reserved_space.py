"""Journal space reserved for requests in flight, and the buffer for unbilled records that must not use it.

The bytes that a request can still write are bounded when its intent is written. With I the size of the intent entry,
which holds the record so far and the attempt: an outcome is at most I plus the growth of one attempt; a settle is at
most the sum of all I of the request, its last provider and model once more, and the growth of each attempt and of the
record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from llm_gateway.journal.frames import FRAME_BYTES

TEXT_BYTES = 6
"""Maximum bytes of one character in JSON: a control character is escaped as \\u00XX (RFC 8259, section 7)."""

ERROR_CHARACTERS = 600
"""Maximum characters of an attempt's error: the provider's message (cut to 500) after its name (63) and the status."""

NAME_CHARACTERS = 256
"""Maximum characters of each text that a provider reports: model, call id, finish reason."""

BILLED_CHARACTERS = 9 * 32
"""Maximum characters of the service tier, and of the names of 8 units that are billed apart (`AttemptRecord`)."""

FIGURES_BYTES = 1800
"""Maximum bytes of what an end adds besides: field names, counts, times, a price that the intent did not have, and the
record's own outcome, status and sums."""

GROWTH_BYTES = TEXT_BYTES * (ERROR_CHARACTERS + 3 * NAME_CHARACTERS + BILLED_CHARACTERS) + FIGURES_BYTES
"""Maximum bytes by which the end of an attempt can exceed its intent."""

UNBILLED_BYTES = 8 * 1024 * 1024
"""Memory limit in bytes for records of unbilled requests while the disk has no space for them."""

LARGE_INTENT_BYTES = 16 * 1024
"""No usual intent is larger. The writer reports itself unwritable once one of this size would be refused."""


def promised_bytes(intent_bytes: int) -> int:
    """Return the upper bound of the bytes an attempt can still write, given the size of its intent."""
    return 3 * intent_bytes + 2 * GROWTH_BYTES


class ReservedSpace:
    """The journal bytes promised to requests in flight; `least` bytes stay reserved even when there are none."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._promised: dict[str, int] = {}
        self._sum = 0

    def __len__(self) -> int:
        """Return the number of requests in flight."""
        return len(self._promised)

    def bytes_with(self, promise: int) -> int:
        """Return the bytes that must stay free if `promise` more bytes are promised."""
        return max(self._least, self._sum + promise)

    def promise(self, request_id: str, size: int) -> None:
        """Reserve `size` bytes for an attempt that is about to be sent."""
        self._promised[request_id] = self._promised.get(request_id, 0) + size
        self._sum += size

    def withdraw(self, request_id: str, size: int) -> None:
        """Release the `size` bytes of an attempt that is not sent after all."""
        left = self._promised.pop(request_id, 0) - size
        if left > 0:
            self._promised[request_id] = left
        self._sum -= size

    def redeem(self, request_id: str) -> bool:
        """Release all bytes of a request that writes its settle entry; False if nothing was reserved for it."""
        size = self._promised.pop(request_id, 0)
        self._sum -= size
        return size > 0


class UnbilledBuffer:
    """Bounded memory buffer for the entries of requests that cost nothing, while the disk has no space for them.

    They leave it in their order: the oldest ones when new ones come, and all at once when the disk has ample space.
    """

    def __init__(self) -> None:
        self._entries: deque[bytes] = deque()
        self.bytes = 0
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._entries or self._lost)

    def exchange(self, entry: bytes, is_short: Callable[[int], bool]) -> list[bytes]:
        """Keep an entry behind the others. Returns the oldest ones, of as many bytes as it has, that can be written.

        They are fewer where `is_short` says that a number of bytes would use space of requests in flight. If the buffer
        is full then, the entry is counted as lost. `bytes` counts what entries take in a segment.
        """
        size, done = FRAME_BYTES + len(entry), 0
        oldest: list[bytes] = []
        self._entries.append(entry)
        while self._entries and done < size and not is_short(done + FRAME_BYTES + len(self._entries[0])):
            oldest.append(self._entries.popleft())
            done += FRAME_BYTES + len(oldest[-1])
        self.bytes += size - done
        if self.bytes > UNBILLED_BYTES:
            self._entries.pop()
            self.bytes -= size
            self._lost += 1
        return oldest

    def take(self) -> tuple[list[bytes], int]:
        """Empty the buffer. Returns the entries and the number of lost ones."""
        taken = list(self._entries), self._lost
        self._entries.clear()
        self.bytes = self._lost = 0
        return taken
