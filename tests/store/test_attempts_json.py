"""Attempts are the same after they were stored, in the form of version 1, too, and take little space."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given as for_any
from hypothesis import strategies as st

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.usage import FREE, AttemptRecord, Price, Usage, UsageRecord
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.store.attempts_json import MOST_ORIGINS, AttemptTexts
from llm_gateway.store.database import Database
from llm_gateway.store.numbered_texts import LONGEST_TEXT
from llm_gateway.store.tables import usage_origins
from tests.store.effort import few, many
from tests.store.histories import CHEAP, DEAR, NOW_MS, attempt, id_at, record

texts = st.one_of(st.none(), st.text(max_size=5))
accounts = st.builds(
    AccountRef,
    st.sampled_from([id_at(NOW_MS), "b", "c"]),
    st.one_of(st.sampled_from(["", "u"]), st.text(max_size=3)),
    st.integers(0, 2**53),
)
counts = st.one_of(st.just(0), st.integers(0, 2**53))
any_attempts = st.builds(
    AttemptRecord,
    id=st.one_of(
        st.uuids().map(str),
        st.just(id_at(NOW_MS)),
        st.sampled_from(["", "=", "A" * 22, "0" * 32, "-" * 36]),
        st.text(max_size=3),
    ),
    provider_id=st.sampled_from(["i", "j"]),
    provider=st.sampled_from(["p", "ü"]),
    kind=st.just("openai"),
    model=st.sampled_from(["m", "n", ""]),
    started_ms=st.integers(NOW_MS - 5, NOW_MS + 10**6),
    reserved_tokens=counts,
    limit_tokens=counts,
    upstream_model=texts,
    upstream_request_id=texts,
    sent=st.booleans(),
    status=st.sampled_from([None, 200, 503]),
    error=texts,
    finish_reason=texts,
    usage=st.builds(Usage, **dict.fromkeys(Usage.__struct_fields__, counts)),
    usage_estimated=st.booleans(),
    price=st.sampled_from([None, FREE, CHEAP, DEAR]),
    cost_nanos=counts,
    cost_status=st.sampled_from(["exact", "estimated", "unpriced"]),
    latency_ms=counts,
    why=texts,
    service_tier=texts,
    units=st.one_of(st.none(), st.dictionaries(st.text(max_size=3), counts, max_size=2)),
    accounts=st.lists(accounts, max_size=3),
)


def stored(database: Database, *records: UsageRecord) -> list[str | None]:
    with database.write() as connection:
        return AttemptTexts(database).write(connection, records)


def restored(database: Database, *written: tuple[int, str | None]) -> list[list[AttemptRecord]]:
    with database.read() as connection:
        return AttemptTexts(database).read(connection, [(at_ms, text, "u") for at_ms, text in written])


def origin_count(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(usage_origins)).scalar_one()


BATCHES = dict[str, st.SearchStrategy[Any]](batch=st.lists(st.lists(any_attempts, max_size=3), max_size=4))


def check_attempts_are_the_same_after_they_were_stored(database: Database, batch: list[list[AttemptRecord]]) -> None:
    records = [record(attempts=attempts) for attempts in batch]
    written = [(NOW_MS, text) for text in stored(database, *records)]
    assert restored(database, *written) == batch


@many
@for_any(**BATCHES)
def test_attempts_are_the_same_after_they_were_stored(shared_sqlite: Database, **drawn: Any) -> None:
    check_attempts_are_the_same_after_they_were_stored(shared_sqlite, **drawn)


@few
@for_any(**BATCHES)
def test_attempts_are_the_same_after_they_were_stored_on_postgres(shared_postgres: Database, **drawn: Any) -> None:
    check_attempts_are_the_same_after_they_were_stored(shared_postgres, **drawn)


@pytest.mark.parametrize("started_ms", [NOW_MS, NOW_MS + 1])
def test_the_time_in_an_id_is_left_out_where_it_is_that_of_the_start(database: Database, started_ms: int) -> None:
    attempts = [attempt(started_ms, id=id_at(NOW_MS))]
    [text] = stored(database, record(attempts=attempts))
    assert text is not None
    assert len(msgspec.json.decode(text)[0][1]) == (14 if started_ms == NOW_MS else 22)
    assert restored(database, (NOW_MS, text)) == [attempts]


def test_a_record_without_attempts_has_no_text(database: Database) -> None:
    assert stored(database, record()) == [None]
    assert restored(database, (NOW_MS, None)) == [[]]


def test_attempts_of_version_1_are_read(database: Database) -> None:
    attempts = [attempt(price=DEAR, usage=Usage(input_tokens=3)), attempt(error="e")]
    assert restored(database, (NOW_MS, msgspec.json.encode(attempts).decode())) == [attempts]


def test_attempts_that_differ_in_figures_only_share_their_origin(database: Database) -> None:
    batch = [record(attempts=[attempt(price=DEAR, latency_ms=number)]) for number in range(50)]
    stored(database, *batch)
    assert origin_count(database) == 1
    stored(database, record(attempts=[attempt(price=CHEAP), attempt(price=DEAR, model="n")]))
    assert origin_count(database) == 3


def test_a_usual_attempt_takes_less_than_a_quarter_of_its_fields_with_names(database: Database) -> None:
    price = Price(((0, 150_000_000),), ((0, 600_000_000),), cache_read=((0, 75_000_000),))
    usual = attempt(
        NOW_MS + 12,
        id=new_id(),
        provider_id=new_id(),
        price=price,
        upstream_model="m-2026-01-01",
        upstream_request_id="chatcmpl-0123456789abcdef01234567",
        usage=Usage(input_tokens=3210, output_tokens=1000),
        reserved_tokens=4500,
        limit_tokens=4210,
        status=200,
        finish_reason="stop",
        cost_nanos=1_081_500,
        latency_ms=1523,
    )
    [text] = stored(database, record(attempts=[usual]))
    assert text is not None
    assert 4 * len(text) < len(msgspec.json.encode([usual]))


@pytest.mark.parametrize("name", ["x" * LONGEST_TEXT, "ü" * 10_000])
def test_an_origin_too_long_for_an_index_is_written_out(database: Database, name: str) -> None:
    attempts = [attempt(upstream_model=name, price=DEAR)]
    [text] = stored(database, record(attempts=attempts))
    assert origin_count(database) == 0
    assert restored(database, (NOW_MS, text)) == [attempts]


def test_origins_are_written_out_once_there_are_too_many(database: Database) -> None:
    known: dict[str, Any] = {"upstream_model": "known"}
    stored(database, record(attempts=[attempt(**known)]))
    with database.write() as connection:
        connection.execute(sa.insert(usage_origins).values(id=MOST_ORIGINS, origin="[]"))
    attempts = [attempt(upstream_model="new"), attempt(**known)]
    [text] = stored(database, record(attempts=attempts))
    assert origin_count(database) == 2
    assert restored(database, (NOW_MS, text)) == [attempts]
