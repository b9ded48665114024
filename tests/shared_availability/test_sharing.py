"""Availability that two workers share: what one learns holds for the other, and for those that replace them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.host_memory import create
from llm_gateway.worker.pipeline.availability import Permit, Wait
from tests.shared_availability.workers import Host, Line, M, fail, leave, serve
from tests.worker.pipeline.breaking import Clock
from tests.worker.pipeline.fakes import provider

OTHER = Candidate.of(provider("q"), "m2")


@pytest.fixture
def host() -> Iterator[Host]:
    opened = create()
    yield Host(opened, Clock())
    os.close(opened)


def test_a_breaker_that_one_worker_opens_spares_the_others_the_calls_and_is_logged_once(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    serve(two)
    early = leave(two)
    fail(one)
    assert two.admit(M) == Wait(30.0, limited=False)
    assert not early.holds()
    early.fail("late")
    assert host.lines == [Line(1, "circuit breaker opened", "p", "m1")]
    serve(two, OTHER)
    assert host.worker(3).states() == one.states() == {("id-p", "m1"): "open"}


def test_failures_in_a_row_are_those_of_all_workers_and_a_success_of_any_resets_them(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    fail(one, 2)
    fail(two, 2)
    serve(one)
    fail(two, 4)
    leave(two)
    fail(one, 1)
    assert isinstance(two.admit(M), Wait)


def test_a_half_open_breaker_admits_one_probe_on_the_host_whose_success_closes_it_for_all(host: Host) -> None:
    one, two, three = (host.worker(number) for number in (1, 2, 3))
    fail(one)
    host.clock.now += 30
    probe = leave(two)
    assert one.admit(M) == three.admit(M) == two.admit(M) == Wait(1.0, limited=False)
    probe.succeed()
    assert [line.worker for line in host.lines] == [1, 2]
    for worker in (one, two, three):
        leave(worker)
        leave(worker)


def test_a_probe_whose_worker_died_is_made_by_another_and_one_whose_worker_drains_is_not(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    fail(two)
    host.clock.now += 30
    leave(one)
    assert two.admit(M) == Wait(1.0, limited=False)
    host.dies(1)
    probe = leave(two)
    assert host.worker(1).admit(M) == Wait(1.0, limited=False), "the worker that replaces it knows of the probe"
    probe.fail("down")
    assert two.admit(M) == Wait(60.0, limited=False)


def test_the_accounts_probe_of_a_dead_worker_is_made_by_another(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    leave(one).refused("1", 1, "no key")
    leave(two).refused("1", 1, "no key")
    leave(two).refused("2", 2, "no key")
    assert one.admit(M) == Wait(15.0, limited=False), "two refusals in a row, of different workers"
    host.clock.now += 15
    leave(one)
    assert two.admit(M) == Wait(1.0, limited=False)
    host.dies(1)
    serve(two)
    assert [line.event for line in host.lines] == ["provider account paused", "provider account pause ended"]


def test_a_pause_of_a_model_is_seen_by_all(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    leave(one).model_refused("no such model")
    assert two.admit(M) == Wait(300.0, limited=False)
    host.clock.now += 300
    leave(two)
    leave(one)
    assert [line.event for line in host.lines] == ["provider model paused", "provider model pause ended"]


def test_a_gate_paces_the_calls_of_all_workers_together(host: Host) -> None:
    workers = [host.worker(number) for number in (1, 2, 3)]
    for _ in range(2):
        for worker in workers[:2]:
            leave(worker).limited(4.0, "slow")
    leave(workers[0]).limited(4.0, "slow")
    assert [worker.admit(M) for worker in workers] == [Wait(4.0, limited=True, by_model=True)] * 3
    assert workers[2].gate_wait_s(M, 1) == 4.0
    assert workers[2].is_gated(M)
    host.clock.now += 4
    admitted = [worker.admit(M) for worker in workers]
    assert [isinstance(one, Permit) for one in admitted] == [True, False, False], "one call a second on the host"
    host.clock.now += 1
    assert [isinstance(worker.admit(M), Permit) for worker in workers] == [True, False, False]
    assert [line.event for line in host.lines] == ["rate limit gate closed", "rate limit gate opened"]


def test_workers_that_replace_others_take_over_what_they_knew(host: Host) -> None:
    fail(host.worker(1))
    host.dies(1)
    new = host.worker(2)
    assert new.admit(M) == Wait(30.0, limited=False)
    assert new.states() == {("id-p", "m1"): "open"}


def test_a_changed_provider_is_reset_once_so_that_what_is_learned_after_it_stays(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    fail(one)
    for worker, request in ((one, 1), (two, 2)):
        leave(worker, Candidate.of(provider("p"), "m2")).refused(str(request), request, "no key")
    host.lines.clear()
    one.reset("id-p", 7)
    one.lift("id-p", "its configuration changed", 7)
    one.lift("id-p", "its test passed")  # of no change: the change is still known
    fail(one)
    two.reset("id-p", 7)
    two.lift("id-p", "its configuration changed", 7)
    assert one.admit(M) == two.admit(M) == Wait(30.0, limited=False)
    assert [line.event for line in host.lines] == [
        "circuit breaker closed", "provider account pause ended", "circuit breaker opened",
    ]  # fmt: skip
    two.reset("id-p", 8)
    leave(one)


def test_the_states_of_a_deleted_provider_are_gone_for_all(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    fail(one)
    two.forget("id-p")
    one.forget("id-p")
    leave(one)
    assert two.states() == {}


def test_more_models_than_there_are_slots_lose_the_oldest_state_only(host: Host) -> None:
    one, two = host.worker(1), host.worker(2)
    for number in range(2_200):
        leave(one, Candidate.of(provider("many"), f"m{number}")).fail("down")
        host.clock.now += 0.001
    fail(one)
    assert isinstance(two.admit(M), Wait)
    assert len(host.worker(3).states()) <= 2_048
