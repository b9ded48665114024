"""Assemble journal entries into usage records: a settle completes its request; a crash leaves requests open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import msgspec

from llm_gateway.domain.usage import (
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
LOST = "(lost)"
"""Who asked, when only what was bought can still be read."""

_Decoded = TypeVar("_Decoded")

OnUndecodable: TypeAlias = Callable[[Entry, str], None]
"""Hears of an entry that is whole but no record of this version, and why."""


class RecordAssembler:
    """Folds entries into records, and holds the requests that are still open, in the order they began.

    An entry may come twice (the writer writes again what a failed sync may have dropped): attempts count by their id,
    requests by theirs in the database. An outcome alone opens its request too: its intent may be damaged.
    """

    def __init__(self, writer: str, on_undecodable: OnUndecodable, known: dict[str, UsageRecord] | None = None) -> None:
        """`writer` is the journal's name, which is the instance's.

        `known` holds records of settles by their ids: what is in it is taken out of it and need not be decoded.
        """
        self._writer = writer
        self._open: dict[str, list[tuple[int, Entry]]] = {}
        self._on_undecodable = on_undecodable
        self._known = {} if known is None else known

    def __len__(self) -> int:
        """How many requests are open."""
        return len(self._open)

    def add(self, segment: int, entry: Entry) -> UsageRecord | None:
        """Take one entry of a segment. The finished record when it is a settle."""
        if entry.kind == "S":
            self._open.pop(entry.request_id, None)
            return self._known.pop(entry.request_id, None) or self._decoded(entry, decode_record)
        request = self._open.get(entry.request_id)
        if request is not None:
            request.append((segment, entry))
        else:
            self._open[entry.request_id] = [(segment, entry)]
        return None

    def restart(self, read: Position) -> Position:
        """Where reading must start again so that no open request is lost, when everything up to `read` was taken."""
        for (segment, entry), *_ in self._open.values():
            return Position(segment, entry.start)
        return read

    def segments(self) -> set[int]:
        """The segments that hold entries of open requests."""
        return {segment for request in self._open.values() for segment, _ in request}

    def abandon(self) -> list[UsageRecord]:
        """Close what is open, because its writer is gone: a record each, `cancelled`, with what is known of its cost.

        An attempt without an outcome counts with the bound its intent stated, `estimated`. Of a request none of whose
        intents can be read who asked is not known: it counts as LOST's.
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
            record = self._of_unknown(request[0].request_id, next(iter(attempts.values())))
        if record is not None:
            _close(record, list(attempts.values()))
        return record

    def _of_unknown(self, request_id: str, first: AttemptRecord) -> UsageRecord:
        return UsageRecord(
            id=request_id,
            at_ms=first.started_ms,
            instance=self._writer,
            key_name=LOST,
            user_id=LOST,
            service=LOST,
            task_type=LOST,
            surface=LOST,
        )

    def _decoded(self, entry: Entry, decode: Callable[[bytes], _Decoded]) -> _Decoded | None:
        try:
            return decode(entry.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
