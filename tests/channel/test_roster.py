"""Workers that control knows, by a clock of the test's own."""

from __future__ import annotations

from llm_gateway.channel.messages import ALIVE_S, Hello
from llm_gateway.channel.roster import Roster


def test_the_end_of_an_earlier_connection_leaves_a_worker_connected() -> None:
    roster = Roster(lambda: 0.0)
    first, second = (roster.enter(Hello(number=1, pid=2)) for _ in range(2))
    roster.leave(first, is_over=False)
    assert [worker.is_connected for worker in roster.known()] == [True]
    roster.leave(second, is_over=False)
    assert [worker.is_connected for worker in roster.known()] == [False]


def test_a_worker_that_is_gone_is_forgotten_a_second_after_its_last_beat() -> None:
    now = [0.0]
    roster = Roster(lambda: now[0])
    worker = roster.enter(Hello(number=1, pid=2))
    now[0] = 5.0
    roster.beat(worker.key)
    roster.leave(worker, is_over=False)
    now[0] = 5.99
    assert len(roster.known()) == 1
    now[0] = 6.0
    assert roster.known() == []
    roster.applied(worker.key, 1)
    assert roster.known() == []


def test_two_processes_with_the_same_number_are_two_workers() -> None:
    roster = Roster(lambda: 0.0)
    old, new = roster.enter(Hello(number=1, pid=2)), roster.enter(Hello(number=1, pid=3))
    roster.applied(new.key, 4)
    assert roster.wait_applied(4, 0.0) == [old.name]


def test_after_a_start_workers_are_waited_for_that_have_not_connected_yet() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.4
        return now

    roster = Roster(clock)
    roster.expect(1)
    expected_until = now + ALIVE_S
    assert roster.wait_applied(1, 30.0) == []
    assert now >= expected_until


def test_nobody_is_waited_for_once_the_workers_of_the_host_have_connected() -> None:
    roster = Roster(lambda: 0.0)  # the time to wait never ends
    roster.expect(1)
    roster.applied(roster.enter(Hello(number=1, pid=2)).key, 1)
    assert roster.wait_applied(1, 30.0) == []
