"""Troubles of the running gateway that have an alert when they begin: providers that rest, and the journal.

    none ──(seen)──▶ told ──(not seen)──▶ none

The same trouble has one alert an hour at most, however often it comes and goes, and whatever is restarted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from llm_gateway.control.alert_delivery import AlertDelivery
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


class TroubleWatch:
    """Tells of troubles that begin. `find` returns those of this moment."""

    def __init__(
        self,
        find: Callable[[], Iterable[Trouble]],
        messages: WebhookMessages,
        delivery: AlertDelivery,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._find = find
        self._messages = messages
        self._delivery = delivery
        self._clock_ms = clock_ms
        self._told: set[tuple[str, str]] = set()

    async def look(self) -> None:
        """Look once. While the database does not answer, targets get alerts at once, without a second try."""
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
        message_id = f"{trouble.kind}:{now_ms // HOUR_MS}:{id_part(trouble.subject)}"
        try:
            await asyncio.to_thread(self._messages.add, message_id, now_ms, trouble.kind, trouble.data)
        except StoreUnavailable:
            event = {"id": message_id, "type": trouble.kind, "at_ms": now_ms, "data": trouble.data}
            body = msgspec.json.encode(event).decode()
            await self._delivery.tell_now(trouble.kind, AlertMessage(message_id, now_ms, body))
