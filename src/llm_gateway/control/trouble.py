"""Troubles of the running gateway that have an alert when they begin: providers that rest, and the journal.

    none ──(seen)──▶ told ──(not seen)──▶ none

The same trouble has one alert an hour at most, however often it comes and goes, and whatever is restarted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from llm_gateway import wall_clock
from llm_gateway.domain.alert_target import AlertMessage
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.webhook_messages import WebhookMessages, id_part

HOUR_MS = 3_600_000
DELAYED_S = 60.0
"""Age of usage that waits for the database, in seconds, above which there is an alert."""
MOST_TOLD = 100
"""Troubles of one kind that have an alert each; a vendor's failure concerns all of its models."""


class Trouble(NamedTuple):
    """A trouble: the type of its event, what tells it apart from others of that type, and the event's data."""

    kind: str
    subject: str
    data: dict[str, Any]

    def at(self, host_id: str, name: str) -> Trouble:
        """Return the trouble as that of a host, which has an alert beside those of other hosts."""
        return Trouble(self.kind, f"{host_id} {self.subject}", self.data | {"host": name})


TellNow: TypeAlias = Callable[[str, AlertMessage], Awaitable[None]]
"""Send a message of this type of event at once and once. Never raises for what the network or a receiver does."""


class TroubleWatch:
    """Tells of troubles that begin.

    `find` returns those of this moment. All of `tell_now` are called for messages that the database cannot keep.
    """

    def __init__(
        self,
        find: Callable[[], Iterable[Trouble]],
        messages: WebhookMessages,
        tell_now: Sequence[TellNow],
        clock_ms: Callable[[], int] = wall_clock.now_ms,
    ) -> None:
        self._find = find
        self._messages = messages
        self._tell_now = tell_now
        self._clock_ms = clock_ms
        self._told: set[tuple[str, str]] = set()
        self._sent_now: dict[str, int] = {}

    async def look(self) -> None:
        """Look once. While the database does not answer, alerts are sent at once, without a second try."""
        now_ms = self._clock_ms()
        seen: set[tuple[str, str]] = set()
        counts: Counter[str] = Counter()
        for trouble in self._find():
            key = trouble.kind, trouble.subject
            counts[trouble.kind] += 1
            if counts[trouble.kind] > MOST_TOLD:
                continue
            seen.add(key)
            if key not in self._told:
                await self._tell(trouble, now_ms)
        self._told = seen

    async def _tell(self, trouble: Trouble, now_ms: int) -> None:
        hour = now_ms // HOUR_MS
        message_id = f"{trouble.kind}:{hour}:{id_part(trouble.subject)}"
        try:
            await asyncio.to_thread(self._messages.add, message_id, now_ms, trouble.kind, trouble.data)
        except StoreUnavailable:
            self._sent_now = {each: sent for each, sent in self._sent_now.items() if sent == hour}
            if message_id in self._sent_now:
                return
            self._sent_now[message_id] = hour
            event = {"id": message_id, "type": trouble.kind, "at_ms": now_ms, "data": trouble.data}
            message = AlertMessage(message_id, now_ms, msgspec.json.encode(event).decode())
            await asyncio.gather(*(tell(trouble.kind, message) for tell in self._tell_now))
