"""Budgets of requests: what is held before a call, what is counted after it, and which requests are refused."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.reply import Answer
from llm_gateway.errors import BudgetExceeded, BudgetReserved, GatewayError, JournalUnavailable, RequestNotAllowed
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountPlace
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.host_memory.lock import BUDGETS, HostLock
from llm_gateway.wall_clock import CLOCK
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.caching import Caching
from llm_gateway.worker.pipeline.lease_requests import LeaseRequests
from llm_gateway.worker.pipeline.output_samples import FEWEST, PERCENT, SAMPLES, OutputSamples
from tests.shared_budgets.holding import hold
from tests.waiting import until
from tests.worker.pipeline.fakes import TIMEOUT, Step, World, answer, provider, refusal, request, snapshot

NOW_MS = 1_700_000_000_000
BOUND = 336_000
"""Nano-dollars of the bound of a request: 18 tokens in, 100 out."""
COST = 130_000
"""Nano-dollars of an answer."""


def budget(**changes: Any) -> Budget:
    """Build a hard budget of dollars for all requests, of a month."""
    fields: dict[str, Any] = {"id": "b", "name": "core monthly", "limit": 10 * BOUND, "overdraft": 2**60, **changes}
    return Budget(**fields)


class Scene:
    """A gateway with budgets over real accounts, and a fake upstream; its providers are `a`, and `b` after it."""

    def __init__(
        self, memory: HostMemory, *budgets: Budget, leases: LeaseRequests | None = None, **changes: Any
    ) -> None:
        self.accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
        self.world = World(self.accounts, leases)
        self.world.budgets.change(BudgetTable(budgets))
        providers = [
            provider(name, priority=priority, rate_limit_rpm=10**6, rate_limit_tpm=10**9, **changes)
            for name, priority in (("a", 20), ("b", 10))
        ]
        state = snapshot(providers)
        self.gateway = Gateway(
            lambda: state,
            Caching(MemoryCache(1_000_000), ttl_s=3600, shared=False),
            self.world.failover,
            self.world.recorder,
            self.world.admission.state,
            budgets=self.world.budgets,
        )

    def script(self, *steps: Step, b: tuple[Step, ...] = ()) -> Scene:
        self.world.script(a=steps, b=b)
        return self

    async def ask(self, number: int = 1, **changes: Any) -> Answer:
        return await self.gateway.generate(request(id=f"{number}", use_cache=False, **changes))

    def balances(self, *refs: AccountRef) -> list[tuple[int, int]]:
        """Return what is spent and held in these accounts, or in those that the records name."""
        named = refs or dict.fromkeys(
            ref for record in self.world.observed for attempt in record.attempts for ref in attempt.accounts
        )
        budgets = self.world.budgets.table
        assert budgets is not None
        rules = {rule.budget.id: rule for rule in budgets.rules}
        places = [AccountPlace(rules[ref.budget_id].account_name(ref), 2**60) for ref in named]
        assert hold(self.accounts, [(place, 0, 0, NO_LIMIT, NO_LIMIT) for place in places]) is True
        return [self.accounts.amounts(place)[:2] for place in places]


@pytest.fixture
def memory() -> Iterator[HostMemory]:
    descriptor = create()
    yield HostMemory(descriptor)
    os.close(descriptor)


async def test_of_200_parallel_requests_with_room_for_10_exactly_10_are_sent(memory: HostMemory) -> None:
    refused: list[int] = []
    release = asyncio.Event()

    async def wait(_timeout_s: float) -> Any:
        await release.wait()
        return answer()

    async def ask(number: int) -> None:
        try:
            await scene.ask(number)
        except BudgetReserved:
            refused.append(number)
            if len(refused) == 190:
                release.set()

    scene = Scene(memory, budget()).script(*[wait] * 200)
    await asyncio.gather(*map(ask, range(200)))
    assert len(scene.world.upstream.calls) == 10
    records = [record for record in scene.world.observed if record.outcome == "refused_budget"]
    assert (len(records), {(record.status, record.cost_nanos) for record in records}) == (190, {(429, 0)})


async def test_a_budget_that_is_used_up_refuses_with_the_whole_story(memory: HostMemory) -> None:
    scene = Scene(memory, budget(limit=BOUND)).script(answer(), answer())
    first = await scene.ask(1)
    assert dict(first.budget)[b"x-gateway-budget"].startswith(b"core-monthly; remaining=0.000206; resets=20")
    with pytest.raises(
        BudgetExceeded, match=r"'core monthly' has too little left: 0\.000130 of 0\.000336 USD"
    ) as error:
        await scene.ask(2)
    assert error.value.budget is not None
    assert (error.value.budget.spent, error.value.budget.held) == (COST, 0)
    assert [record.refused_by for record in scene.world.observed] == [None, "b"]
    assert [len(each.accounts) for record in scene.world.observed for each in record.attempts] == [1]


async def test_all_matching_budgets_count_and_the_first_full_one_is_named(memory: HostMemory) -> None:
    scene = Scene(
        memory,
        budget(id="all", name="all"),
        budget(id="users", name="users", per="user_id", limit=2 * BOUND, hold="bound"),
        budget(id="tokens", name="tokens", unit="tokens", limit=10_000, match={"service": "ch*"}),
        budget(id="requests", name="requests", unit="requests", limit=2, match={"user_id": "ann"}),
        budget(id="other", name="other", limit=0, match={"service": "other"}),
    ).script(*[answer()] * 4)
    await scene.ask(1, user_id="ann")
    await scene.ask(2, user_id="bob")
    names = [(ref.budget_id, ref.value) for record in scene.world.observed for ref in record.attempts[0].accounts]
    assert names == [
        ("all", ""), ("users", "ann"), ("tokens", ""), ("requests", ""), ("all", ""), ("users", "bob"), ("tokens", "")
    ]  # fmt: skip
    assert scene.balances() == [(2 * COST, 0), (COST, 0), (100, 0), (1, 0), (COST, 0)]
    await scene.ask(3, user_id="ann")
    with pytest.raises(BudgetExceeded, match="'requests' is used up: 2 of 2 requests"):
        await scene.ask(4, user_id="ann")
    assert scene.balances() == [(3 * COST, 0), (2 * COST, 0), (150, 0), (2, 0), (COST, 0)]


async def test_an_answer_from_the_cache_charges_nothing_and_is_not_refused(memory: HostMemory) -> None:
    scene = Scene(memory, budget(limit=BOUND)).script(answer())
    for number in (1, 2):
        assert (await scene.gateway.generate(request(id=f"{number}"))).cached is (number == 2)
    assert scene.balances() == [(COST, 0)]


@pytest.mark.parametrize("mode", ["soft", "observe"])
async def test_budgets_that_are_not_hard_count_and_refuse_nothing(memory: HostMemory, mode: Any) -> None:
    scene = Scene(memory, budget(limit=COST, mode=mode)).script(answer(), answer())
    await scene.ask(1)
    names = [name for name, _ in (await scene.ask(2)).budget]
    assert names == ([b"x-gateway-budget", b"x-gateway-budget-warning"] if mode == "soft" else [])
    assert scene.balances() == [(2 * COST, 0)]


async def test_a_candidate_whose_own_budget_is_full_is_passed_over(memory: HostMemory) -> None:
    scene = Scene(memory, budget(match={"provider": "a"}, limit=1)).script(b=(answer(), answer()))
    assert (await scene.ask(1)).provider == "b"
    record = scene.world.observed[0]
    assert [(each.provider, each.why, each.accounts) for each in record.attempts] == [("b", "failover:budget", [])]


async def test_what_a_failed_attempt_may_have_cost_stays_held_and_without_room_there_is_no_failover(
    memory: HostMemory,
) -> None:
    scene = Scene(memory, budget(limit=2 * BOUND - 1)).script(TIMEOUT, b=(answer(),))
    with pytest.raises(GatewayError) as error:
        await scene.ask(1)
    assert (error.value.code, scene.world.upstream.called) == ("provider_error", ["a"])
    assert scene.balances() == [(BOUND, 0)]
    scene.script(refusal(503), b=(answer(),))
    with pytest.raises(BudgetExceeded):
        await scene.ask(2, max_tokens=101)
    assert (await scene.ask(3, max_tokens=99)).provider == "b", "an error that costs nothing gives its room back"
    assert scene.balances() == [(BOUND + COST, 0)]


async def test_a_request_that_is_cancelled_or_not_journalled_holds_nothing_after_it(memory: HostMemory) -> None:
    scene = Scene(memory, budget()).script(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await scene.ask(1)
    assert scene.balances() == [(BOUND, 0)]
    scene.world.journal.fails["intent"] = JournalUnavailable("disk full")
    with pytest.raises(JournalUnavailable):
        await scene.ask(2)
    assert scene.balances() == [(BOUND, 0)]


async def test_a_model_without_a_price_is_refused_unless_the_budget_allows_it(memory: HostMemory) -> None:
    scene = Scene(memory, budget(), price_by_model={}, price_vendor=None)
    with pytest.raises(RequestNotAllowed, match="the price of a/m1 is not known"):
        await scene.ask(1)
    scene.world.budgets.change(BudgetTable([budget(unpriced="allow")]))
    await scene.script(answer()).ask(2)
    assert scene.balances() == [(0, 0)]


async def test_the_expected_output_is_learnt_and_requests_beyond_the_overdraft_go_one_at_a_time(
    memory: HostMemory,
) -> None:
    """A request of 10,000 tokens has a bound of 30,036,000 nano-dollars; answers of 30 tokens cost 130,000."""
    scene = Scene(memory, budget(limit=31_000_000, overdraft=30_000_000)).script(*[answer()] * 30)
    for number in range(20):
        await scene.ask(number)
    with pytest.raises(BudgetExceeded, match=r"can take 0\.030036"):  # 20 samples of another model are none of this one
        await scene.ask(20, max_tokens=10_000, requested_model="m2")
    held: list[tuple[int, int]] = []
    sent, release = asyncio.Event(), asyncio.Event()

    async def wait(_timeout_s: float) -> Any:
        held.extend(scene.balances())
        sent.set()
        await release.wait()
        return answer()

    scene.script(wait, answer())
    first = asyncio.ensure_future(scene.ask(21, max_tokens=10_000))
    await sent.wait()
    with pytest.raises(BudgetReserved, match=r"requests in flight hold 0\.000126"):
        await scene.ask(22, max_tokens=10_000)
    release.set()
    await first
    assert held == [(20 * COST, 126_000)]
    await scene.ask(23, max_tokens=10_000)
    assert scene.balances() == [(22 * COST, 0)]


async def test_a_failover_with_learnt_outputs_holds_its_gap_and_counts_the_request_once(memory: HostMemory) -> None:
    scene = Scene(
        memory,
        budget(limit=10**12),
        budget(id="r", name="r", unit="requests", limit=21, overdraft=0),
        budget(id="t", name="t", unit="tokens", limit=10**9, hold="bound"),
    ).script(*[answer()] * 20)
    for number in range(20):
        await scene.ask(number)
    seen: list[list[tuple[int, int]]] = []

    async def look(_timeout_s: float) -> Any:
        seen.append(scene.balances())
        return answer()

    scene.script(TIMEOUT, b=(look,))
    assert (await scene.ask(20, max_tokens=10_000)).provider == "b"
    most = 30_036_000
    [[dollars, requests, tokens]] = seen
    assert (dollars, requests) == ((20 * COST, most + 126_000), (20, 1)), "what the first may have cost stays held"
    assert tokens[1] > 2 * 10_000
    assert scene.balances()[:2] == [(21 * COST + most, 0), (21, 0)]


def test_the_expected_output_is_that_of_the_last_1000_answers() -> None:
    series, outputs = OutputSamples().make("key", "model"), [number * 7_919 % 1_009 for number in range(2_500)]
    for number, tokens in enumerate(outputs, 1):
        series.add(tokens)
        last = sorted(outputs[max(0, number - SAMPLES) : number])
        rank = -(-len(last) * PERCENT // 100) - 1
        assert series.expected == (last[rank] if number >= FEWEST else None)


@pytest.mark.parametrize("pause", [3, 150, 1_300])
def test_outputs_count_that_came_since_something_was_expected_last(pause: int) -> None:
    series, outputs = OutputSamples().make("key", "model"), [number * 7_919 % 1_009 for number in range(3_900)]
    for number, tokens in enumerate(outputs, 1):
        series.add(tokens)
        if number % pause == 0 and number >= FEWEST:
            last = sorted(outputs[max(0, number - SAMPLES) : number])
            assert series.expected == last[-(-len(last) * PERCENT // 100) - 1]


async def test_a_clock_that_is_set_back_charges_the_period_that_it_says(memory: HostMemory) -> None:
    hour_ms = 3_600_000
    scene = Scene(memory, budget(period="hour")).script(*[answer()] * 3)
    try:
        for number, offset_ms in enumerate((hour_ms, 0, hour_ms)):
            CLOCK.correct(offset_ms)
            await scene.ask(number)
    finally:
        CLOCK.correct(0)
    starts = [record.attempts[0].accounts[0].period_start_ms for record in scene.world.observed]
    assert [start - starts[0] for start in starts] == [0, -hour_ms, 0]


async def test_an_override_and_what_was_carried_over_raise_the_limit(memory: HostMemory) -> None:
    until_ms = time.time_ns() // 1_000_000 + 3_600_000
    changed = budget(limit=1, override_limit=BOUND, override_until_ms=until_ms)
    scene = Scene(memory, changed).script(*[answer()] * 3)
    await scene.ask(1)
    scene.world.budgets.change(BudgetTable([budget(id="c", limit=BOUND, carry=0.5)]))
    await scene.ask(2)
    answered = await scene.ask(3)
    assert dict(answered.budget)[b"x-gateway-budget"].startswith(b"core-monthly; remaining=0.000244;")


async def test_refusals_of_a_key_are_one_log_line_a_minute_with_their_count(memory: HostMemory) -> None:
    scene = Scene(memory, budget(limit=1))
    for number in range(6):
        scene.world.clock.now += 60 if number == 5 else 0
        with pytest.raises(BudgetExceeded):
            await scene.ask(number, deadline=10**9)
    lines = [fields for event, fields in scene.world.logged if event == "requests refused by a budget"]
    assert [(line["count"], line["key"], line["budget"]) for line in lines] == [
        (1, "key", "core monthly"),
        (5, "key", "core monthly"),
    ]


async def test_without_memory_only_hard_budgets_refuse() -> None:
    world = World()
    world.budgets.change(BudgetTable([budget(mode="soft")]))
    asked, one = request(), Candidate.of(provider(), "m1")
    made = world.recorder.new_attempt(asked, one, 1)
    assert world.budgets.hold(asked, one, made, world.open(asked)) is True
    assert [ref.budget_id for ref in made.accounts] == ["b"], "the database counts all the same"
    world.budgets.change(BudgetTable([budget()]))
    error = world.budgets.hold(asked, one, made, world.open(asked))
    assert (isinstance(error, GatewayError) and error.status, "restart the gateway" in str(error)) == (503, True)


async def test_identical_requests_do_not_share_the_refusal_of_a_budget(memory: HostMemory) -> None:
    scene = Scene(memory, budget(limit=1, match={"service": "poor"})).script(answer())
    ends = await asyncio.gather(
        *(scene.gateway.generate(request(id=name, service=name)) for name in ("poor", "rich")), return_exceptions=True
    )
    assert [type(end) for end in ends] == [BudgetExceeded, Answer]


async def test_what_could_not_be_released_is_released_without_another_request(memory: HostMemory) -> None:
    locked, answered = Event(), Event()

    def keep_the_lock() -> None:  # as a process that does not run while it has it
        lock = HostLock(memory, BUDGETS)
        assert lock.acquire()
        locked.set()
        answered.wait(10)
        lock.release()

    async def answer_while_locked(_timeout_s: float) -> Any:
        other.start()
        await asyncio.to_thread(locked.wait, 10)
        return answer()

    other = Thread(target=keep_the_lock)
    scene = Scene(memory, budget()).script(answer_while_locked)
    await scene.ask()
    answered.set()
    await asyncio.to_thread(other.join)
    scene.accounts = BudgetAccounts(memory, "observer", lambda: NOW_MS)  # the worker's own would release it
    assert scene.balances() == [(0, BOUND)], "nothing was released while it was locked"
    await until(lambda: scene.balances() == [(COST, 0)])


async def test_a_busy_combination_is_served_and_counted_while_another_process_has_the_lock(memory: HostMemory) -> None:
    scene = Scene(memory, budget(limit=10**6 * BOUND), budget(id="r", name="r", unit="requests", limit=10**6))
    scene.script(*[answer()] * 10)
    lock = HostLock(memory, BUDGETS)
    await asyncio.gather(*map(scene.ask, range(3)))
    assert lock.acquire()
    await asyncio.gather(*map(scene.ask, range(3, 10)))
    lock.release()
    scene.accounts = BudgetAccounts(memory, "observer", lambda: NOW_MS)
    await until(lambda: scene.balances() == [(10 * COST, 0), (10, 0)])
