"""Identifiers of requests, providers and overrides: UUIDs of version 7."""

from __future__ import annotations

import random
import time


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7) in canonical text: sorts by the millisecond it was made in.

    Its random bits are unique, not secret: the operating system seeds the generator once, since asking it for every id
    takes a tenth of a request's time.
    """
    ms = time.time_ns() // 1_000_000
    tail = random.getrandbits(80)
    value = (ms << 80) | 0x7000_8000_0000_0000_0000 | (tail & 0x0FFF_3FFF_FFFF_FFFF_FFFF)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
