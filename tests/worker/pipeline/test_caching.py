"""Answer cache: which requests share a key, for which customers, and which answers are kept (see also test_flights)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.usage import Usage
from llm_gateway.worker.pipeline.caching import Caching, Lookup
from tests.worker.pipeline.fakes import Clock, plan, provider, request, served

A, B = provider("a"), provider("b")
PLAN = plan([A], [B])
OF_A, OF_B = Candidate.of(A, "m1"), Candidate.of(B, "m1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> MemoryCache:
    return MemoryCache(1_000_000, clock)


@pytest.fixture
def caching(cache: MemoryCache, clock: Clock) -> Caching:
    return Caching(cache, ttl_s=3600, shared=False, clock=clock)


async def ask(caching: Caching, the_plan: Plan = PLAN, /, **changes: Any) -> Lookup:
    """Look up, and abandon the flight that a miss starts."""
    lookup = await caching.lookup(request(**changes), the_plan)
    if lookup.flight is not None:
        caching.abandon(lookup, RuntimeError())
    return lookup


async def kept(
    caching: Caching, content: str = "hello", by: Candidate = OF_A, the_plan: Plan = PLAN, **changes: Any
) -> None:
    lookup = await caching.lookup(request(**changes), the_plan)
    await caching.keep(lookup, served(content, by))


async def test_a_cached_answer_is_returned(caching: Caching) -> None:
    await kept(caching, "hello", OF_B)

    lookup = await ask(caching)

    assert (lookup.status, lookup.flight) == ("hit", None)
    assert lookup.served == served("hello", OF_B)


FORMS: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "Hi"},
    "messages": {"prompt": None, "messages": [{"role": "user", "content": "Hi"}]},
    "messages in parts": {
        "prompt": None,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    },
    "a stream of the prompt": {"prompt": "Hi", "stream": True},
    "a stream of the messages": {
        "prompt": None,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    },
}


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
async def test_the_same_request_in_another_form_is_a_hit(caching: Caching, first: str, second: str) -> None:
    await kept(caching, **FORMS[first])

    assert (await ask(caching, **FORMS[second])).status == "hit"


async def test_the_same_request_in_another_form_waits_for_the_call_in_flight(caching: Caching) -> None:
    lookup = await caching.lookup(request(**FORMS["prompt"]), PLAN)
    waiting = asyncio.ensure_future(caching.lookup(request(**FORMS["messages"]), PLAN))
    await asyncio.sleep(0)

    await caching.keep(lookup, served("hello", OF_A))

    assert (await waiting).served == served("hello", OF_A)


async def test_an_empty_cache_is_a_miss(caching: Caching) -> None:
    lookup = await caching.lookup(request(), PLAN)

    assert (lookup.status, lookup.served) == ("miss", None)
    assert lookup.flight is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "other"},
        {"system": "other"},
        {"max_tokens": 101},
        {"temperature": 0.5},
        {"json_mode": True},
        {"user_id": "other"},
        {"prompt": "p" * 31, "system": "s" * 9},
    ],
    ids=repr,
)
async def test_a_change_that_affects_the_answer_is_a_miss(caching: Caching, changes: dict[str, Any]) -> None:
    await kept(caching)

    assert (await ask(caching, **changes)).status == "miss"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x", "client_request_id": "y", "at_ms": 5},
        {"service": "other", "task_type": "other"},
        {"tags": {"a": "b"}, "key_name": "other"},
        {"started": 1.0, "deadline": 2000.0},
    ],
    ids=repr,
)
async def test_a_change_that_does_not_affect_the_answer_is_a_hit(caching: Caching, changes: dict[str, Any]) -> None:
    await kept(caching)

    assert (await ask(caching, **changes)).status == "hit"


async def test_customers_share_answers_if_configured(cache: MemoryCache, clock: Clock) -> None:
    caching = Caching(cache, ttl_s=3600, shared=True, clock=clock)
    await kept(caching, user_id="one")

    assert (await ask(caching, user_id="two")).status == "hit"
    assert (await ask(caching, user_id="two", prompt="other")).status == "miss"


async def test_shared_and_private_answers_are_kept_apart(caching: Caching, cache: MemoryCache, clock: Clock) -> None:
    await kept(Caching(cache, ttl_s=3600, shared=True, clock=clock))

    assert (await ask(caching)).status == "miss"


async def test_lookup_tries_the_candidates_in_the_plans_order(caching: Caching) -> None:
    await kept(caching, "of b", OF_B)
    await kept(caching, "of a", OF_A, use_cache=False)

    assert (await ask(caching, plan([A], [B]))).served == served("of a", OF_A)
    assert (await ask(caching, plan([B], [A]))).served == served("of b", OF_B)
    assert (await ask(caching, plan([B]))).served == served("of b", OF_B)


async def test_an_answer_is_no_hit_if_a_candidate_comes_before_it_that_did_not_when_it_was_given(
    caching: Caching,
) -> None:
    other = provider("c")
    await kept(caching, "of b, in place of a", OF_B)  # by the plan: a, then b

    for tiers, status in (
        (([A], [B]), "hit"),
        (([B],), "hit"),  # such as while a is disabled
        (([B], [other]), "hit"),
        (([A, B],), "hit"),
        (([A], [other], [B]), "miss"),
        (([other], [B]), "miss"),  # such as by an override that was made since
        (([other, A], [B]), "miss"),
    ):
        assert (await ask(caching, plan(*tiers))).status == status, tiers

    await kept(caching, "of b, which came first", OF_B, the_plan=plan([B], [A]), use_cache=False)
    assert (await ask(caching)).status == "miss"  # such as once b's override is deleted
    assert (await ask(caching, plan([B], [A]))).status == "hit"


async def test_an_answer_of_a_candidate_outside_the_plan_is_a_miss(caching: Caching) -> None:
    await kept(caching, "of a", OF_A)

    assert (await ask(caching, plan([B]))).status == "miss"
    assert (await ask(caching, plan([provider("a", models=("m2",))]))).status == "miss"
    assert (await ask(caching, plan([provider("a", id="another")]))).status == "miss"


async def test_a_renamed_provider_keeps_its_answers_under_its_new_name(caching: Caching) -> None:
    await kept(caching, "of a", OF_A)

    renamed = plan([provider("renamed", id="id-a")])
    lookup = await ask(caching, renamed)
    assert lookup.status == "hit"
    assert lookup.served == msgspec.structs.replace(served("of a", OF_A), provider="renamed")
    assert renamed.route_to(lookup.served.provider) == b"priority"


async def test_an_answer_expires_after_its_time_to_live(caching: Caching, clock: Clock) -> None:
    await kept(caching)
    clock.now += 3599.9
    assert (await ask(caching, deadline=clock.now + 9)).status == "hit"
    clock.now += 0.1
    assert (await ask(caching, deadline=clock.now + 9)).status == "miss"


async def test_every_field_of_the_answer_is_cached(caching: Caching) -> None:
    usage = Usage(input_tokens=7, output_tokens=11, reasoning_tokens=5)
    one = served("hello", OF_A, cost_nanos=2**62)
    full = type(one)(
        type(one.reply)(content="ü\0", usage=usage, finish_reason="length", upstream_model="m", usage_estimated=True),
        one.provider,
        one.model,
        one.cost_nanos,
        one.cache_part,
    )
    lookup = await caching.lookup(request(), PLAN)
    await caching.keep(lookup, full)

    assert (await ask(caching)).served == full


async def test_a_failed_call_leaves_no_entry_and_no_flight(caching: Caching, cache: MemoryCache) -> None:
    lookup = await caching.lookup(request(), PLAN)
    caching.abandon(lookup, RuntimeError("failed"))

    assert len(cache) == 0
    assert (await ask(caching)).status == "miss"


class TestBypass:
    NO_CACHE: dict[str, Any] = {"use_cache": False, "store_in_cache": True}  # noqa: RUF012 - a constant
    NO_STORE: dict[str, Any] = {"use_cache": False, "store_in_cache": False}  # noqa: RUF012 - a constant
    READ_ONLY: dict[str, Any] = {"use_cache": True, "store_in_cache": False}  # noqa: RUF012 - a constant

    async def test_no_cache_skips_the_lookup_and_keeps(self, caching: Caching) -> None:
        await kept(caching, "old")
        lookup = await caching.lookup(request(**self.NO_CACHE), PLAN)

        assert (lookup.status, lookup.served, lookup.flight) == ("bypass", None, None)
        await caching.keep(lookup, served("new", OF_A))
        assert (await ask(caching)).served == served("new", OF_A)

    async def test_no_store_skips_the_lookup_and_keeps_nothing(self, caching: Caching) -> None:
        await kept(caching, "old")
        lookup = await caching.lookup(request(**self.NO_STORE), PLAN)

        assert (lookup.status, lookup.served, lookup.flight) == ("bypass", None, None)
        await caching.keep(lookup, served("new", OF_A))
        assert (await ask(caching)).served == served("old", OF_A)

    async def test_a_request_whose_answer_is_not_cached_can_be_a_hit(self, caching: Caching) -> None:
        await kept(caching, "old")

        assert (await ask(caching, **self.READ_ONLY)).status == "hit"

    async def test_a_miss_whose_answer_is_not_cached_starts_no_flight(
        self, caching: Caching, cache: MemoryCache
    ) -> None:
        lookup = await caching.lookup(request(**self.READ_ONLY), PLAN)

        assert (lookup.status, lookup.flight) == ("miss", None)
        await caching.keep(lookup, served())
        assert len(cache) == 0

    @pytest.mark.parametrize("ttl_s", [0, -1])
    async def test_a_time_to_live_of_0_disables_the_cache(self, cache: MemoryCache, clock: Clock, ttl_s: float) -> None:
        caching = Caching(cache, ttl_s=ttl_s, shared=False, clock=clock)
        first = await caching.lookup(request(), PLAN)
        second = await caching.lookup(request(), PLAN)

        assert {first.status, second.status} == {"bypass"}
        assert (first.flight, second.flight) == (None, None)
        await caching.keep(first, served())
        caching.abandon(second, RuntimeError())
        assert len(cache) == 0

    async def test_a_bypassing_request_does_not_wait_for_a_flight(self, caching: Caching) -> None:
        await caching.lookup(request(), PLAN)

        for changes in (self.NO_CACHE, self.NO_STORE):
            assert (await caching.lookup(request(**changes), PLAN)).status == "bypass"


@pytest.mark.parametrize("protocol", ["openai_chat", "gemini_content"])
async def test_integers_of_any_size_are_part_of_the_key(caching: Caching, protocol: str) -> None:
    """JSON has integers of any size; MessagePack, which keys are encoded in, has those of 64 bits."""

    def of(number: int) -> ClientRequest:
        return ClientRequest(protocol, {"messages": [{"n": number}]}, lambda _document: (Conversation(turns=[]), ()))

    await kept(caching, client_request=of(-(10**25)))

    assert (await ask(caching, client_request=of(-(10**25)))).served is not None
    assert (await ask(caching, client_request=of(-(10**25) - 1))).served is None
