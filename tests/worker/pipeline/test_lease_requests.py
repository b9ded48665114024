"""Requests whose host may use too little of a budget: they wait for more, and are refused if there is none."""

from __future__ import annotations

import asyncio

import pytest

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.lease_answer import LeaseAnswer
from llm_gateway.errors import BudgetExceeded, BudgetReserved, BudgetUnavailable
from llm_gateway.host_memory import HostMemory
from llm_gateway.host_memory.budget_slots import GENERATION, BudgetSlots
from llm_gateway.host_memory.lease_layout import GRANTED, HOSTS, LEASING, lease_of
from llm_gateway.host_memory.slots import key_of
from llm_gateway.worker.pipeline.lease_requests import BELIEVED_S, LeaseRequests
from tests.worker.pipeline.fakes import answer
from tests.worker.pipeline.test_budgets import BOUND, Scene, budget, memory

__all__ = ["memory"]


class Control:
    """Control, which grants what it has `left` in a memory, and else gives the other `answers`, the last one always."""

    def __init__(self, memory: HostMemory, left: int, *answers: LeaseAnswer) -> None:
        self._words = memory.words
        self._slots = BudgetSlots(memory.words)
        self.left = left
        self.answers = list(answers)
        self.asked: list[tuple[AccountRef, int]] = []
        self.now = 0.0
        self._words[HOSTS], self._words[LEASING] = 2, 1
        self._words[GENERATION] += 1

    async def __call__(self, ref: AccountRef, need: int) -> LeaseAnswer:
        self.asked.append((ref, need))
        await asyncio.sleep(0)
        if need > self.left:
            return self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        name = BudgetTable([budget()]).rules[0].account_name(ref)
        at = self._slots.find(key_of(name))
        assert at is not None
        self._words[lease_of(at) + GRANTED] += need
        self.left -= need
        return LeaseAnswer("granted")


def scene_of(memory: HostMemory, control: Control) -> Scene:
    scene = Scene(memory, budget(), leases=LeaseRequests(control, lambda: control.now, lambda *_: 3.0))
    return scene.script(*[answer()] * 9)


async def test_a_request_waits_for_more_and_is_refused_as_control_says(memory: HostMemory) -> None:
    used_up = LeaseAnswer("dry", limit=10 * BOUND, spent=10 * BOUND - 1, held=0)
    held = LeaseAnswer("dry", limit=10 * BOUND, spent=BOUND, held=9 * BOUND)
    control = Control(memory, 2 * BOUND, used_up)
    scene = scene_of(memory, control)
    await asyncio.gather(scene.ask(1), scene.ask(2))
    assert [need for _, need in control.asked] == [BOUND] * 2
    await scene.ask(3)  # what the first two have left is enough for it
    with pytest.raises(BudgetExceeded, match=r"core monthly' has too little left") as error:
        await scene.ask(4)
    assert error.value.budget is not None
    assert error.value.budget.spent == 10 * BOUND - 1
    asked = len(control.asked)
    with pytest.raises(BudgetExceeded):
        await scene.ask(6)
    assert len(control.asked) == asked, "that is known from a moment ago"
    control.now += BELIEVED_S
    control.answers = [held]
    with pytest.raises(BudgetReserved) as reserved:
        await scene.ask(7)
    assert reserved.value.retry_after_s == 3.0
    assert {record.outcome for record in scene.world.observed} == {"ok", "refused_budget"}


async def test_without_an_answer_of_the_database_a_hard_budget_says_when_to_try_again(memory: HostMemory) -> None:
    control = Control(memory, 0, LeaseAnswer("unavailable", text="the database does not answer"))
    scene = scene_of(memory, control)
    with pytest.raises(
        BudgetUnavailable, match="'core monthly' has no room on this host at the moment, and the"
    ) as error:
        await scene.ask(1)
    assert (error.value.status, error.value.retry_after_s, error.value.retryable) == (503, 1.0, True)
    assert scene.world.observed[0].outcome == "refused_budget"
    control.left = BOUND
    control.now += BELIEVED_S
    await scene.ask(2)


async def test_only_a_hard_budget_needs_a_lease(memory: HostMemory) -> None:
    control = Control(memory, 0)
    scene = Scene(memory, budget(mode="soft"), leases=LeaseRequests(control)).script(answer())
    await scene.ask(1)
    assert control.asked == []
