"""Periodic jobs of budgets: add older requests to new ones, and what repricing has changed to the host's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from llm_gateway.control.maintenance import always
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.budget_backfill import BudgetBackfill

LOOK_EVERY_S = 1.0
"""Seconds between two looks for new budgets."""


async def count_older_usage_forever(
    backfill: BudgetBackfill,
    log: Callable[..., None],
    is_leader: Callable[[], bool] = always,
    *,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Add older requests to budgets that are new, or that count something else now. Runs until cancelled.

    `is_leader` tells whether this host does it.
    """

    async def step() -> bool:
        return is_leader() and await asyncio.to_thread(_step, backfill, log)

    await _repeat(step, partial(log, "older usage cannot be added to budgets"), every_s)


async def count_corrections_forever(
    correct: Callable[[], int], log: Callable[..., None], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Call `correct`, which returns in how many accounts there was something. Runs until cancelled."""
    failed = partial(log, "new prices cannot be brought into budgets")
    await _repeat(partial(asyncio.to_thread, correct), failed, every_s)


async def _repeat(step: Callable[[], Awaitable[object]], failed: Callable[..., None], every_s: float) -> None:
    """Call `step` until it returns nothing more, again every `every_s` seconds; call `failed` once for failures."""
    is_failing = False
    while True:
        try:
            while await step():
                pass
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                failed(level="error", exc_info=error)
            is_failing = True
        await asyncio.sleep(every_s)


def _step(backfill: BudgetBackfill, log: Callable[..., None]) -> bool:
    found = backfill.step()
    if found is None:
        return False
    name = found.budget.budget.name
    if not found.is_complete:
        log("older usage is not added to a budget: it has too many accounts", level="warning", budget=name)
    elif found.charges:
        log("older usage is added to a budget", budget=name, accounts=len(found.charges))
    return True
