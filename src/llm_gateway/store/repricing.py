"""Recompute the cost of stored usage records at current prices, after a price was wrong or missing.

Only this and `erasure.py` change stored records; `usage.py` adds and deletes them. A batch of records and its rollups
change in one transaction, and a record that has its new price does not change again: a run can be stopped at any moment
and started again, while a gateway writes to the same database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DataError

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.quote import Quote
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord, worst_status
from llm_gateway.errors import RecordsRefused
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.budget_charges import charge_changes
from llm_gateway.store.budget_spend import SpendTable
from llm_gateway.store.cube import cube_change
from llm_gateway.store.cube_table import CubeTable
from llm_gateway.store.database import Database
from llm_gateway.store.one_transaction import take_turn_to_change_records
from llm_gateway.store.record_rows import SUMMED_COLUMNS, summed_records
from llm_gateway.store.rollup_rows import NUMBERS
from llm_gateway.store.rollup_table import RollupTable
from llm_gateway.store.rollups import HOUR, HOUR_MS, SERVICE, change
from llm_gateway.store.tables import usage_records, usage_rollups
from llm_gateway.store.usage import first_id

BATCH_RECORDS = 500
"""Records read, and rewritten in one transaction, at a time."""

PAUSE_S = 0.02
"""Seconds of pause after each batch that was written, so that other writers get the database's write lock."""

CLOCK_SLACK_MS = 60_000
"""Maximum milliseconds between `at_ms` of a record and the time in its id."""

NOTHING = Usage()

QuoteOf: TypeAlias = Callable[[Provider, AttemptRecord], Quote | None]


class ModelDifference(msgspec.Struct, kw_only=True):
    """Effect of repricing on the attempts at one provider's model; money in nano-dollars.

    `unknown` counts attempts without a known price, `gone` those at a provider that is no longer configured. Both keep
    their price, and their cost is part of both sums.
    """

    provider: str
    model: str
    attempts: int = 0
    changed: int = 0
    unknown: int = 0
    gone: int = 0
    cost_before_nanos: int = 0
    cost_after_nanos: int = 0


class RepriceReport(msgspec.Struct, kw_only=True):
    """Counts and costs of a run: what it changed, or would change if `dry_run`. Money in nano-dollars.

    `records` counts the records read, `changed` those of them that changed. The figures of `models` count the attempts
    that match `Wanted`. `pruned` counts requests of the period (whole hours) whose records are deleted but whose cost
    is still in the reports: they keep that cost.
    """

    dry_run: bool
    records: int = 0
    changed: int = 0
    pruned: int = 0
    at_ms: int = 0
    """Time of the last record read, milliseconds UTC."""
    models: list[ModelDifference] = []

    @property
    def cost_before_nanos(self) -> int:
        """Cost of the matching attempts before the run."""
        return sum(each.cost_before_nanos for each in self.models)

    @property
    def cost_after_nanos(self) -> int:
        """Cost of the matching attempts after the run."""
        return sum(each.cost_after_nanos for each in self.models)

    @property
    def unknown(self) -> int:
        """Number of attempts without a known price."""
        return sum(each.unknown for each in self.models)

    @property
    def gone(self) -> int:
        """Number of attempts at providers that are no longer configured."""
        return sum(each.gone for each in self.models)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Filter for the attempts to reprice: requests received from `since_ms` to before `until_ms` (milliseconds UTC).

    `provider` matches the recorded or the current name of the provider, `model` the configured model or the reported
    one. None matches any.
    """

    since_ms: int
    until_ms: int
    provider: str | None = None
    model: str | None = None


class Repricing:
    """A run over the stored records.

    `quote_of(provider, attempt)` returns what an attempt at that configured provider should cost, None if
    unknown; such an attempt keeps its price. `sleep` takes seconds.
    """

    def __init__(
        self,
        database: Database,
        providers: Iterable[Provider],
        quote_of: QuoteOf,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._providers = {provider.id: provider for provider in providers}
        self._quote_of = quote_of
        self._sleep = sleep
        self._attempts = AttemptTexts(database)
        self._rollups = RollupTable(database)
        self._cube = CubeTable(database)
        self._spend = SpendTable(database)

    def run(self, wanted: Wanted, *, dry_run: bool, progress: Callable[[RepriceReport], None]) -> RepriceReport:
        """Reprice the matching attempts, or only compute the report if `dry_run`.

        `progress` is called with the report so far after each batch. The savings of cache hits do not change: they say
        what a hit saved at the time.

        Raises:
            RecordsRefused: a new cost is too large to be summed; this batch and later ones are unchanged.
            StoreUnavailable: the database does not answer; finished batches stay, a new run does the rest.
        """
        report = RepriceReport(dry_run=dry_run)
        models: dict[tuple[str, str], ModelDifference] = {}
        whole_hours = range(-(-wanted.since_ms // HOUR_MS) * HOUR_MS, wanted.until_ms // HOUR_MS * HOUR_MS)
        requests = self._requests(whole_hours)
        last_id = first_id(wanted.since_ms - CLOCK_SLACK_MS)
        while records := self._read(wanted, last_id):
            last_id = records[-1].id
            repriced = [self._repriced(record, wanted) for record in records if record.attempts]
            if not dry_run and any(each.is_changed for each in repriced):
                repriced = self._rewrite([each.before.id for each in repriced], wanted)
                self._sleep(PAUSE_S)
            requests -= sum(record.at_ms in whole_hours for record in records)
            report.records += len(records)
            report.changed += sum(each.is_changed for each in repriced)
            report.at_ms = records[-1].at_ms
            _count(models, chain.from_iterable(each.attempts for each in repriced))
            report.models = [models[key] for key in sorted(models)]
            progress(report)
        report.pruned = max(0, requests)
        return report

    def _read(self, wanted: Wanted, last_id: str) -> Sequence[UsageRecord]:
        records = usage_records.c
        query = (
            sa.select(*SUMMED_COLUMNS)
            .where(records.id > last_id, records.id < first_id(wanted.until_ms + CLOCK_SLACK_MS))
            .where(records.at_ms >= wanted.since_ms, records.at_ms < wanted.until_ms)
            .order_by(records.id)
            .limit(BATCH_RECORDS)
        )
        with self._database.read() as connection:
            return summed_records(connection, self._attempts, connection.execute(query).all())

    def _requests(self, hours: range) -> int:
        rollups = usage_rollups.c
        query = sa.select(sa.func.coalesce(sa.func.sum(rollups.requests), 0)).where(
            rollups.dimension == NUMBERS[SERVICE],
            rollups.hours == HOUR.hours,
            rollups.bucket >= hours.start // HOUR.ms,
            rollups.bucket < hours.stop // HOUR.ms,
        )
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def _rewrite(self, ids: Sequence[str], wanted: Wanted) -> list[_Repriced]:
        """Store the records at their new prices. They are read again: others may have changed or deleted some."""
        records = usage_records.c
        query = sa.select(*SUMMED_COLUMNS).where(records.id.in_(ids)).order_by(records.id).with_for_update()
        update = (
            sa.update(usage_records)
            .where(records.id == sa.bindparam("row_id"))
            .values({name: sa.bindparam(f"new_{name}") for name in ("cost_nanos", "cost_status", "attempts")})
        )
        try:
            with self._database.write() as connection:
                take_turn_to_change_records(connection)
                filling = self._cube.filling(connection)
                stored = summed_records(connection, self._attempts, connection.execute(query).all())
                repriced = [self._repriced(record, wanted) for record in stored]
                if changed := [each for each in repriced if each.is_changed]:
                    texts = self._attempts.write(connection, [each.after for each in changed])
                    connection.execute(update, list(map(_Repriced.values, changed, texts)))
                    before, after = [each.before for each in changed], [each.after for each in changed]
                    self._rollups.add(connection, change(before, after))
                    counted = cube_change(filter(filling.is_counted, before), filter(filling.is_counted, after))
                    self._cube.add(connection, counted)
                    self._spend.change(connection, charge_changes(before, after))
                return repriced
        except (DataError, OverflowError) as error:
            cause = getattr(error, "orig", None) or error
            raise RecordsRefused(
                f"The database cannot store the new cost of a usage record ({cause}), so its batch and later records "
                "keep their costs: correct the price, then run llm-gateway reprice again."
            ) from error

    def _repriced(self, before: UsageRecord, wanted: Wanted) -> _Repriced:
        attempts = [self._reprice(attempt, wanted) for attempt in before.attempts]
        after = before
        if any(each.is_changed for each in attempts):
            sums = {"cost_nanos": sum(each.after.cost_nanos for each in attempts)}
            status = worst_status(each.after.cost_status for each in attempts)
            now = [each.after for each in attempts]
            after = msgspec.structs.replace(before, **sums, cost_status=status, attempts=now)
        return _Repriced(before, after, [each for each in attempts if each.fate != "unwanted"])

    def _reprice(self, attempt: AttemptRecord, wanted: Wanted) -> _Attempt:
        provider = self._providers.get(attempt.provider_id)
        if not _is_wanted(attempt, provider, wanted):
            return _Attempt(attempt, attempt, "unwanted")
        if provider is None:
            return _Attempt(attempt, attempt, "gone")
        quote = self._quote_of(provider, attempt)
        if quote is None:
            return _Attempt(attempt, attempt, "unknown")
        return _Attempt(attempt, at_quote(attempt, quote), "priced")


class _Attempt(NamedTuple):
    """An attempt before and after repricing; the same object twice if it does not change."""

    before: AttemptRecord
    after: AttemptRecord
    fate: Literal["unwanted", "gone", "unknown", "priced"]

    @property
    def is_changed(self) -> bool:
        return self.after is not self.before


class _Repriced(NamedTuple):
    """A record before and after repricing, the same object twice if it does not change, and its matching attempts."""

    before: UsageRecord
    after: UsageRecord
    attempts: list[_Attempt]

    @property
    def is_changed(self) -> bool:
        return self.after is not self.before

    def values(self, attempts: str | None) -> dict[str, object]:
        """Return the parameters of the UPDATE statement, given the text of the new attempts."""
        after = self.after
        return {
            "row_id": after.id,
            "new_cost_nanos": after.cost_nanos,
            "new_cost_status": after.cost_status,
            "new_attempts": attempts,
        }


def at_quote(attempt: AttemptRecord, quote: Quote) -> AttemptRecord:
    """Return the attempt with its cost as quoted; the same object if nothing changes.

    The cost is `estimated` if the token counts are, or if the price of its tier or units is not known, else `exact`.
    An attempt at the standard tier stays `estimated`: old ones have no mark of their own for estimated counts.
    """
    price = quote.price
    nanos, status = quote.cost_of(attempt)
    if attempt.service_tier is None and attempt.units is None and attempt.cost_status == "estimated":
        status = "estimated"
    if (attempt.price, attempt.cost_nanos, attempt.cost_status) == (price, nanos, status):
        return attempt
    return msgspec.structs.replace(attempt, price=price, cost_nanos=nanos, cost_status=status)


def _is_wanted(attempt: AttemptRecord, provider: Provider | None, wanted: Wanted) -> bool:
    """Return True if the attempt matches the filter and used tokens: without tokens it costs nothing at any price."""
    if attempt.usage == NOTHING and attempt.cost_status != "unpriced":
        return False
    names = (attempt.provider, None if provider is None else provider.name)
    models = (attempt.model, attempt.upstream_model)
    return (wanted.provider is None or wanted.provider in names) and (wanted.model is None or wanted.model in models)


def _count(models: dict[tuple[str, str], ModelDifference], attempts: Iterable[_Attempt]) -> None:
    for before, after, fate in attempts:
        key = (before.provider, before.model)
        counted = models.get(key)
        if counted is None:
            counted = models[key] = ModelDifference(provider=before.provider, model=before.model)
        counted.attempts += 1
        counted.changed += after is not before
        counted.unknown += fate == "unknown"
        counted.gone += fate == "gone"
        counted.cost_before_nanos += before.cost_nanos
        counted.cost_after_nanos += after.cost_nanos
