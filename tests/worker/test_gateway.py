"""The pipeline of a request as a whole: effects of each end on the record, the cache and waiting requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.catalog import Override, Provider, Snapshot
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.usage import RECORD_VERSION, UsageRecord
from llm_gateway.errors import DeadlineExceeded, JournalUnavailable, NoProvider, ProviderFailed, RateLimited
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.caching import Caching
from tests.worker.pipeline.fakes import (
    JournalSpy,
    Step,
    World,
    answer,
    override,
    provider,
    refusal,
    request,
    snapshot,
)

A, B = provider("a", priority=20), provider("b")


class GatewayUnderTest:
    """A gateway over a fake world, with its own configuration."""

    def __init__(self, providers: list[Provider], *overrides: Override) -> None:
        self.world = World()
        self.snapshot: Snapshot = snapshot(providers, *overrides)
        caching = Caching(MemoryCache(1_000_000), ttl_s=3600, shared=False)
        self.gateway = Gateway(
            lambda: self.snapshot, caching, self.world.failover, self.world.recorder, self.world.admission.state
        )

    @property
    def journal(self) -> JournalSpy:
        return self.world.journal

    def script(self, **steps: Sequence[Step]) -> GatewayUnderTest:
        self.world.script(**steps)
        return self

    async def ask(self, **changes: Any) -> Answer:
        return await self.gateway.generate(request(**changes))

    def settled(self) -> UsageRecord:
        """Return the only record, which journal and observer both got."""
        [record] = self.journal.records()
        assert self.world.observed == [record]
        return record


async def test_a_request_is_answered_recorded_and_cached() -> None:
    under_test = GatewayUnderTest([A, B]).script(a=[answer()])

    first, second = await under_test.ask(id="1"), await under_test.ask(id="2")

    assert (first.reply.content, first.provider, first.model, first.cost_nanos, first.cached) == (
        "hello",
        "a",
        "m1",
        130_000,
        False,
    )
    assert (second.reply.content, second.provider, second.cost_nanos, second.cached) == ("hello", "a", 0, True)
    assert under_test.journal.kinds == ["intent", "settle", "settle"]
    miss, hit = under_test.journal.records()
    assert (miss.id, miss.outcome, miss.cache, miss.override_id, len(miss.attempts)) == ("1", "ok", "miss", None, 1)
    assert (hit.id, hit.outcome, hit.cache, hit.saved_cost_nanos, hit.attempts) == ("2", "cached", "hit", 130_000, [])


async def test_the_record_names_the_override() -> None:
    under_test = GatewayUnderTest([A, B], override("b", id="seven")).script(b=[answer()])

    assert (await under_test.ask()).model == "m2"
    settled = under_test.settled()
    assert (settled.override_id, settled.route, settled.attempts[0].why) == ("seven", "override", None)


async def test_the_record_tells_both_ids_the_route_and_why_each_attempt_was_made() -> None:
    under_test = GatewayUnderTest([A, B]).script(a=[refusal(503)], b=[answer()])

    await under_test.ask(id="1", client_request_id="theirs", requested_model="m1")

    settled = under_test.settled()
    assert (settled.version, settled.id, settled.client_request_id) == (RECORD_VERSION, "1", "theirs")
    assert settled.route == "model"
    assert [(attempt.provider, attempt.why) for attempt in settled.attempts] == [("a", None), ("b", "failover:503")]


async def test_the_record_notes_a_cache_bypass() -> None:
    under_test = GatewayUnderTest([A]).script(a=[answer("1"), answer("2")])
    contents = [(await under_test.ask(use_cache=False)).reply.content for _ in range(2)]

    assert contents == ["1", "2"]
    assert [record.cache for record in under_test.journal.records()] == ["bypass", "bypass"]


async def test_the_snapshot_is_read_once_per_request() -> None:
    class Counting(GatewayUnderTest):
        reads = 0

        @property
        def snapshot(self) -> Snapshot:
            self.reads += 1
            return snapshot([A])

        @snapshot.setter
        def snapshot(self, value: Snapshot) -> None: ...

    under_test = Counting([A])
    under_test.script(a=[answer()])
    await under_test.ask()

    assert under_test.reads == 1


async def test_a_request_without_a_provider_is_recorded() -> None:
    under_test = GatewayUnderTest([])
    with pytest.raises(NoProvider):
        await under_test.ask()

    record = under_test.settled()
    assert (record.outcome, record.status, record.error_code) == ("no_provider", 503, "no_provider")
    assert under_test.journal.synced == 0


async def test_a_failure_is_recorded_with_what_it_cost() -> None:
    under_test = GatewayUnderTest([A, B]).script(a=[UpstreamResult(fault="broken", message="cut")], b=[refusal(500)])
    with pytest.raises(ProviderFailed):
        await under_test.ask()

    record = under_test.settled()
    assert (record.outcome, record.status, record.error_code) == ("failed", 502, "provider_error")
    assert (record.provider, record.model) == ("b", "m1")
    assert (record.cost_nanos, record.cost_status) == (336_000, "estimated")
    assert under_test.journal.kinds == ["intent", "outcome", "intent", "outcome", "settle"]
    assert under_test.journal.synced == 1


async def test_a_refusal_is_recorded() -> None:
    under_test = GatewayUnderTest([A]).script(a=[refusal(429, retry_after_s=3)])
    with pytest.raises(RateLimited):
        await under_test.ask()

    assert under_test.settled().outcome == "rate_limited"


async def test_a_defect_is_recorded_as_an_internal_error() -> None:
    under_test = GatewayUnderTest([A]).script(a=[RuntimeError("defect")])
    with pytest.raises(RuntimeError, match="defect"):
        await under_test.ask()

    record = under_test.settled()
    assert (record.outcome, record.status, record.error_code) == ("failed", 500, "internal_error")
    assert record.attempts[0].error == "defect"


async def test_an_answer_that_cannot_be_made_durable_is_recorded_once() -> None:
    under_test = GatewayUnderTest([A]).script(a=[answer()])
    under_test.journal.fails["durable"] = JournalUnavailable("disk full")
    with pytest.raises(JournalUnavailable):
        await under_test.ask()

    record = under_test.settled()
    assert (record.outcome, record.status, record.cost_nanos) == ("ok", 200, 130_000)


async def test_an_answer_that_cannot_be_made_durable_is_not_cached() -> None:
    under_test = GatewayUnderTest([A]).script(a=[answer("1"), answer("2")])
    under_test.journal.fails["durable"] = JournalUnavailable("disk full")
    with pytest.raises(JournalUnavailable):
        await under_test.ask()
    under_test.journal.fails.clear()

    assert ((await under_test.ask()).reply.content, (await under_test.ask()).cached) == ("2", True)


async def test_a_request_cancelled_while_it_is_made_durable_is_recorded_once() -> None:
    under_test = GatewayUnderTest([A]).script(a=[answer()])
    under_test.journal.fails["durable"] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await under_test.ask()

    assert under_test.settled().outcome == "ok"


async def test_a_request_cancelled_during_an_attempt_is_recorded_with_its_upper_bound() -> None:
    under_test = GatewayUnderTest([A, B]).script(a=[asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        await under_test.ask()

    record = under_test.settled()
    assert (record.outcome, record.status, record.provider) == ("cancelled", 499, "a")
    assert (record.cost_nanos, record.cost_status) == (336_000, "estimated")


class TestTogether:
    """Identical requests at once."""

    @staticmethod
    async def start(under_test: GatewayUnderTest, count: int, **changes: Any) -> list[asyncio.Task[Answer]]:
        under_test.world.clock.now = time.monotonic()  # requests that wait for another do so in real time
        deadline = under_test.world.clock.now + 60
        tasks = [
            asyncio.create_task(under_test.ask(id=str(i), **{"deadline": deadline, **changes})) for i in range(count)
        ]
        await asyncio.sleep(0)
        return tasks

    @staticmethod
    def gated(*exchanges: UpstreamResult) -> tuple[asyncio.Event, list[Step]]:
        gate = asyncio.Event()

        def step(exchange: UpstreamResult) -> Step:
            async def wait(_: float) -> UpstreamResult:
                await gate.wait()
                return exchange

            return wait

        return gate, [step(exchange) for exchange in exchanges]

    async def test_identical_requests_share_one_call_and_the_others_are_hits(self) -> None:
        gate, steps = self.gated(answer())
        under_test = GatewayUnderTest([A, B]).script(a=steps)
        tasks = await self.start(under_test, 200)
        gate.set()
        answers = await asyncio.gather(*tasks)

        assert [a.cached for a in answers] == [False] + [True] * 199
        assert sum(a.cost_nanos for a in answers) == 130_000
        assert sum(record.outcome == "cached" for record in under_test.journal.records()) == 199

    async def test_a_waiting_request_retries_after_a_failure(self) -> None:
        gate, steps = self.gated(refusal(400), answer())
        under_test = GatewayUnderTest([A]).script(a=steps)
        tasks = await self.start(under_test, 3)
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(results[0], ProviderFailed)
        assert [r.cached for r in results if isinstance(r, Answer)] == [False, True]

    async def test_a_waiting_request_retries_after_a_cancellation(self) -> None:
        gate, steps = self.gated(answer(), answer())
        under_test = GatewayUnderTest([A]).script(a=steps)
        tasks = await self.start(under_test, 2)
        tasks[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(results[0], asyncio.CancelledError)
        assert isinstance(results[1], Answer)
        assert [record.outcome for record in under_test.journal.records()] == ["cancelled", "ok"]

    async def test_a_waiting_request_whose_deadline_passes_is_recorded(self) -> None:
        gate, steps = self.gated(answer())
        under_test = GatewayUnderTest([A]).script(a=steps)
        tasks = await self.start(under_test, 1)
        with pytest.raises(DeadlineExceeded):
            await under_test.ask(id="late", deadline=time.monotonic() + 0.01)
        gate.set()
        await asyncio.gather(*tasks)

        late = under_test.journal.records()[0]
        assert (late.id, late.outcome, late.error_code, late.cache) == ("late", "failed", "deadline_exceeded", "miss")


async def test_an_answer_tells_why_its_provider_gave_it() -> None:
    under_test = GatewayUnderTest([A, B]).script(a=[answer(), refusal(500), answer()], b=[answer()])
    assert (await under_test.ask(id="1", use_cache=False)).route == b"priority"
    assert (await under_test.ask(id="2", use_cache=False)).route == b"priority; fallback"
    assert (await under_test.ask(id="3", use_cache=False, requested_model="a/m1")).route == b"model"
    assert (await GatewayUnderTest([A]).script(a=[answer()]).ask()).route == b"only"
    assert (await GatewayUnderTest([A, B], override("b")).script(b=[answer()]).ask()).route == b"override"
    failed = GatewayUnderTest([A, B], override("b")).script(a=[answer()], b=[refusal(500)])
    assert (await failed.ask()).route == b"override; fallback"


async def test_a_retry_of_the_only_provider_is_no_fallback() -> None:
    assert (await GatewayUnderTest([A]).script(a=[refusal(500), answer()]).ask()).route == b"only"


async def test_a_kept_answer_tells_why_its_provider_gives_it() -> None:
    under_test = GatewayUnderTest([A, B]).script(a=[answer()])
    await under_test.ask(id="1")
    again = await under_test.ask(id="2")
    assert (again.cached, again.route) == (True, b"priority")


async def test_an_error_that_identical_requests_share_has_each_header_once() -> None:
    under_test = GatewayUnderTest([A])

    async def fail(_: float) -> UpstreamResult:
        await asyncio.sleep(0.01)
        return refusal(429, "", 9.0)

    under_test.script(a=[fail] * 2)
    under_test.world.clock.now = time.monotonic()
    deadline = time.monotonic() + 30
    asked = [under_test.ask(id=str(number), deadline=deadline) for number in range(5)]

    errors = await asyncio.gather(*asked, return_exceptions=True)

    assert under_test.world.upstream.called == ["a", "a"], "three waited for the second call"
    for error in errors:
        assert isinstance(error, RateLimited)
        names = [name for name, _ in error.headers]
        assert len(names) == len(set(names)) == 6
