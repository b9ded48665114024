"""Periodic jobs of budgets: add older requests to new ones, and what repricing has changed to the host's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
    is_failing = False
    while True:
        try:
            while is_leader() and await asyncio.to_thread(_step, backfill, log):
                pass
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                log("older usage cannot be added to budgets", level="error", exc_info=error)
            is_failing = True
        await asyncio.sleep(every_s)


async def count_corrections_forever(
    correct: Callable[[], int], log: Callable[..., None], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Call `correct`, which returns in how many accounts there was something. Runs until cancelled."""
    is_failing = False
    while True:
        try:
            while await asyncio.to_thread(correct):
                pass
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                log("new prices cannot be brought into budgets", level="error", exc_info=error)
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
