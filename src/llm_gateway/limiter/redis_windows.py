"""One window in Redis: what the calls of this turn ask of it, and what is known of other hosts' part in it."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from llm_gateway.limiter.base import Decision, Reservation
from llm_gateway.limiter.other_hosts_calls import OtherHosts
from llm_gateway.redis_client.script import bulk

Asked: TypeAlias = tuple["asyncio.Future[Decision | None]", Reservation]
"""A call that asks for room in one window, and what it holds at this host."""


class RedisWindow:
    """A window of a `RedisLimiter`. What a turn asks of it waits here until the turn ends (`redis_batches.py`).

    `rpm` and `tpm` are the limits of the calls that ask; 0 if none does. `unsettled` has the sums of the settles of
    each second of Redis's clock: reserved tokens, used tokens, and requests given back.
    """

    __slots__ = ("asked", "name", "others", "packed_key", "rpm", "tpm", "unsettled")

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self.packed_key = bulk(key.encode())
        self.others = OtherHosts()
        self.clear()

    def clear(self) -> None:
        """Begin another turn, in which nothing is asked yet."""
        self.asked: list[Asked] = []
        self.unsettled: dict[int, list[int]] = {}
        self.rpm = self.tpm = 0

    def text(self) -> str:
        """Return this window's part of the argument of the script."""
        text = f" {self.rpm} {self.tpm} {len(self.unsettled)}"
        for second, (reserved, used, unsent) in self.unsettled.items():
            text += f" {second} {reserved} {used} {unsent}"
        text += f" {len(self.asked)}"
        for _, own in self.asked:
            text += f" {own.tokens}"
        return text
