"""Generate UUIDv7 identifiers (RFC 9562) for requests, providers and overrides."""

from __future__ import annotations

import random
import time


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562, section 5.7) as canonical text; ids sort by the millisecond of their creation.

    The random bits are unique, not secret. They come from Python's generator, which the operating system seeds once:
    a system call for each id takes a tenth of a request's time.
    """
    ms = time.time_ns() // 1_000_000
    tail = random.getrandbits(80)
    value = (ms << 80) | 0x7000_8000_0000_0000_0000 | (tail & 0x0FFF_3FFF_FFFF_FFFF_FFFF)
    text = value.to_bytes(16).hex("-", 6)  # groups of 8, 12 and 12 digits; the second one becomes three
    return f"{text[:13]}-{text[13:17]}-{text[17:]}"
