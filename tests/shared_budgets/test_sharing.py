"""Parts of leases around the ledger: workers' questions, control's job, and the start and end of a host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.hosts import Hosts
from llm_gateway.control.lease_batches import LeaseBatches
from llm_gateway.control.lease_exchange import BudgetLeases, follow_leases_forever
from llm_gateway.control.lease_lifecycle import BudgetSharing
from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.lease_answer import LeaseAnswer
from llm_gateway.errors import StoreUnavailable
from llm_gateway.forwarding.lease_questions import AWAY, LeaseQuestions, answering_leases
from llm_gateway.host_memory.account_group import NO_LIMIT, AccountGroup, AccountPlace, Full
from llm_gateway.store.hosts import SecretNames
from tests.databases import PostgresDatabases
from tests.shared_budgets.databases import without_postgres
from tests.shared_budgets.hosts import Host, hosts

REF = AccountRef("b", "ü\n", 0)


@pytest.fixture
def host(postgres: PostgresDatabases) -> Iterator[tuple[str, Host]]:
    with postgres.migrated() as url, hosts(url, "a") as [one]:
        yield url, one


async def test_questions_about_one_account_go_to_the_ledger_together() -> None:
    asked: list[tuple[AccountRef, int, int]] = []
    may_answer = threading.Event()

    def fetch(ref: AccountRef, least: int, most: int) -> LeaseAnswer:
        asked.append((ref, least, most))
        may_answer.wait(5)
        return LeaseAnswer("granted" if len(asked) < 3 else "dry", 7, 5, 2)

    batches = LeaseBatches(fetch)
    questions = LeaseQuestions(answering_leases(nowhere, batches.ask))
    first = asyncio.create_task(questions(REF, 3))
    while not asked:  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0.001)
    later = [asyncio.create_task(questions(REF, need)) for need in (9, 2, 4)]
    await asyncio.sleep(0.01)
    may_answer.set()
    assert [await each for each in (first, *later)] == [LeaseAnswer("granted", 7, 5, 2)] * 4
    assert asked == [(REF, 3, 3), (REF, 2, 15)]
    assert (await questions(REF, 1)).state == "dry"
    batches.close()


async def nowhere(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_a_question_that_is_not_answered_in_time_says_so() -> None:
    async def never(_ref: AccountRef, _need: int) -> LeaseAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    assert await LeaseQuestions(answering_leases(nowhere, never), wait_s=0.01)(REF, 1) == AWAY
    assert await LeaseQuestions(nowhere)(REF, 1) == AWAY


async def test_a_failing_exchange_is_logged_once() -> None:
    class Failing(BudgetLeases):
        def __init__(self) -> None:
            self.calls = 0

        @property
        def is_alone(self) -> bool:
            return False

        def step(self) -> None:
            self.calls += 1
            raise StoreUnavailable("away") if self.calls == 1 else ValueError("a defect")

    lines: list[str] = []
    failing = Failing()
    task = asyncio.create_task(follow_leases_forever(failing, lambda event, **_: lines.append(event), every_s=0.001))
    while failing.calls < 4:  # noqa: ASYNC110 - a thread counts
        await asyncio.sleep(0.001)
    task.cancel()
    assert lines == ["leases of budgets cannot be exchanged"]


async def test_a_host_joins_at_its_start_and_leaves_at_its_end(host: tuple[str, Host], tmp_path: Path) -> None:
    url, one = host
    lines: list[str] = []

    def log(event: str, **_fields: object) -> None:
        lines.append(event)

    own = Hosts(tmp_path, log)
    sharing = BudgetSharing(one.memory, one.balances, own, log)
    sharing.claim(one.database, SecretNames())
    await sharing.join()
    assert one.ledger.hosts() == {own.id: True}
    sharing.leave(tmp_path / "journal")
    assert one.ledger.hosts() == {own.id: True}, "a worker is there"
    one.balances.clear(one.worker_name)
    with without_postgres(url):
        sharing.leave(tmp_path / "journal")
    assert lines == ["leases of budgets could not be returned"]
    sharing.leave(tmp_path / "journal")
    assert one.ledger.hosts() == {}


def test_a_host_has_its_part_of_an_overdraft_and_tells_what_others_have_spent(host: tuple[str, Host]) -> None:
    _, one = host
    place = AccountPlace("p", 2**60)
    group = AccountGroup([place], [100], [20])
    assert one.worker.hold(group, [1], [15]) is True
    accounts = one.leased_accounts
    accounts.begin(2)
    assert one.worker.hold(group, [1], [0]) == Full(0, False, 100, 0, 1, lacks=True, missing=2), "nothing is leased yet"
    assert accounts.set_granted([(place.key, 50, 2**60)])
    accounts.show(place.key, spent=30, used=0)
    half_is_taken = Full(0, False, 100, 30, 1, missing=1)
    assert one.worker.hold(group, [4], [5]) == half_is_taken, "of the overdraft"
    assert one.worker.hold(group, [49], [0]) is True
    assert (one.worker.amounts(place), one.worker.taken(place)) == ((30, 50, 0), 80)
    assert one.worker.hold(AccountGroup([place], [NO_LIMIT], [NO_LIMIT]), [90]) is True, "a soft budget"
    assert accounts.give_back([place.key]) == {}
