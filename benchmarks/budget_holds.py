"""Measure what four budgets, their headers, and a key's limits cost a request: CPU time, in one process.

Each round measures all variants one after the other, so that a busy machine slows all of them. The median round counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from typing import Any

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.service_key import KeyLimit
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.limiter import open_key_limiter
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.key_limits import KeyLimits
from tests.worker.pipeline.fakes import provider, request

LIMIT = 10**15
BUDGETS = (
    Budget(id="all", name="all", limit=LIMIT, overdraft=LIMIT),
    Budget(id="users", name="users", limit=LIMIT, overdraft=LIMIT, per="user_id"),
    Budget(id="services", name="services", limit=LIMIT, hold="bound", match={"service": "ch*"}),
    Budget(id="models", name="models", limit=LIMIT, unit="requests", match={"model": "m1"}),
)
BOUND, USED = Usage(input_tokens=18, output_tokens=100), Usage(input_tokens=18, output_tokens=30)
"""What an attempt can use, and what it used: after 20 answers less is held than the bound, and the gap is, too."""
KEY_LIMITS = (KeyLimit("key", rpm=10**9, tpm=10**12),)
Step = Callable[[], Coroutine[Any, Any, None]]


def _steps(memory: HostMemory, *, is_shared: bool) -> dict[str, Step]:
    """Return what a request does in each variant."""
    budgets = Budgets(BudgetAccounts(memory, "one", lambda: 0), log=lambda *_, **__: None)
    budgets.change(BudgetTable(BUDGETS))
    if is_shared:
        BudgetAccounts(memory, "two", lambda: 0)
    limits = KeyLimits(open_key_limiter(memory, 1) if is_shared else open_key_limiter())
    asked, candidate = request(id="1"), Candidate.of(provider(), "m1")
    attempt = AttemptRecord(
        id="1", provider_id="p", provider="alpha", kind="openai", model="m1", price=candidate.price,
        started_ms=time.time_ns() // 1_000_000, cost_nanos=336_000,
    )  # fmt: skip
    alone, other = copy(attempt), request(id="1", user_id="v")
    labels: dict[str, Any] = {
        "key_name": asked.key_name,
        "user_id": "u",
        "service": "s",
        "task_type": "t",
        "surface": "generate",
    }
    record = UsageRecord(id="1", at_ms=0, instance="i", outcome="ok", attempts=[attempt], **labels)

    async def nothing() -> None:
        pass

    async def budgets_only() -> None:
        budgets.hold(asked, candidate, attempt, record)
        budgets.charge(record)

    async def seldom() -> None:
        alone.started_ms += 1_000  # nothing is held ahead
        budgets.hold(other, candidate, alone, record)
        budgets.charge(record)

    async def learnt() -> None:
        attempt.usage, attempt.cost_nanos = BOUND, 336_000
        budgets.hold(asked, candidate, attempt, record)
        attempt.usage, attempt.cost_nanos = USED, 126_000
        budgets.charge(record)

    async def headers() -> None:
        budgets.headers(matched)

    async def key_only() -> None:
        limits.admit(asked, KEY_LIMITS)
        limits.release(record)

    async def together() -> None:
        limits.admit(asked, KEY_LIMITS)
        attempt.usage, attempt.cost_nanos = BOUND, 336_000
        budgets.hold(asked, candidate, attempt, record)
        attempt.usage, attempt.cost_nanos = USED, 126_000
        limits.release(record)
        budgets.charge(record)

    budgets.hold(asked, candidate, attempt, record)
    matched = budgets.accounts_of(record)
    budgets.charge(record)
    return {
        "nothing": nothing,
        "four budgets": budgets_only,
        "four budgets, outputs learnt": learnt,
        "four budgets, a request a second": seldom,
        "the headers of an answer": headers,
        "a key's limits": key_only,
        "four budgets and a key's limits": together,
    }


async def _cpu_ns(step: Step, count: int) -> float:
    started = time.thread_time_ns()
    for _ in range(count):
        await step()
    return (time.thread_time_ns() - started) / count


async def _measure(rounds: int, count: int) -> None:
    for is_shared in (False, True):
        descriptor = create()
        steps = _steps(HostMemory(descriptor), is_shared=is_shared)
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                found[name].append(await _cpu_ns(step, count))
        base = statistics.median(found["nothing"])
        for name in list(steps)[1:]:
            own = statistics.median(found[name]) - base
            least = min(found[name]) - base
            print(
                f"{'several workers' if is_shared else 'one worker'}, {name}: {own / 1000:.2f} µs a request "
                f"(least {least / 1000:.2f})"
            )
        os.close(descriptor)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks budgets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds, whose median counts (default: 21)")
    parser.add_argument("--requests", type=int, default=2000, help="requests of a round (default: 2000)")
    given = parser.parse_args(arguments)
    asyncio.run(_measure(given.rounds, given.requests))
    return 0
