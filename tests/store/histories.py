"""Random usage records, and the reports expected for them, recomputed from the records in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import reduce
from itertools import count
from typing import Any, NamedTuple

import sqlalchemy as sa
from hypothesis import strategies as st

from llm_gateway.domain.usage import FREE, AttemptRecord, Price, Usage, UsageRecord, add_usage, cost
from llm_gateway.store.attempts_json import AttemptTexts
from llm_gateway.store.cube import ALL, DIMENSIONS, LONG, MARGIN_GRAINS, MARGINS, WHOLE, Margin
from llm_gateway.store.cube import GRAINS as CUBE_GRAINS
from llm_gateway.store.cube_table import built_until
from llm_gateway.store.database import Database
from llm_gateway.store.rollup_rows import NUMBERS
from llm_gateway.store.rollup_table import names_of
from llm_gateway.store.rollups import COUNTERS, DAY, Totals
from llm_gateway.store.tables import usage_cube, usage_names, usage_records, usage_rollups
from llm_gateway.store.usage import CustomerTotals, NamedTotals, UsageStore

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW_MS = 20_000 * DAY_MS + 15 * HOUR_MS + 1234

numbers = count()


def id_at(at_ms: int) -> str:
    text = f"{at_ms:012x}7000{0x8000_0000_0000_0000 + next(numbers):016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def record(at_ms: int = NOW_MS, **fields: Any) -> UsageRecord:
    plain = {
        "id": id_at(at_ms),
        "instance": "i",
        "key_name": "k",
        "user_id": "u",
        "service": "s",
        "task_type": "general",
    }
    return UsageRecord(at_ms=at_ms, surface="generate", **{**plain, **fields})


def attempt(started_ms: int = NOW_MS, provider: str = "p", **fields: Any) -> AttemptRecord:
    plain = {"id": id_at(started_ms), "provider_id": f"id-{provider}", "kind": "openai", "model": "m"}
    return AttemptRecord(provider=provider, started_ms=started_ms, **{**plain, **fields})


def clear(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.delete(usage_records))
        connection.execute(sa.delete(usage_rollups))
        connection.execute(sa.delete(usage_cube))


GRAINS = {0: "to date", 1: "hour", 24: "day"} | {days * 24: f"{days}days" for days in (2, 4, 8, 16, 32)}


def rollup_rows(database: Database) -> list[tuple[Any, ...]]:
    """Return the rollups with texts in the place of numbers: dimension, grain, start (ms), name, counters."""
    dimensions = {number: dimension for dimension, number in NUMBERS.items()}
    names: dict[str, dict[int, str]] = {}
    with database.read() as connection:
        for dimension in dimensions.values():
            names[dimension] = dict(map(tuple, connection.execute(sa.select(names_of(dimension)))))
        rows = connection.execute(sa.select(usage_rollups)).all()
    return sorted(
        (
            dimensions[dimension],
            GRAINS[hours],
            bucket * (hours or 24) * HOUR_MS,
            names[dimensions[dimension]][number],
            *counters[: len(COUNTERS)],
        )
        for dimension, hours, bucket, number, *counters in rows
    )


def record_rows(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(usage_records).order_by(usage_records.c.id))]


def stored_attempts(database: Database) -> list[list[AttemptRecord]]:
    """Return the attempts of every record that has some, in the order of the records' ids."""
    query = sa.select(usage_records.c.at_ms, usage_records.c.attempts, usage_records.c.user_id)
    with database.read() as connection:
        query = query.order_by(usage_records.c.id)
        texts = [(row.at_ms, row.attempts, row.user_id) for row in connection.execute(query)]
        return [each for each in AttemptTexts(database).read(connection, texts) if each]


def cube_rows(database: Database, margin: Margin = WHOLE) -> list[tuple[Any, ...]]:
    """Return the rows of the cube or of a margin, with names in the place of numbers, and the hours of each bucket."""
    with database.read() as connection:
        names = {ALL: None, **dict(map(tuple, connection.execute(sa.select(usage_names.c.id, usage_names.c.name))))}
        lengths = {margin.hours(grain): grain.hours for grain in CUBE_GRAINS}
        rows = connection.execute(sa.select(usage_cube).where(usage_cube.c.hours.in_(lengths))).all()
    width = 2 + len(DIMENSIONS)
    return sorted((lengths[row[0]], row[1], *(names[number] for number in row[2:width]), *row[width:]) for row in rows)


def stored_ids(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(sa.select(usage_records.c.id)).scalars())


def expected_period(records: Iterable[UsageRecord], days: int, now_ms: int) -> list[UsageRecord]:
    start = now_ms - now_ms % HOUR_MS - days * DAY_MS
    midnight = now_ms - now_ms % DAY_MS + DAY_MS
    return [given for given in records if start <= given.at_ms < midnight]


def expected_totals(records: Iterable[UsageRecord]) -> Totals:
    all_of = list(records)
    successes = [given for given in all_of if given.outcome == "ok"]
    return Totals(
        requests=len(all_of),
        cached_requests=sum(given.outcome == "cached" for given in all_of),
        error_requests=sum(
            given.outcome in ("rate_limited", "failed", "no_provider", "refused_budget") for given in all_of
        ),
        ok_requests=len(successes),
        estimated_requests=sum(given.cost_status == "estimated" for given in all_of),
        unpriced_requests=sum(given.cost_status == "unpriced" for given in all_of),
        input_tokens=sum(given.usage.input_tokens for given in all_of),
        output_tokens=sum(given.usage.output_tokens for given in all_of),
        cost_nanos=sum(given.cost_nanos for given in all_of),
        latency_ms=sum(given.latency_ms for given in successes),
        saved_cost_nanos=sum(given.saved_cost_nanos for given in all_of if given.outcome == "cached"),
    )


def expected_rows(records: list[UsageRecord], name: Callable[[UsageRecord], str]) -> list[NamedTotals]:
    groups: dict[str, list[UsageRecord]] = defaultdict(list)
    for given in records:
        groups[name(given)].append(given)
    return in_order({key: expected_totals(group) for key, group in groups.items()})


def expected_providers(records: list[UsageRecord]) -> list[NamedTotals]:
    reached = [given for given in records if given.attempts]
    tried = [one for given in reached for one in given.attempts]
    totals = {}
    for name in {given.provider for given in reached if given.provider} | {one.provider for one in tried}:
        bought = [one for one in tried if one.provider == name]
        counted = expected_totals(given for given in reached if given.provider == name)
        counted.input_tokens = sum(one.usage.input_tokens for one in bought)
        counted.output_tokens = sum(one.usage.output_tokens for one in bought)
        counted.cost_nanos = sum(one.cost_nanos for one in bought)
        if counted != Totals():
            totals[name] = counted
    return in_order(totals)


def in_order(totals: dict[Any, Totals]) -> list[NamedTotals]:
    rows = [NamedTotals(name, each) for name, each in totals.items()]
    return sorted(rows, key=lambda row: (-row.totals.cost_nanos, -row.totals.requests, row.name))


class Reports(NamedTuple):
    """All reports of a period."""

    whole: Totals
    services: list[NamedTotals]
    providers: list[NamedTotals]
    customers: list[CustomerTotals]


def check_reports(store: UsageStore, history: list[UsageRecord], days: int, now_ms: int = NOW_MS) -> Reports:
    """Compare every report with its recomputation from the records. Returns the reports."""
    period = expected_period(history, days, now_ms)
    found = Reports(
        store.summary(days, now_ms),
        store.by_service(days, now_ms),
        store.by_provider(days, now_ms),
        store.by_customer(days, now_ms, 500),
    )
    assert found.whole == expected_totals(period)
    assert found.services == expected_rows(period, lambda given: given.service)
    assert found.providers == expected_providers(period)
    customers = [
        CustomerTotals(row.name, row.totals.requests, row.totals.cost_nanos)
        for row in expected_rows(period, lambda given: given.user_id)
    ]
    assert found.customers == customers
    assert store.by_customer(days, now_ms, 2) == customers[:2]
    return found


def check_sums(reports: Reports) -> None:
    """Check that the reports add up to the same totals; needs records as the gateway makes them (`made_records`)."""
    whole = reports.whole
    assert reduce(Totals.plus, (row.totals for row in reports.services), Totals()) == whole
    assert (
        sum(row.requests for row in reports.customers),
        sum(row.cost_nanos for row in reports.customers),
    ) == (whole.requests, whole.cost_nanos)
    bought = reduce(Totals.plus, (row.totals for row in reports.providers), Totals())
    assert (bought.cost_nanos, bought.total_tokens) == (whole.cost_nanos, whole.total_tokens)
    assert bought.requests <= whole.requests


def check_cube(database: Database) -> None:
    """Check that the cube adds up to the rollups of services and providers, for every hour, day and eight days.

    Needs records as the gateway makes them (`made_records`). Rows of zeros count as missing: repricing leaves some.
    """
    rollups: dict[tuple[str, int, int, str], Totals] = {}
    for dimension, grain, bucket_ms, name, *counters in rollup_rows(database):
        hours = {"hour": 1, "day": 24}.get(grain)
        if dimension != "customer" and hours is not None and any(counters):
            rollups[dimension, hours, bucket_ms // (hours * HOUR_MS), name] = Totals(*counters)
            if grain == "day":
                key = (dimension, LONG.hours, bucket_ms // LONG.ms, name)
                rollups[key] = rollups.get(key, Totals()).plus(Totals(*counters))
    cube: dict[tuple[str, int, int, str], Totals] = {}
    for row in cube_rows(database):
        names = dict(zip((dimension.name for dimension in DIMENSIONS), row[2:], strict=False))
        totals = Totals(*row[2 + len(DIMENSIONS) :])
        # Reports leave hits of the cache out of the provider's requests; the cube has them where they were bought.
        cached, saved = totals.cached_requests, totals.saved_cost_nanos
        reached = totals.minus(Totals(requests=cached, cached_requests=cached, saved_cost_nanos=saved))
        for dimension, counted in (("service", totals), ("provider", reached)):
            key = (dimension, row[0], row[1], names[dimension])
            cube[key] = cube.get(key, Totals()).plus(counted)
    found = {key: totals for key, totals in cube.items() if key[0] == "service" or key[3]}
    assert {key: totals for key, totals in found.items() if totals != Totals()} == rollups
    check_margins(database)


def check_margins(database: Database) -> None:
    """Check that each margin adds up to the cube over the days that are built; rows of zeros count as missing."""
    width = 2 + len(DIMENSIONS)
    with database.read() as connection:
        lengths = set(connection.execute(sa.select(usage_cube.c.hours).distinct()).scalars())
        end = built_until(connection)
    assert lengths <= {
        *(grain.hours for grain in CUBE_GRAINS),
        *(margin.hours(grain) for margin in MARGINS for grain in MARGIN_GRAINS),
    }
    rows = [row for row in cube_rows(database) if row[0] <= DAY.hours and row[1] * row[0] // DAY.hours < end]
    for margin in MARGINS:
        sums: dict[tuple[Any, ...], Totals] = {}
        for row in rows:
            names = (name if at.name in margin.names else None for at, name in zip(DIMENSIONS, row[2:], strict=False))
            key = (*row[:2], *names)
            sums[key] = sums.get(key, Totals()).plus(Totals(*row[width:]))
        found = {row[:width]: Totals(*row[width:]) for row in cube_rows(database, margin)}
        found, sums = ({key: each for key, each in some.items() if each != Totals()} for some in (found, sums))
        assert found == sums


PROVIDERS = ("openai", "anthropic", "ü")
OUTCOMES = ("ok", "cached", "rate_limited", "failed", "cancelled", "no_provider", "refused_budget")
CHEAP = Price(input=((0, 1),), output=((0, 150_000),))
DEAR = Price(input=((0, 10**9), (200_000, 10**12)), output=((0, 10**15),), reasoning=((0, 3 * 10**9),))

edges = st.sampled_from([0, 1, 2, 7, 30, 90, 365]).flatmap(
    lambda days: st.sampled_from(
        [
            NOW_MS - days * DAY_MS,
            NOW_MS - NOW_MS % HOUR_MS - days * DAY_MS,
            NOW_MS - NOW_MS % DAY_MS - days * DAY_MS,
            NOW_MS - NOW_MS % (16 * DAY_MS) - days * DAY_MS,
        ]
    )
)
ahead = st.sampled_from([NOW_MS - NOW_MS % DAY_MS + DAY_MS + step for step in (-1, 0, 1, 40 * DAY_MS)])
times = st.one_of(
    st.builds(int.__add__, edges, st.sampled_from([-HOUR_MS, -1, 0, 1, HOUR_MS])),
    st.integers(NOW_MS - 9 * DAY_MS, NOW_MS + HOUR_MS),
    st.integers(NOW_MS - 400 * DAY_MS, NOW_MS),
    ahead,
)
token_counts = st.one_of(st.integers(0, 3), st.integers(0, 300_000))
usages = st.builds(Usage, input_tokens=token_counts, output_tokens=token_counts, reasoning_tokens=st.integers(0, 2))
names = {"user_id": st.sampled_from(["a", "b", "c", "\1"]), "service": st.sampled_from(["x", "y", ""])}

some_price = st.sampled_from([None, FREE, CHEAP, DEAR])

any_attempts = st.builds(
    attempt, provider=st.sampled_from(PROVIDERS), usage=usages, cost_nanos=st.integers(0, 5), sent=st.booleans()
)
any_records = st.builds(
    record,
    at_ms=times,
    **names,
    outcome=st.sampled_from(OUTCOMES),
    cost_status=st.sampled_from(["exact", "estimated", "unpriced"]),
    provider=st.sampled_from([None, *PROVIDERS]),
    usage=st.builds(Usage, input_tokens=st.integers(0, 3), output_tokens=st.integers(0, 2**40)),
    cost_nanos=st.integers(0, 10**12),
    latency_ms=st.integers(0, 1000),
    attempts=st.lists(any_attempts, max_size=3),
)
"""Records of any values that fit the type, also such as no gateway writes."""


@st.composite
def made_attempts(draw: st.DrawFn, at_ms: int, prices: st.SearchStrategy[Price | None]) -> AttemptRecord:
    """Draw an attempt that used tokens or none, at a known or unknown price."""
    price = draw(prices)
    made = attempt(at_ms + draw(st.integers(0, 5000)), draw(st.sampled_from(PROVIDERS)), price=price)
    made.model = draw(st.sampled_from(["m", "n"]))
    if draw(st.integers(0, 3)):
        made.usage = draw(usages)
        made.usage_estimated = draw(st.booleans())
        made.cost_nanos = 0 if price is None else cost(price, made.usage)
        made.cost_status = "estimated" if made.usage_estimated else "exact"
        if price is None:
            made.cost_status = "unpriced"
    return made


@st.composite
def made_records(draw: st.DrawFn, prices: st.SearchStrategy[Price | None] = some_price) -> UsageRecord:
    """Draw a record as the gateway makes it: its figures are sums over its attempts, and its outcome fits them."""
    at_ms = draw(times)
    outcome = draw(st.sampled_from(OUTCOMES))
    least, most = {"ok": (1, 3), "failed": (1, 3), "cached": (0, 0), "no_provider": (0, 0)}.get(outcome, (0, 2))
    attempts = draw(st.lists(made_attempts(at_ms, prices), min_size=least, max_size=most))
    made = record(at_ms, outcome=outcome, attempts=attempts, latency_ms=draw(st.integers(0, 120_000)))
    made.user_id, made.service = draw(names["user_id"]), draw(names["service"])
    close(made)
    if outcome == "cached":
        made.provider, made.cache, made.saved_cost_nanos = draw(st.sampled_from(PROVIDERS)), "hit", 7
    return made


def close(made: UsageRecord) -> None:
    """Set the fields of the record that follow from its attempts, as the gateway does."""
    made.usage, made.cost_nanos, made.cost_status = Usage(), 0, "exact"
    statuses = [one.cost_status for one in made.attempts]
    made.cost_status = next((status for status in ("unpriced", "estimated") if status in statuses), "exact")
    for one in made.attempts:
        made.usage = add_usage(made.usage, one.usage)
        made.cost_nanos += one.cost_nanos
        made.provider, made.model = one.provider, one.model
