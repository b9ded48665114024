"""Last use of service keys, taken from the usage records on their way to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import GatewayError
from llm_gateway.store.keys import KeyStore

STORE_EVERY_S = 60.0
"""Seconds between two writes: `last_used_at` of a key is late by as much, and no request waits for it."""


class KeyUse:
    """A sink of usage records that passes them to `sink`, and notes their keys."""

    def __init__(self, sink: Callable[[list[UsageRecord]], None], store: KeyStore) -> None:
        self._sink = sink
        self._store = store
        self._used_at_ms: dict[str, int] = {}

    def write(self, records: list[UsageRecord]) -> None:
        """Pass on the records, then note when their keys were used."""
        self._sink(records)
        for record in records:
            if record.key_id is not None:
                self._used_at_ms[record.key_id] = record.at_ms

    def store(self) -> None:
        """Store what was noted since the last time.

        Raises:
            StoreUnavailable: the database does not answer; what was noted is lost.
        """
        used, self._used_at_ms = self._used_at_ms, {}
        self._store.note_use(used)


async def store_key_use_forever(use: KeyUse, log: Callable[..., None], every_s: float = STORE_EVERY_S) -> None:
    """Store when keys were used last, every `every_s` seconds. Runs until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(use.store)
        except GatewayError as error:
            log("last use of keys is not stored", level="info", reason=error.detail)
        except Exception as error:  # edge: the job logs any failure and runs again in a minute
            log("last use of keys cannot be stored", level="error", exc_info=error)
