"""Folds journal entries into usage records: a settle closes its request; what stays open was cut off by a crash."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from llm_gateway.domain.usage import AttemptRecord, UsageRecord, add_usage, decode_attempt, decode_record
from llm_gateway.journal.frames import Entry
from llm_gateway.journal.segments import Position

CRASHED = "gateway_crashed"
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
"""What decoding a payload raises: it was written by another version."""


class Abandoned(NamedTuple):
    """What open requests came to: a record each, and the payloads no record could be made of."""

    records: list[UsageRecord]
    unreadable: list[bytes]


class _Open:
    """A request that is not settled: where its first entry stands, and what was said of it."""

    __slots__ = ("intents", "outcomes", "since")

    def __init__(self, since: Position) -> None:
        self.since = since
        self.intents: list[bytes] = []
        self.outcomes: list[bytes] = []


class Assembly:
    """Requests that are open, in the order they began."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no request is open."""
        return not self._open

    def add(self, position: Position, entry: Entry) -> bytes | None:
        """Take one entry. The payload of the finished record when it is a settle."""
        if entry.kind == "S":
            self._open.pop(entry.request_id, None)
            return entry.payload
        request = self._open.get(entry.request_id)
        if request is None:
            request = self._open[entry.request_id] = _Open(position)
        (request.intents if entry.kind == "I" else request.outcomes).append(entry.payload)
        return None

    def safe_position(self, read: Position) -> Position:
        """Where reading must start again so that no open request is lost, after everything up to `read` was taken."""
        oldest = next(iter(self._open.values()), None)
        return read if oldest is None else oldest.since

    def abandon(self) -> Abandoned:
        """Close the open requests, whose writer is gone; an attempt without an outcome costs its bound."""
        abandoned = Abandoned([], [])
        for request in self._open.values():
            try:
                abandoned.records.append(_abandoned(request))
            except UNREADABLE:
                abandoned.unreadable.extend([*request.intents, *request.outcomes])
        self._open.clear()
        return abandoned


def _abandoned(request: _Open) -> UsageRecord:
    attempts: dict[str, AttemptRecord] = {}
    records = [decode_record(payload) for payload in request.intents]
    if not records:
        raise msgspec.DecodeError("No intent is left that says whose request it was.")
    for attempt in (attempt for record in records for attempt in record.attempts):
        attempts[attempt.id] = msgspec.structs.replace(attempt, error=CRASHED)
    for payload in request.outcomes:
        outcome = decode_attempt(payload)
        attempts[outcome.id] = outcome
    record = records[0]
    record.attempts = list(attempts.values())
    record.outcome, record.error_code, record.status = "cancelled", CRASHED, 0
    for attempt in record.attempts:
        record.usage = add_usage(record.usage, attempt.usage)
        record.cost_nanos += attempt.cost_nanos
        if attempt.cost_status == "unpriced" or record.cost_status == "exact":
            record.cost_status = attempt.cost_status
        record.provider, record.model = attempt.provider, attempt.model
    return record
