"""Check the usage records in the database file against the mock vendor's bills and the clients' answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec

from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import fetch_rows
from llm_gateway.store.rollup_rows import NUMBERS
from tests.faults.client import Answer
from tests.upstream import Bill

HOUR_MS = 3_600_000
PRICES = {"input": 1.5, "output": 6.25}
"""Prices of every provider in these tests, USD per million tokens: 1,500 and 6,250 nano-dollars per token."""

SUMS = """
SELECT dimension, hours, bucket, coalesce(customers.name, names.name), requests, cost_nanos, input_tokens, output_tokens
FROM usage_rollups AS rollups
LEFT JOIN usage_customers AS customers ON dimension = 2 AND customers.id = rollups.name
LEFT JOIN usage_names AS names ON dimension <> 2 AND names.id = rollups.name
"""

Sums = dict[tuple[int, int, int, str], list[int]]
"""Requests, cost and tokens by dimension, hours of a bucket, its number since 1970, and name."""


class Row(msgspec.Struct, array_like=True):
    """The fields of a usage record that are checked."""

    id: str
    at_ms: int
    user_id: str
    service: str
    outcome: str
    status: int
    provider: str | None
    input_tokens: int
    output_tokens: int
    cost_nanos: int
    cost_status: str
    attempts: list[AttemptRecord]

    @property
    def sent(self) -> list[AttemptRecord]:
        return [attempt for attempt in self.attempts if attempt.sent]


def exact_cost(input_tokens: int, output_tokens: int) -> int:
    """Return the cost at PRICES in nano-dollars."""
    return input_tokens * 1_500 + output_tokens * 6_250


class Ledger:
    """A snapshot of the usage records and rollups in a database: by default, that in the data directory."""

    def __init__(self, data_dir: Path, url: str | None = None) -> None:
        self.quarantine = data_dir / "journal" / "quarantine.jsonl"
        names = ", ".join(Row.__struct_fields__)
        where = url or f"sqlite:///{data_dir / 'gateway.db'}"
        with closing(Database.open(where, read_limit_s=60)) as database, database.read() as connection:
            found = fetch_rows(connection, f"SELECT {names} FROM usage_records", ())
            sums = fetch_rows(connection, SUMS, ())
            texts = [(values[1], values[-1], "") for values in found]
            attempts = AttemptTexts(database).read(connection, texts)
        self.rows = [msgspec.convert((*v[:-1], each), Row) for v, each in zip(found, attempts, strict=True)]
        self.by_id = {row.id: row for row in self.rows}
        self.rollups: Sums = {values[:4]: list(values[4:]) for values in sums}

    def count(self, outcome: str) -> int:
        """Return the number of records with this outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def check_unsent(self) -> int:
        """Check that every cancelled request was not sent at all, and cost nothing. Returns their number."""
        cancelled = [row for row in self.rows if row.outcome == "cancelled"]
        bought = [row for row in cancelled if row.sent or row.cost_nanos or row.output_tokens]
        assert not bought, bought
        return len(cancelled)

    def check_sums(self) -> None:
        """Check that nothing is recorded twice or quarantined, and that the rollups are the sums of the records."""
        assert len(self.by_id) == len(self.rows), "a request has two records"
        assert not self.quarantine.exists(), self.quarantine.read_text()
        attempts = [attempt.id for row in self.rows for attempt in row.attempts]
        assert len(set(attempts)) == len(attempts), "an attempt is in two records"
        for row in self.rows:
            assert row.cost_nanos == sum(attempt.cost_nanos for attempt in row.attempts), row
            assert row.input_tokens == sum(attempt.usage.input_tokens for attempt in row.attempts), row
        expected = recomputed(self.rows)
        assert set(self.rollups) == set(expected)
        wrong = {key: (self.rollups[key], sums) for key, sums in expected.items() if self.rollups[key] != sums}
        assert not wrong, f"rollups, and what the records add up to: {wrong}"

    def check_bills(self, bills: Iterable[Bill], sent: Counter[str] | None = None) -> None:
        """Check that every call the vendor saw is in a record, by its id or as an attempt whose answer is unknown.

        Per customer and model: billed ≤ attempts recorded as sent. Per customer: records ≤ requests sent (`sent`).
        """
        bills_by_id = {bill.id: bill for bill in bills}
        billed = Counter((_customer(bill), bill.model) for bill in bills_by_id.values())
        known = [(row, a) for row in self.rows for a in row.attempts if a.upstream_request_id is not None]
        names = [attempt.upstream_request_id for _, attempt in known]
        assert len(set(names)) == len(names), "a call is in two attempts"
        for row, attempt in known:
            bill = bills_by_id[attempt.upstream_request_id or ""]
            assert _customer(bill) == row.user_id, (bill, row)
            tokens = attempt.usage.input_tokens, attempt.usage.output_tokens
            assert tokens == (bill.prompt_tokens, bill.completion_tokens), (bill, row)
            assert attempt.cost_nanos == exact_cost(*tokens), (bill, row)
        attempts = Counter(dict.fromkeys(billed, 0))
        for row in self.rows:
            attempts.update((row.user_id, attempt.model) for attempt in row.sent)
        lost = {name: (count, attempts[name]) for name, count in billed.items() if count > attempts[name]}
        assert not lost, f"(customer, model): (billed, attempts in records): {lost}"
        if sent is not None:
            records = Counter(row.user_id for row in self.rows)
            invented = {name: (count, sent[name]) for name, count in records.items() if count > sent[name]}
            assert not invented, f"customer: (records, requests): {invented}"

    def check_answers(self, answers: Iterable[Answer], bills: Iterable[Bill]) -> int:
        """Check that every answer read has a settled record with the vendor's tokens at their exact cost.

        Returns the number of answers checked.
        """
        bills_by_id = {bill.id: bill for bill in bills}
        checked = 0
        for answer in answers:
            if answer.status != 200:
                continue
            row, said = self.by_id.get(answer.id), answer.json
            assert row is not None, f"an answer without a record: {answer}"
            assert (row.outcome, row.cost_status, row.status) == ("ok", "exact", 200), (answer, row)
            served = row.attempts[-1]
            bill = bills_by_id[served.upstream_request_id or ""]
            assert bill.marker == answer.marker, (bill, answer)
            tokens = bill.prompt_tokens, bill.completion_tokens
            assert (said["input_tokens"], said["output_tokens"]) == tokens, (answer, bill)
            assert served.cost_nanos == exact_cost(*tokens), (row, bill)
            assert said["cost_usd"] == row.cost_nanos / 1e9, (answer, row)
            checked += 1
        return checked


def recomputed(rows: Iterable[Row]) -> Sums:
    """Compute requests, cost and tokens by service, customer and provider, hour and day, from the records alone."""
    sums: Sums = defaultdict(lambda: [0, 0, 0, 0])

    def add(dimension: str, row: Row, name: str, *figures: int) -> None:
        for hours in (1, 24):
            total = sums[NUMBERS[dimension], hours, row.at_ms // (hours * HOUR_MS), name]
            total[:] = [have + more for have, more in zip(total, figures, strict=True)]

    for row in rows:
        for dimension, name in (("service", row.service), ("customer", row.user_id)):
            add(dimension, row, name, 1, row.cost_nanos, row.input_tokens, row.output_tokens)
        if row.provider is not None and row.attempts:  # a cache hit reached no provider
            add("provider", row, row.provider, 1, 0, 0, 0)
        for attempt in row.attempts:
            figures = attempt.cost_nanos, attempt.usage.input_tokens, attempt.usage.output_tokens
            if any(figures):
                add("provider", row, attempt.provider, 0, *figures)
    return dict(sums)


def _customer(bill: Bill) -> str:
    return (bill.marker or "").rpartition(".")[0]
