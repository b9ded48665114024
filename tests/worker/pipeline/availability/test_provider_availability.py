"""Availability of providers: scope of breakers, gates and pauses, logged changes, calls in flight, and retries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability, Wait
from llm_gateway.worker.pipeline.availability.host_states import HostStates
from tests.worker.pipeline.breaking import Chance, Clock, admitted, opened, state
from tests.worker.pipeline.fakes import provider


def test_breakers_are_per_provider_and_model(availability: ProviderAvailability) -> None:
    opened(availability.breaker("a", "m"))
    assert state(availability.breaker("a", "m")) == "open"
    assert state(availability.breaker("a", "n")) == "closed"
    assert state(availability.breaker("b", "m")) == "closed"
    assert availability.breaker("a", "m") is availability.breaker("a", "m")
    assert availability.states() == {("a", "m"): "open", ("a", "n"): "closed", ("b", "m"): "closed"}


def test_breakers_use_the_injected_clock_and_random_numbers(
    availability: ProviderAvailability, clock: Clock, luck: Chance
) -> None:
    luck.value = 1.0
    breaker = opened(availability.breaker("a", "m"))
    assert breaker.retry_after_s() == pytest.approx(36.0, abs=1e-9)
    clock.now += 36
    assert availability.states() == {("a", "m"): "half_open"}


def test_calls_in_flight_are_counted(availability: ProviderAvailability) -> None:
    assert availability.in_flight("p") == 0
    for _ in range(3):
        availability.begin("p")
    availability.begin("q")
    assert (availability.in_flight("p"), availability.in_flight("q")) == (3, 1)
    availability.end("p")
    assert availability.in_flight("p") == 2
    availability.end("p")
    assert availability.in_flight("p") == 1
    availability.end("p")
    assert availability.in_flight("p") == 0
    availability.end("p")
    availability.end("unknown")
    assert (availability.in_flight("p"), availability.in_flight("q")) == (0, 1)
    availability.begin("p")
    assert availability.in_flight("p") == 1


def test_three_retries_are_allowed_without_other_calls(availability: ProviderAvailability) -> None:
    assert [availability.may_retry("p") for _ in range(5)] == [True, True, True, False, False]
    assert availability.may_retry("q") is True


@pytest.mark.parametrize(("begun", "retries"), [(0, 3), (7, 3), (8, 4), (9, 4), (10, 5), (100, 50)])
def test_further_retries_are_limited_to_half_of_the_calls(
    availability: ProviderAvailability, begun: int, retries: int
) -> None:
    for _ in range(begun):
        availability.begin("p")
    granted = 0
    while availability.may_retry("p"):
        availability.begin("p")
        granted += 1
    assert granted == retries


def retries(availability: ProviderAvailability, tries: int) -> list[bool]:
    granted = []
    for _ in range(tries):
        granted.append(availability.may_retry("p"))
        if granted[-1]:
            availability.begin("p")
    return granted


def test_retries_and_calls_are_forgotten_after_10_seconds(availability: ProviderAvailability, clock: Clock) -> None:
    for _ in range(8):
        availability.begin("p")
    assert retries(availability, 2) == [True, True]
    clock.now = 1009.999
    assert retries(availability, 3) == [True, True, False]
    clock.now = 1010.0
    assert retries(availability, 2) == [True, False]
    clock.now = 1018.999
    assert retries(availability, 1) == [False]
    clock.now = 1019.0
    assert retries(availability, 3) == [True, True, False]


M = Candidate.of(provider("p"), "m1")
OTHER_MODEL = Candidate.of(provider("p"), "m2")
OTHER = Candidate.of(provider("q"), "m1")


class Changes:
    """A log of changes, as (event, provider, model, reason, seconds)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str, str, float | None]] = []

    def __call__(
        self, event: str, *, level: str, provider: str, model: str, reason: str, seconds: float | None = None
    ) -> None:
        assert level == "warning"
        self.lines.append((event, provider, model, reason, seconds))

    def take(self) -> list[tuple[str, str, str, str, float | None]]:
        """Return the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def logged_availability(
    clock: Clock, luck: Chance, changes: Changes, states: HostStates | None
) -> ProviderAvailability:
    """Return an availability whose changes are logged in `changes`."""
    return ProviderAvailability(clock, luck, log=changes, states=states)


def leave(availability: ProviderAvailability, candidate: Candidate = M) -> Permit:
    permit = availability.admit(candidate)
    assert not isinstance(permit, Wait), permit
    return permit


def refuse(availability: ProviderAvailability, *requests: str, candidate: Candidate = M) -> None:
    for name in requests:
        leave(availability, candidate).refused(name, hash(name), "no key")


def limit(availability: ProviderAvailability, times: int, candidate: Candidate = M) -> None:
    for _ in range(times):
        leave(availability, candidate).limited(7.0, "slow")


def fail(availability: ProviderAvailability, times: int, candidate: Candidate = M) -> None:
    for _ in range(times):
        leave(availability, candidate).fail("down")


def serve(availability: ProviderAvailability, candidate: Candidate = M) -> None:
    permit = leave(availability, candidate)
    permit.accepted()
    permit.succeed()


class TestScope:
    def test_an_account_pause_holds_back_all_its_models_and_no_other_account(
        self, availability: ProviderAvailability
    ) -> None:
        refuse(availability, "1", "2")
        assert availability.admit(M) == availability.admit(OTHER_MODEL) == Wait(15.0, limited=False)
        leave(availability, OTHER)

    def test_a_gate_closes_for_one_model_only(self, availability: ProviderAvailability) -> None:
        limit(availability, 5)
        assert availability.admit(M) == Wait(7.0, limited=True, by_model=True)
        leave(availability, OTHER_MODEL)
        leave(availability, OTHER)

    def test_a_breaker_opens_for_one_model_only(self, availability: ProviderAvailability) -> None:
        fail(availability, 5)
        assert availability.admit(M) == Wait(30.0, limited=False)
        leave(availability, OTHER_MODEL)

    def test_an_open_breaker_does_not_use_up_the_accounts_probe(
        self, availability: ProviderAvailability, clock: Clock
    ) -> None:
        fail(availability, 5)
        refuse(availability, "1", "2", candidate=OTHER_MODEL)
        clock.now += 15
        assert availability.admit(M) == Wait(15.0, limited=False)
        serve(availability, OTHER_MODEL)

    @pytest.mark.parametrize(
        "end", [lambda probe: probe.release(), lambda probe: probe.fail("x"), lambda probe: probe.limited(None, "x")]
    )
    def test_a_probe_that_is_inconclusive_about_the_account_lets_the_next_call_probe(
        self, availability: ProviderAvailability, clock: Clock, end: Callable[[Permit], object]
    ) -> None:
        refuse(availability, "1", "2")
        clock.now += 15
        probe = leave(availability)
        assert availability.admit(M) == Wait(1.0, limited=False)
        end(probe)
        serve(availability)
        leave(availability)
        leave(availability)

    def test_a_permit_given_before_a_pause_does_not_hold(self, availability: ProviderAvailability) -> None:
        early = leave(availability)
        assert early.holds()
        refuse(availability, "1", "2")
        assert not early.holds()


def test_half_of_the_calls_of_10_seconds_close_a_gate(
    logged_availability: ProviderAvailability, changes: Changes
) -> None:
    for _ in range(6):
        serve(logged_availability)
    limit(logged_availability, 4)
    serve(logged_availability)
    limit(logged_availability, 2)
    assert changes.take() == []
    limit(logged_availability, 1)
    assert [reason for *_, reason, _ in changes.take()] == ["7 of 14 calls in 10 s answered 429: slow"]


class TestLoggedChanges:
    """Each change of state is logged in one line, with provider, model and reason; other reports are not logged."""

    def test_a_breaker_logs_each_opening_and_closing(
        self, logged_availability: ProviderAvailability, changes: Changes, clock: Clock
    ) -> None:
        late = [leave(logged_availability) for _ in range(3)]
        fail(logged_availability, 4)
        assert changes.take() == []
        fail(logged_availability, 1)
        opened = ("circuit breaker opened", "p", "m1")
        assert changes.take() == [(*opened, "5 failures in a row: down", 30.0)]
        for permit in late:
            permit.fail("late")
        assert isinstance(logged_availability.admit(M), Wait)
        clock.now += 30
        fail(logged_availability, 1)
        assert changes.take() == [(*opened, "its trial call failed: down", 60.0)]
        clock.now += 60
        leave(logged_availability).release()
        assert changes.take() == []
        serve(logged_availability)
        assert changes.take() == [("circuit breaker closed", "p", "m1", "its trial call was answered", None)]
        serve(logged_availability)
        assert changes.take() == []

    def test_a_breaker_opened_by_rate_logs_the_counts(
        self, logged_availability: ProviderAvailability, changes: Changes
    ) -> None:
        for _ in range(10):
            fail(logged_availability, 1)
            serve(logged_availability)
        assert changes.take() == [("circuit breaker opened", "p", "m1", "10 of 20 calls in 10 s failed", 30.0)]

    def test_an_account_logs_the_begin_and_the_end_of_its_pause(
        self, logged_availability: ProviderAvailability, changes: Changes, clock: Clock
    ) -> None:
        late = leave(logged_availability)
        refuse(logged_availability, "1")
        assert changes.take() == []
        refuse(logged_availability, "2")
        began = ("provider account paused", "p", "m1")
        assert changes.take() == [(*began, "2 refusals in a row: no key", 15.0)]
        late.refused("3", 3, "late")
        clock.now += 15
        refuse(logged_availability, "4", candidate=OTHER_MODEL)
        assert changes.take() == [(*began[:2], "m2", "its trial call was refused: no key", 30.0)]
        clock.now += 30
        serve(logged_availability)
        serve(logged_availability)
        assert changes.take() == [("provider account pause ended", "p", "m1", "its trial call was accepted", None)]

    def test_a_gate_logs_when_it_closes_and_opens(
        self, logged_availability: ProviderAvailability, changes: Changes, clock: Clock
    ) -> None:
        late = [leave(logged_availability) for _ in range(3)]
        limit(logged_availability, 4)
        assert changes.take() == []
        limit(logged_availability, 1)
        assert changes.take() == [("rate limit gate closed", "p", "m1", "5 answers 429 in a row: slow", 7.0)]
        for permit in late:
            permit.limited(None, "late")
        assert isinstance(logged_availability.admit(M), Wait)
        clock.now += 7
        assert changes.take() == []
        serve(logged_availability)
        clock.now += 1
        serve(logged_availability)
        assert changes.take() == [("rate limit gate opened", "p", "m1", "its wait is over", None)]

    def test_a_passing_provider_test_ends_the_pause_and_resets_the_count(
        self, logged_availability: ProviderAvailability, changes: Changes
    ) -> None:
        refuse(logged_availability, "1")
        logged_availability.lift("id-p", "its test passed")
        refuse(logged_availability, "2")
        assert changes.take() == []
        refuse(logged_availability, "3")
        changes.take()
        logged_availability.lift("id-p", "its test passed")
        logged_availability.lift("id-p", "its test passed")
        logged_availability.lift("unknown", "its test passed")
        assert changes.take() == [("provider account pause ended", "p", "m1", "its test passed", None)]
        refuse(logged_availability, "4")
        serve(logged_availability)
        assert changes.take() == []

    def test_a_changed_configuration_is_logged_and_late_reports_are_not(
        self, logged_availability: ProviderAvailability, changes: Changes
    ) -> None:
        late = [leave(logged_availability) for _ in range(12)]
        limit(logged_availability, 5, OTHER_MODEL)
        fail(logged_availability, 5)
        changes.take()
        logged_availability.reset("id-p")
        logged_availability.reset("id-p")
        assert sorted(changes.take()) == [
            ("circuit breaker closed", "p", "m1", "its configuration changed", None),
            ("rate limit gate opened", "p", "m2", "its configuration changed", None),
        ]
        logged_availability.lift("id-p", "its configuration changed")
        for number, permit in enumerate(late):
            if number % 2:
                permit.fail("late")
            else:
                permit.refused(str(number), number, "late")
        assert changes.take() == []
        serve(logged_availability)

    def test_changes_of_a_deleted_provider_are_not_logged(
        self, logged_availability: ProviderAvailability, changes: Changes
    ) -> None:
        late = [leave(logged_availability) for _ in range(12)]
        logged_availability.forget("id-p")
        for permit in late[:6]:
            permit.fail("late")
        for number, permit in enumerate(late[6:]):
            permit.refused(str(number), number, "late")
        assert changes.take() == []
        assert logged_availability.states() == {}


def test_reset_closes_breakers_but_keeps_calls_in_flight_the_pause_and_the_retries(
    availability: ProviderAvailability,
) -> None:
    old = availability.breaker("id-p", "m1")
    permit = admitted(old)
    refuse(availability, "1", "2")
    opened(old)
    opened(availability.breaker("id-q", "m1"))
    availability.begin("id-p")
    for _ in range(3):
        availability.may_retry("id-p")
    availability.reset("id-p")
    availability.reset("unknown")
    assert availability.states() == {("id-q", "m1"): "open"}
    assert availability.admit(M) == Wait(15.0, limited=False)
    assert availability.in_flight("id-p") == 1
    assert availability.may_retry("id-p") is False
    old.fail(permit)
    assert state(availability.breaker("id-p", "m1")) == "closed"


def test_forgetting_a_provider_drops_its_state(availability: ProviderAvailability) -> None:
    for candidate in (M, OTHER):
        refuse(availability, "1", "2", candidate=candidate)
        provider_id = candidate.provider.id
        availability.begin(provider_id)
        for _ in range(3):
            availability.may_retry(provider_id)
    availability.forget("id-p")
    availability.forget("unknown")
    assert availability.states() == {("id-q", "m1"): "closed"}
    assert (availability.in_flight("id-p"), availability.in_flight("id-q")) == (0, 1)
    assert (availability.may_retry("id-p"), availability.may_retry("id-q")) == (True, False)
    leave(availability, M)
    assert availability.admit(OTHER) == Wait(15.0, limited=False)
