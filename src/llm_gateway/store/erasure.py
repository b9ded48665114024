"""Erase a customer: replace its label in stored records and in the rollups by a random one. Money and counts stay.

Each transaction takes a few hundred records, and moves what they add up to from the old label's rollups to those of the
new one: sums and records agree at any moment, while a gateway writes to the same database. Rollups can count more than
the stored records, since old records are deleted:

    rollup of an hour  =  sums of its stored records  +  rest
                          moved with the records         moved at once

A run that is cut off is finished by another one, which gives the remaining usage another label.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import BigInteger, func
from sqlalchemy.engine import Connection

from llm_gateway import wall_clock
from llm_gateway.store.audit import AuditTrail, Unaudited
from llm_gateway.store.budget_spend import Corrections, rename_customer
from llm_gateway.store.budget_thresholds import forget_customer
from llm_gateway.store.database import Database
from llm_gateway.store.erased_leases import rename_customer_leases
from llm_gateway.store.one_transaction import take_turn_to_change_records
from llm_gateway.store.record_filter import CLOCK_SLACK_MS
from llm_gateway.store.rollup_rows import NUMBERS
from llm_gateway.store.rollup_table import RollupTable, customer_days, number_of
from llm_gateway.store.rollups import BLOCKS, COUNTERS, CUSTOMER, DAY, ERRORS, HOUR, HOUR_MS, TO_DATE, Grain, Totals
from llm_gateway.store.tables import usage_records, usage_rollups
from llm_gateway.store.usage import first_id

PREFIX = "erased-"
ALPHABET, LENGTH = "abcdefghijklmnopqrstuvwxyz234567", 12
"""Characters of base32 (RFC 4648) and their number in a new label: 60 random bits."""

BATCH_RECORDS = 500
"""Records changed in one transaction."""

PAUSE_S = 0.02
"""Seconds of pause after each transaction, so that other writers get the database's write lock."""

DAYS_AT_ONCE = 32
"""Days that one query looks for."""

READ_LIMIT_S = 60.0
"""Maximum seconds to read through the records of a day."""

PASSES = 2
"""Passes over all days; the second finds what was deleted or came late during the first."""

_records, _rollups = usage_records.c, usage_rollups.c
_HOUR: sa.ColumnElement[int] = sa.literal_column(f"at_ms / {HOUR_MS}", BigInteger)
_FIGURES = ("input_tokens", "output_tokens", "cost_nanos", "latency_ms", "saved_cost_nanos")


class Erased(NamedTuple):
    """Result of a run: the number of records that it changed, and the label that they have now."""

    records: int
    label: str


class Erasure:
    """Runs over the stored usage of one customer each. `sleep` takes seconds.

    `audit` keeps the start and the end of each run, under the new label: no entry has the old one. `together` calls its
    argument, which renames the customer's accounts, and takes what it returns from where balances are counted.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditTrail | None = None,
        sleep: Callable[[float], None] = time.sleep,
        together: Callable[[Callable[[], Corrections]], Corrections] = lambda rename: rename(),
        clock_ms: Callable[[], int] = wall_clock.now_ms,
    ) -> None:
        self._database = database
        self._together = together
        self._clock_ms = clock_ms
        self._changes = audit or Unaudited(database)
        self._rollups = RollupTable(database)
        self._sleep = sleep

    def run(self, customer: str, until_ms: int) -> Erased | None:
        """Erase the customer's requests from before `until_ms` (milliseconds UTC). None: it has no usage.

        Raises:
            StoreUnavailable: the database does not answer; finished transactions stay, a new run does the rest.
        """
        if "\x00" in customer:  # Postgres stores no such text
            return None
        run = _Run(customer, PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH)), until_ms)
        changed, is_known = 0, False
        for _ in range(PASSES):
            for day in self._busy_days(customer):
                if not is_known:
                    is_known = True
                    self._note("customer.erase", run.label)
                self._move_rest(run, day)
                changed += self._erase_records(run, day)
        renamed = self._together(partial(self._rename_accounts, run))
        self._forget_name(customer)
        if not is_known and not renamed.charges:  # a run that was cut off may have left both
            return None
        self._note("customer.erased", run.label, records=changed)
        return Erased(changed, run.label)

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        with self._database.write() as connection:
            take_turn_to_change_records(connection)
            yield connection

    def _rename_accounts(self, run: _Run) -> Corrections:
        with self._changing() as connection:
            now_ms = self._clock_ms()
            found = rename_customer(connection, run.customer, run.label, now_ms)
            rename_customer_leases(connection, run.customer, run.label, found.charges, now_ms)
            forget_customer(connection, run.customer)
        return found

    def _note(self, action: str, label: str, **figures: int) -> None:
        with self._changes.change(action) as change:
            change.about(None, label, after=figures)

    def _busy_days(self, customer: str) -> Iterator[int]:
        """Yield the days since 1970 with requests of the customer."""
        with self._database.read() as connection:
            number = number_of(connection, CUSTOMER, customer)
            all_days = customer_days(connection) if number is not None else range(0)
        for start in range(0, len(all_days), DAYS_AT_ONCE):
            with self._database.read() as connection:
                found = _sums(connection, customer, DAY, all_days[start : start + DAYS_AT_ONCE])
            yield from sorted(found)

    def _forget_name(self, customer: str) -> None:
        """Delete the customer's name, unless requests that came later have it."""
        with self._database.read() as connection:
            if number_of(connection, CUSTOMER, customer) is None:
                return
        with self._database.write() as connection:
            self._rollups.forget_customer(connection, customer)

    def _move_rest(self, run: _Run, day: int) -> None:
        """Move what the day's rollups count beyond the stored records."""
        hours = range(day * DAY.hours, (day + 1) * DAY.hours)
        stored = _records_of(run, day).with_only_columns(
            _HOUR,
            _records.outcome,
            _records.cost_status,
            func.count(),
            *(sa.cast(func.sum(_records[name]), BigInteger) for name in _FIGURES),
        )
        with self._database.read(READ_LIMIT_S) as connection:
            rest = _sums(connection, run.customer, HOUR, hours)
            groups = connection.execute(stored.group_by(_HOUR, _records.outcome, _records.cost_status)).all()
        for hour, totals in _added(groups).items():
            rest[hour] = rest.get(hour, Totals()).minus(totals)
        rest = {hour: totals for hour, totals in rest.items() if totals != Totals()}
        if not rest:
            return
        with self._changing() as connection:
            now = _sums(connection, run.customer, HOUR, list(rest), lock=True)
            # Another run for this customer may have moved it meanwhile.
            is_there = {hour: hour in now and now[hour].requests >= totals.requests for hour, totals in rest.items()}
            self._move(connection, run, {hour: totals for hour, totals in rest.items() if is_there[hour]})
        self._sleep(PAUSE_S)

    def _erase_records(self, run: _Run, day: int) -> int:
        """Erase the day's records, and move their sums. Returns their number."""
        query = _records_of(run, day).where(_records.at_ms < run.until_ms).order_by(_records.id).limit(BATCH_RECORDS)
        figures = [_records[name] for name in _FIGURES]
        last_id, changed = "", 0
        while True:
            with self._database.read(READ_LIMIT_S) as connection:
                ids = connection.execute(query.where(_records.id > last_id) if last_id else query).scalars().all()
            if not ids:
                return changed
            last_id, is_last = ids[-1], len(ids) < BATCH_RECORDS
            update = (
                sa.update(usage_records)
                .where(_records.id.in_(ids), _records.user_id == run.customer)
                .values(user_id=run.label, override_id=None)
                .returning(_HOUR, _records.outcome, _records.cost_status, sa.literal_column("1"), *figures)
            )
            with self._changing() as connection:
                rows = connection.execute(update).all()
                self._move(connection, run, _added(rows))
            changed += len(rows)
            self._sleep(PAUSE_S)
            if is_last:  # however fast late records come
                return changed

    def _move(self, connection: Connection, run: _Run, sums: Mapping[int, Totals]) -> None:
        """Move hourly sums from the customer to the new label, and delete the rows that nothing is left in."""
        if not sums:
            return
        changes = {(CUSTOMER, hour, run.label): totals for hour, totals in sums.items()}
        changes |= {(CUSTOMER, hour, run.customer): Totals().minus(totals) for hour, totals in sums.items()}
        self._rollups.add(connection, changes)
        number = number_of(connection, CUSTOMER, run.customer)
        moved = [_of_customer(number, grain, {hour // grain.hours for hour in sums}) for grain in (HOUR, DAY, *BLOCKS)]
        is_moved = sa.or_(*moved, _of_customer(number, TO_DATE, None))  # each with its whole key, for the index
        is_empty = (_rollups[counter] == 0 for counter in COUNTERS)
        connection.execute(sa.delete(usage_rollups).where(is_moved, *is_empty))


class _Run(NamedTuple):
    """The customer, its new label, and the time from which its requests keep theirs (milliseconds UTC)."""

    customer: str
    label: str
    until_ms: int


def _records_of(run: _Run, day: int) -> sa.Select[Any]:
    """Return the query for the ids of the customer's records of a day (UTC)."""
    start_ms, end_ms = day * DAY.ms, (day + 1) * DAY.ms
    return sa.select(_records.id).where(
        _records.id >= first_id(start_ms - CLOCK_SLACK_MS),
        _records.id < first_id(end_ms + CLOCK_SLACK_MS),
        _records.at_ms >= start_ms,
        _records.at_ms < end_ms,
        _records.user_id == run.customer,
    )


def _of_customer(number: int | None, grain: Grain, buckets: Collection[int] | None) -> sa.ColumnElement[bool]:
    """Return the condition for a customer's rollups of these buckets, counted since 1970, or of all (None)."""
    of_grain = (_rollups.dimension == NUMBERS[CUSTOMER], _rollups.hours == grain.hours, _rollups.name == number)
    return sa.and_(*of_grain, sa.true() if buckets is None else _rollups.bucket.in_(buckets))


def _sums(
    connection: Connection, customer: str, grain: Grain, buckets: Sequence[int], *, lock: bool = False
) -> dict[int, Totals]:
    """Return the customer's rollups by bucket; buckets without one are left out."""
    number = number_of(connection, CUSTOMER, customer)
    if number is None:
        return {}
    columns = (_rollups[counter] for counter in COUNTERS)
    query = sa.select(_rollups.bucket, *columns).where(_of_customer(number, grain, buckets))
    # Locked in the order in which shippers lock them.
    rows = connection.execute(query.order_by(_rollups.bucket).with_for_update() if lock else query)
    return {row[0]: Totals(*row[1:]) for row in rows}


def _added(rows: Sequence[sa.Row[Any]]) -> dict[int, Totals]:
    """Add up rows of (hour, outcome, cost status, number of requests, figures) by hour."""
    found: dict[int, Totals] = {}
    for hour, totals in starmap(_counted, rows):
        found[hour] = found[hour].plus(totals) if hour in found else totals
    return found


def _counted(hour: int, outcome: str, cost_status: str, number: int, *figures: int) -> tuple[int, Totals]:
    """Return the hour and the totals of alike requests, which count as in `Totals.count`."""
    totals = Totals(requests=number, **dict(zip(_FIGURES, figures, strict=True)))
    if outcome == "ok":
        totals.ok_requests = number
    else:
        totals.latency_ms = 0
        totals.cached_requests = number if outcome == "cached" else 0
        totals.error_requests = number if outcome in ERRORS else 0
    if outcome != "cached":
        totals.saved_cost_nanos = 0
    totals.estimated_requests = number if cost_status == "estimated" else 0
    totals.unpriced_requests = number if cost_status == "unpriced" else 0
    return hour, totals
