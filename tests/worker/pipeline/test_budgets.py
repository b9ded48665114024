"""Budgets of requests: what is held before a call, what is counted after it, and which requests are refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.errors import BudgetExceeded, BudgetReserved
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.caching import Caching
from tests.worker.pipeline.fakes import Step, World, answer, provider, request, snapshot

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
    """A gateway with budgets over real accounts, and a fake upstream whose provider `a` answers."""

    def __init__(self, memory: HostMemory, *budgets: Budget) -> None:
        self.accounts = BudgetAccounts(memory, "worker", lambda: NOW_MS)
        self.world = World(self.accounts)
        self.world.budgets.change(BudgetTable(budgets))
        state = snapshot([provider("a", rate_limit_rpm=10**6, rate_limit_tpm=10**9)])
        self.gateway = Gateway(
            lambda: state,
            Caching(MemoryCache(1_000_000), ttl_s=3600, shared=False),
            self.world.failover,
            self.world.recorder,
            self.world.admission.state,
            budgets=self.world.budgets,
        )

    def script(self, *steps: Step) -> Scene:
        self.world.script(a=steps)
        return self


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
            await scene.gateway.generate(request(id=f"{number}", use_cache=False))
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
    first = await scene.gateway.generate(request(id="1", use_cache=False))
    assert dict(first.budget)[b"x-gateway-budget"].startswith(b"core-monthly; remaining=0.000206; resets=20")
    with pytest.raises(
        BudgetExceeded, match=r"'core monthly' has too little left: 0\.000130 of 0\.000336 USD"
    ) as error:
        await scene.gateway.generate(request(id="2", use_cache=False))
    assert error.value.budget is not None
    assert (error.value.budget.spent, error.value.budget.held) == (COST, 0)
    assert [len(each.accounts) for record in scene.world.observed for each in record.attempts] == [1]
