"""Single-flight: identical requests in flight share one upstream call, whatever its end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from llm_gateway.cache.base import NearCache
from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.upstream_call import Success
from llm_gateway.errors import DeadlineExceeded, GatewayError, InternalError, ProviderFailed
from llm_gateway.worker.pipeline.caching import Caching, Lookup
from tests.worker.pipeline.fakes import plan, provider, request, served

A, B = provider("a"), provider("b")
PLAN = plan([A], [B])


class Forgetful(NearCache):
    """A cache that stores nothing."""

    size_bytes = 0

    def __len__(self) -> int:
        return 0

    async def get(self, key: bytes) -> bytes | None:
        return None

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        await asyncio.sleep(0)


class Broken(Forgetful):
    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        raise OSError("gone")


@pytest.fixture
def caching() -> Caching:
    return Caching(Forgetful(), ttl_s=3600, shared=False)


def soon(seconds: float = 30.0, **changes: Any) -> Any:
    return request(deadline=time.monotonic() + seconds, **changes)


class Caller:
    """A request that looks up, and calls upstream on a miss. `calls` counts the upstream calls of all requests."""

    def __init__(self, caching: Caching, outcomes: list[Success | BaseException]) -> None:
        self.caching = caching
        self.outcomes = outcomes
        self.calls = 0
        self.release = asyncio.Event()

    async def __call__(self, **changes: Any) -> tuple[str, Success]:
        lookup = await self.caching.lookup(soon(**changes), PLAN)
        if lookup.served is not None:
            return lookup.status, lookup.served
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        try:
            await self.release.wait()
            await asyncio.sleep(0)
            if isinstance(outcome, BaseException):
                raise outcome
        except BaseException as error:
            self.caching.abandon(lookup, error)
            raise
        await self.caching.keep(lookup, outcome)
        return lookup.status, outcome

    async def many(self, count: int) -> list[asyncio.Task[tuple[str, Success]]]:
        tasks = [asyncio.create_task(self()) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks


@pytest.mark.parametrize("cache", [Forgetful(), MemoryCache(10_000)], ids=["forgetful", "memory"])
async def test_200_identical_requests_make_one_call(cache: Forgetful | MemoryCache) -> None:
    caller = Caller(Caching(cache, ttl_s=3600, shared=False), [served()])
    tasks = await caller.many(200)
    caller.release.set()
    answers = await asyncio.gather(*tasks)

    assert caller.calls == 1
    assert sorted(status for status, _ in answers) == ["hit"] * 199 + ["miss"]
    assert {answer.reply.content for _, answer in answers} == {"hello"}


async def test_a_finished_flight_is_forgotten(caching: Caching) -> None:
    caller = Caller(caching, [served()])
    caller.release.set()
    for count in (1, 2):
        await caller()
        assert caller.calls == count


async def test_different_requests_do_not_wait_for_each_other(caching: Caching) -> None:
    first = await caching.lookup(soon(), PLAN)
    lookups = [
        await caching.lookup(soon(prompt="other"), PLAN),
        await caching.lookup(soon(user_id="other"), PLAN),
        await caching.lookup(soon(), plan([B], [A])),
        await caching.lookup(soon(), plan([A])),
    ]

    assert all(lookup.flight is not None for lookup in (first, *lookups))


async def test_plans_with_the_same_order_share_a_flight_whatever_their_tiers(caching: Caching) -> None:
    await caching.lookup(soon(), plan([A], [B]))

    with pytest.raises(DeadlineExceeded):
        await caching.lookup(soon(0.01), plan([A, B]))


class TestFailure:
    async def test_waiters_retry_after_a_failed_call(self, caching: Caching) -> None:
        caller = Caller(caching, [ProviderFailed("first"), served("second")])
        tasks = await caller.many(200)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert caller.calls == 2, "together again: one of them makes the call"
        failed = [result for result in results if isinstance(result, BaseException)]
        assert [str(error) for error in failed] == ["first"]
        assert sum(1 for r in results if isinstance(r, tuple) and r[1].reply.content == "second") == 199

    async def test_waiters_fail_after_a_second_failed_call(self, caching: Caching) -> None:
        caller = Caller(caching, [ProviderFailed("first"), ProviderFailed("second"), served()])
        tasks = await caller.many(5)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [str(result) for result in results] == ["first"] + ["second"] * 4
        assert caller.calls == 2

    async def test_a_request_that_joins_the_second_call_can_still_retry(self, caching: Caching) -> None:
        one = await caching.lookup(soon(), PLAN)
        waiter = asyncio.create_task(caching.lookup(soon(), PLAN))
        await asyncio.sleep(0)
        caching.abandon(one, ProviderFailed("first"))
        leader = await caching.lookup(soon(), PLAN) if waiter.done() else await waiter
        late = asyncio.create_task(caching.lookup(soon(), PLAN))
        await asyncio.sleep(0)
        caching.abandon(leader, ProviderFailed("second"))

        assert (await late).flight is not None

    async def test_the_callers_missed_deadline_does_not_count_as_a_failure_for_waiters(self, caching: Caching) -> None:
        short = DeadlineExceeded("too short")
        caller = Caller(caching, [short, short, short, served("at last")])
        tasks = await caller.many(6)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert results[:3] == [short, short, short]
        assert {r[1].reply.content for r in results[3:] if isinstance(r, tuple)} == {"at last"}
        assert caller.calls == 4

    async def test_a_defect_is_reported_to_waiters_without_its_text(self, caching: Caching) -> None:
        caller = Caller(caching, [RuntimeError("secret"), RuntimeError("secret")])
        tasks = await caller.many(3)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert type(results[2]) is InternalError
        assert results[2].detail == (
            "This request waited for the answer of an identical one, which the gateway failed to serve: try again."
        )

    async def test_a_cancelled_caller_leaves_the_waiters_a_retry(self, caching: Caching) -> None:
        caller = Caller(caching, [served("first"), served("second")])
        tasks = await caller.many(3)
        tasks[0].cancel()
        await asyncio.sleep(0)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(results[0], asyncio.CancelledError)
        assert {r[1].reply.content for r in results[1:] if isinstance(r, tuple)} == {"second"}
        assert caller.calls == 2

    async def test_waiters_outlive_any_number_of_cancelled_callers(self, caching: Caching) -> None:
        caller = Caller(caching, [served()])
        tasks = await caller.many(5)
        for task in tasks[:3]:
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(result) for result in results] == [asyncio.CancelledError] * 3 + [tuple] * 2
        assert caller.calls == 4

    async def test_a_failing_cache_leaves_no_waiter_waiting(self) -> None:
        caller = Caller(Caching(Broken(), ttl_s=3600, shared=False), [served()])
        tasks = await caller.many(3)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(results[0], OSError)
        assert [r[0] for r in results[1:] if isinstance(r, tuple)] == ["hit", "hit"]


class TestWaiters:
    async def test_a_waiter_fails_at_its_own_deadline(self, caching: Caching) -> None:
        leader = await caching.lookup(soon(), PLAN)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as raised:
            await caching.lookup(soon(0.05), PLAN)

        assert 0.04 < time.monotonic() - began < 1
        assert raised.value.detail.startswith(
            "The deadline passed while this request waited for the answer to an identical"
        )
        await caching.keep(leader, served())

    async def test_a_waiter_whose_deadline_has_passed_fails_at_once(self, caching: Caching) -> None:
        await caching.lookup(soon(), PLAN)

        with pytest.raises(DeadlineExceeded):
            await caching.lookup(soon(-1), PLAN)

    async def test_a_cancelled_waiter_does_not_affect_the_others(self, caching: Caching) -> None:
        caller = Caller(caching, [served()])
        tasks = await caller.many(4)
        tasks[1].cancel()
        with pytest.raises(DeadlineExceeded):
            await caching.lookup(soon(0.01), PLAN)
        caller.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(results[1], asyncio.CancelledError)
        assert [r[0] for r in results if isinstance(r, tuple)] == ["miss", "hit", "hit"]
        assert caller.calls == 1

    async def test_a_request_whose_answer_is_not_cached_waits_too(self, caching: Caching) -> None:
        caller = Caller(caching, [served()])
        tasks = [*await caller.many(1), asyncio.create_task(caller(store_in_cache=False))]
        await asyncio.sleep(0)
        caller.release.set()

        assert [status for status, _ in await asyncio.gather(*tasks)] == ["miss", "hit"]

    async def test_deadlines_are_measured_by_the_injected_clock(self) -> None:
        caching = Caching(Forgetful(), ttl_s=1, shared=False, clock=lambda: 500.0)
        await caching.lookup(request(), PLAN)

        with pytest.raises(DeadlineExceeded):
            await caching.lookup(request(deadline=500.0), PLAN)


async def test_abandon_and_keep_without_a_flight_do_nothing(caching: Caching) -> None:
    lookup = Lookup(None, "bypass", keeps=True)

    caching.abandon(lookup, GatewayError("x"))
    await caching.keep(lookup, served())
