"""Hands finished records to the database. One it refuses, or that cannot be read, is set aside, not its batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from llm_gateway.domain.usage import UsageRecord, decode_record, encode_record
from llm_gateway.errors import RecordsRefused
from llm_gateway.journal.assembly import UNREADABLE
from llm_gateway.journal.segments import Log, private

Sink: TypeAlias = Callable[[Sequence[UsageRecord]], None]
"""Stores records, each once however often it is given it; raises StoreUnavailable or RecordsRefused."""

BATCH = 2000
QUARANTINE = "quarantine.jsonl"


class Delivery:
    """The way of records from the journal to `sink`.

    What is set aside goes to the quarantine file in `journal`, a line each; one may stand there twice after a crash.
    """

    def __init__(self, sink: Sink, journal: Path, log: Log) -> None:
        self._sink = sink
        self._quarantine = journal / QUARANTINE
        self._log = log

    def settled(self, payloads: Sequence[bytes]) -> None:
        """Deliver the records of settle payloads.

        Raises:
            StoreUnavailable: the database does not answer; all of them can be sent again.
            OSError: what is refused cannot be set aside; all of them can be sent again.
        """
        records, unreadable = [], []
        for payload in payloads:
            try:
                records.append(decode_record(payload))
            except UNREADABLE:
                unreadable.append(payload)
        self.deliver(records, unreadable)

    def deliver(self, records: Sequence[UsageRecord], unreadable: Sequence[bytes]) -> None:
        """Deliver records, and set aside payloads that are none.

        Raises:
            StoreUnavailable: the database does not answer; all of them can be sent again.
            OSError: what is refused cannot be set aside; all of them can be sent again.
        """
        refused = self._store(records) if records else []
        aside = [*unreadable, *map(encode_record, refused)]
        if not aside:
            return
        with self._quarantine.open("ab", opener=private) as file:
            file.write(b"".join(payload + b"\n" for payload in aside))
            file.flush()
            os.fsync(file.fileno())
        self._log(
            "usage records cannot be stored and are kept aside",
            level="error",
            file=str(self._quarantine),
            unreadable=len(unreadable),
            refused=[record.id for record in refused],
        )

    def _store(self, records: Sequence[UsageRecord]) -> list[UsageRecord]:
        """Store what the sink takes. Returns what it refuses, found by halving."""
        try:
            self._sink(records)
        except RecordsRefused:
            if len(records) == 1:
                return list(records)
            half = len(records) // 2
            return [*self._store(records[:half]), *self._store(records[half:])]
        return []
