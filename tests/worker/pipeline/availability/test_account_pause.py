"""Pause of a provider's account after refusals, with a clock that tests set."""

from __future__ import annotations

import pytest

from llm_gateway.worker.pipeline.availability.account_pause import AccountPause
from tests.worker.pipeline.breaking import Clock


@pytest.fixture
def account(clock: Clock) -> AccountPause:
    return AccountPause(clock)


def leave(account: AccountPause) -> int:
    permit = account.admit()
    assert permit is not None
    return permit


def refused(account: AccountPause, request: str, content: int | None = None) -> float | None:
    return account.refused(leave(account), request, hash(request) if content is None else content)


def paused(account: AccountPause) -> AccountPause:
    assert (refused(account, "one"), refused(account, "two")) == (None, 15.0)
    return account


class TestAccountPause:
    def test_one_refusal_does_not_pause_the_account(self, account: AccountPause) -> None:
        assert refused(account, "one") is None
        assert (account.is_paused, account.retry_after_s(), leave(account)) == (False, 0.0, 1)

    def test_two_refusals_of_different_requests_in_a_row_begin_a_pause(
        self, account: AccountPause, clock: Clock
    ) -> None:
        paused(account)
        assert (account.is_paused, account.admit(), account.retry_after_s()) == (True, None, 15.0)
        clock.now += 14.75
        assert (account.admit(), account.retry_after_s()) == (None, 0.25)

    def test_a_success_in_between_resets_the_count_of_refusals(self, account: AccountPause) -> None:
        assert refused(account, "one") is None
        assert account.accepted(leave(account)) is False
        assert refused(account, "two") is None
        assert refused(account, "three") == 15.0

    def test_a_released_call_does_not_reset_the_count_of_refusals(self, account: AccountPause) -> None:
        assert refused(account, "one") is None
        account.release(leave(account))
        assert refused(account, "two") == 15.0

    @pytest.mark.parametrize(("request_id", "content"), [("one", 2), ("another", 1)], ids=["request", "content"])
    def test_refusals_of_the_same_request_count_once(
        self, account: AccountPause, request_id: str, content: int
    ) -> None:
        assert refused(account, "one", 1) is None
        for _ in range(10):
            assert refused(account, request_id, content) is None
        assert refused(account, "two", 2) == 15.0

    def test_after_a_pause_one_call_probes_and_the_others_wait(self, account: AccountPause, clock: Clock) -> None:
        paused(account)
        clock.now += 15
        leave(account)
        assert (account.admit(), account.retry_after_s()) == (None, 1.0)

    def test_each_refused_probe_doubles_the_pause_up_to_5_minutes(self, account: AccountPause, clock: Clock) -> None:
        paused(account)
        lengths, wait = [], 15.0
        for _ in range(6):
            clock.now += wait
            seconds = refused(account, "same", 1)
            assert seconds is not None
            wait = seconds
            lengths.append(seconds)
            assert account.admit() is None
        assert lengths == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]

    def test_an_accepted_probe_ends_the_pause_and_resets_its_length(self, account: AccountPause, clock: Clock) -> None:
        paused(account)
        clock.now += 15
        assert refused(account, "probe") == 30.0
        clock.now += 30
        assert account.accepted(leave(account)) is True
        assert (account.is_paused, account.retry_after_s()) == (False, 0.0)
        paused(account)

    def test_an_inconclusive_probe_lets_the_next_call_probe(self, account: AccountPause, clock: Clock) -> None:
        paused(account)
        clock.now += 15
        account.release(leave(account))
        assert account.is_paused
        assert account.accepted(leave(account)) is True

    def test_reports_from_before_the_pause_change_nothing(self, account: AccountPause, clock: Clock) -> None:
        early = [leave(account) for _ in range(4)]
        paused(account)
        assert account.refused(early[0], "late", 9) is None
        assert account.accepted(early[1]) is False
        account.release(early[2])
        assert (account.is_paused, account.retry_after_s()) == (True, 15.0)
        clock.now += 15
        probe = leave(account)
        assert account.accepted(early[3]) is False
        assert (account.holds(early[3]), account.holds(probe), account.admit()) == (False, True, None)
