"""Settled usage records kept as objects, for a shipper that runs in the same process as the journal's writer."""

from __future__ import annotations

from llm_gateway.domain.usage import UsageRecord

MOST_KNOWN = 5_000
"""Maximum number of records kept; at the limit all are dropped, and the shipper decodes their entries."""


class KnownRecords(dict[str, UsageRecord]):
    """Settled records by request id, which a RecordAssembler takes instead of decoding their entries."""

    def remember(self, record: UsageRecord) -> None:
        """Add a settled record."""
        if len(self) >= MOST_KNOWN:
            self.clear()
        self[record.id] = record
