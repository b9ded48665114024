"""Assemble the journal entries of each request into one usage record.

A settle entry holds the finished record. A request without one was cut off by a crash: its record is put together from
its intent and outcome entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

import msgspec

from llm_gateway.domain.usage import (
    RECORD_VERSION,
    AttemptRecord,
    Usage,
    UsageRecord,
    add_usage,
    decode_attempt,
    decode_record,
    worst_status,
)
from llm_gateway.journal.frames import Entry
from llm_gateway.journal.segments import Position

CRASHED = "gateway_crashed"
"""Error code of a request that was cut off by a crash."""

LOST = "(lost)"
"""Placeholder for key name, user, service and surface when no intent entry of the request can be read."""

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a payload raises."""

_Decoded = TypeVar("_Decoded")

OnUndecodable: TypeAlias = Callable[[Entry, str], None]
"""Called with an entry whose checksum is right but whose payload cannot be decoded, and the reason."""


class RecordAssembler:
    """Assembler of usage records; holds the entries of open requests in the order the requests started.

    An entry may come twice (after a failed sync the writer writes entries again): attempts are counted once by their
    id, requests by theirs in the database. An outcome without its intent, which may be damaged, opens a request too.
    """

    def __init__(self, writer: str, on_undecodable: OnUndecodable) -> None:
        """Set the writer's name, which is the instance in records of lost requests."""
        self._writer = writer
        self._open: dict[str, list[tuple[int, Entry]]] = {}
        self._on_undecodable = on_undecodable

    def __len__(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    def add(self, segment: int, entries: Iterable[Entry]) -> list[UsageRecord]:
        """Add entries read from `segment`. Returns the finished records, one for each settle that can be decoded."""
        records: list[UsageRecord] = []
        requests = self._open
        for entry in entries:
            request_id = entry.request_id
            if entry.kind == "S":
                requests.pop(request_id, None)  # its other entries need no decoding
                try:
                    records.append(decode_record(entry.payload))
                except UNDECODABLE as error:
                    self._on_undecodable(entry, str(error))
            elif (request := requests.get(request_id)) is not None:
                request.append((segment, entry))
            else:
                requests[request_id] = [(segment, entry)]
        return records

    def restart(self, read: Position) -> Position:
        """Return the checkpoint that loses no open request, given that everything before `read` was added.

        It is the first entry of the oldest open request, or `read` if no request is open.
        """
        for (segment, entry), *_ in self._open.values():
            return Position(segment, entry.start)
        return read

    def segments(self) -> set[int]:
        """Return the numbers of the segments that hold entries of open requests."""
        return {segment for request in self._open.values() for segment, _ in request}

    def abandon(self) -> list[UsageRecord]:
        """Close all open requests after their writer's process ended: one `cancelled` record each, with its known cost.

        An attempt without an outcome costs the upper bound from its intent, marked `estimated`. If no intent of a
        request can be read, its user and service are LOST.
        """
        requests = [[entry for _, entry in request] for request in self._open.values()]
        self._open.clear()
        return [record for request in requests if (record := self._abandoned(request))]

    def _abandoned(self, request: list[Entry]) -> UsageRecord | None:
        record: UsageRecord | None = None
        attempts: dict[str, AttemptRecord] = {}
        for entry in request:
            if entry.kind == "O":
                if outcome := self._decoded(entry, decode_attempt):
                    attempts[outcome.id] = outcome
            elif intent := self._decoded(entry, decode_record):
                record = record or intent
                for attempt in intent.attempts:
                    attempts.setdefault(attempt.id, attempt)
        if record is None and attempts:
            record = self._lost_record(request[0].request_id, next(iter(attempts.values())))
        if record is not None:
            _close(record, list(attempts.values()))
        return record

    def _lost_record(self, request_id: str, first: AttemptRecord) -> UsageRecord:
        return UsageRecord(
            id=request_id,
            at_ms=first.started_ms,
            instance=self._writer,
            key_name=LOST,
            user_id=LOST,
            service=LOST,
            task_type=LOST,
            surface=LOST,
            version=RECORD_VERSION,
        )

    def _decoded(self, entry: Entry, decode: Callable[[bytes], _Decoded]) -> _Decoded | None:
        try:
            return decode(entry.payload)
        except UNDECODABLE as error:
            self._on_undecodable(entry, str(error))
            return None


def _close(record: UsageRecord, attempts: list[AttemptRecord]) -> None:
    record.outcome, record.error_code = "cancelled", CRASHED
    record.status = record.latency_ms = 0
    record.attempts = attempts
    record.usage, record.cost_nanos = Usage(), 0
    for attempt in attempts:
        record.provider, record.model = attempt.provider, attempt.model
        record.usage = add_usage(record.usage, attempt.usage)
        record.cost_nanos += attempt.cost_nanos
    record.cost_status = worst_status(attempt.cost_status for attempt in attempts)
