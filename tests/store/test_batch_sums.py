"""Sums of a whole batch of records: the same as those that rollups and cube define."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.errors import RecordsRefused
from llm_gateway.store.batch_sums import BatchSums
from llm_gateway.store.cube import cube_sums
from llm_gateway.store.rollups import HOUR_MS, LARGEST_SUM, hourly
from tests.examples import examples

COUNTS = st.integers(0, 2)
NAMES = st.sampled_from(["a", "b"])
MAYBE = st.none() | NAMES
USAGES = st.builds(Usage, input_tokens=COUNTS, output_tokens=COUNTS, cache_read_tokens=st.integers(0, 1))
ATTEMPTS = st.builds(
    AttemptRecord,
    id=st.just("a"),
    provider_id=st.just("1"),
    provider=NAMES,
    kind=st.just("openai"),
    model=NAMES,
    started_ms=st.just(0),
    usage=USAGES,
    cost_nanos=COUNTS,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "at_ms": st.sampled_from([0, HOUR_MS, 25 * HOUR_MS]),
    **dict.fromkeys(("key_name", "user_id", "service", "task_type"), NAMES),
    **dict.fromkeys(("key_id", "team_id", "agent", "provider", "model"), MAYBE),
    "outcome": st.sampled_from(["ok", "cached", "failed", "cancelled"]),
    "cost_status": st.sampled_from(["exact", "estimated", "unpriced"]),
    "latency_ms": COUNTS,
    "usage": USAGES,
    "cost_nanos": COUNTS,
}
FIXED = {name: st.just("x") for name in ("id", "instance", "surface")}
ANY_RECORDS = st.builds(UsageRecord, **FIXED, **FIELDS, attempts=st.lists(ATTEMPTS, max_size=2))


@st.composite
def records_of_one_attempt(draw: st.DrawFn) -> UsageRecord:
    record, only = draw(ANY_RECORDS), draw(ATTEMPTS)
    record.attempts, record.provider, record.model = [only], only.provider, only.model
    record.usage, record.cost_nanos = only.usage, only.cost_nanos
    return record


@examples(2)
@given(st.lists(ANY_RECORDS | records_of_one_attempt(), max_size=8))
def test_the_sums_of_a_batch_are_those_of_rollups_and_cube(records: list[UsageRecord]) -> None:
    sums = BatchSums()
    for part in (records[:3], records[3:]):
        sums.add(part)
    sums.finish()
    assert (sums.rollups, sums.cube) == (hourly(records), cube_sums(records))


def test_a_batch_whose_sum_is_too_large_is_refused() -> None:
    only = AttemptRecord(
        id="a", provider_id="1", provider="p", kind="openai", model="m", started_ms=0, cost_nanos=LARGEST_SUM
    )
    plain: dict[str, Any] = dict.fromkeys(("id", "instance", "key_name", "user_id", "service", "task_type"), "x")
    record = UsageRecord(
        **plain, at_ms=0, surface="s", provider="p", model="m", cost_nanos=LARGEST_SUM, attempts=[only]
    )
    sums = BatchSums()
    sums.add([record])
    sums.finish()
    more = BatchSums()
    more.add([record, record])
    with pytest.raises(RecordsRefused, match="too large"):
        more.finish()
