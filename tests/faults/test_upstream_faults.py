"""A running gateway with a vendor that is down, slow, cuts answers off or reports wrong usage."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.process import GatewayProcess, Response
from tests.faults.conftest import Note
from tests.faults.ledger import PRICES, Ledger
from tests.upstream import UpstreamProcess
from tests.upstream.forked import ForkedUpstream

FAULTS = (
    "status-500", "status-503", "status-529", "status-408", "status-409", "status-404", "status-401",
    "status-429-after-7", "status-302", "stall", "stall-body", "drip", "half", "reset", "close", "garbage", "bad-json",
    "bad-shape", "empty",
)  # fmt: skip
SLOW = ("stall", "stall-body", "drip", "slow-5000")
LYING = ("no-usage", "bad-usage")
FAILURES_TO_OPEN, COOLDOWN_S = 5, 30.0
"""Of a circuit breaker; its cooldown varies by a fifth."""
ATTEMPT_S = 0.4
DEADLINE_MS = 700
SHORT_MS = 300
SLACK_S = 0.25
"""Seconds beyond the timeout of an attempt or a request within which the answer must come."""
TIMES_QUICK, TIMES_LONG = 3, 10
"""Number of tries per fault. In the long form each must be within the slack; in the quick one, which may run on a busy
machine, one of them."""


@pytest.fixture(scope="module")
def mock() -> Iterator[UpstreamProcess]:
    with ForkedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("vendor")) as running:
        yield running


@pytest.fixture
def faulty(gateway: GatewayProcess, mock: UpstreamProcess, request: pytest.FixtureRequest) -> Iterator[str]:
    """Create a provider with the test's fault."""
    word: str = request.param
    mock.reset()
    path = gateway.provider("faulty", mock.base_url, word, priority=20, timeout_s=ATTEMPT_S, prices={word: PRICES})
    yield word
    assert gateway.call("DELETE", path).status == 204


@pytest.fixture
def healthy(gateway: GatewayProcess, mock: UpstreamProcess) -> Iterator[None]:
    path = gateway.provider("healthy", mock.base_url, "ok", priority=10, prices={"ok": PRICES})
    yield
    assert gateway.call("DELETE", path).status == 204


def in_time(ask: Callable[[], Response], bound_s: float, *, long: bool) -> tuple[list[Response], float]:
    """Send the request several times. Returns the answers, and the seconds of the slowest.

    The quick form stops at the first answer within the bound, and returns the seconds of the fastest.
    """
    responses, times = [], []
    for _ in range(TIMES_LONG if long else TIMES_QUICK):
        started = time.monotonic()
        responses.append(ask())
        times.append(time.monotonic() - started)
        if not long and times[-1] < bound_s:
            break
    seconds = max(times) if long else min(times)
    assert seconds < bound_s, times
    return responses, seconds


@pytest.mark.fault(
    "provider down, slow, cutting or lying; another is healthy",
    f"a faulty mock is asked first; an attempt has {ATTEMPT_S} s",
)
@pytest.mark.parametrize("faulty", FAULTS, indirect=True)
@pytest.mark.usefixtures("healthy")
def test_a_faulty_provider_is_replaced_by_a_healthy_one(
    gateway: GatewayProcess, mock: UpstreamProcess, faulty: str, note: Note, long: bool
) -> None:
    def ask() -> Response:
        return gateway.ask(faulty)

    responses, seconds = in_time(ask, ATTEMPT_S + SLACK_S, long=long)
    for response in responses:
        assert (response.status, response.json["provider"]) == (200, "healthy"), response.body
    calls = mock.seen().calls
    tried = [call for call in calls if call.model == faulty]
    assert tried
    assert len(calls) - len(tried) == len(responses)
    note(f"200 after {seconds:.2f} s")


@pytest.mark.fault(
    "provider down, slow, cutting or lying, and no other",
    f"the request has {DEADLINE_MS / 1000} s, an attempt {ATTEMPT_S} s",
)
@pytest.mark.parametrize("faulty", FAULTS, indirect=True)
def test_a_faulty_provider_without_another_gives_the_documented_error(
    gateway: GatewayProcess, mock: UpstreamProcess, faulty: str, note: Note, long: bool
) -> None:
    def ask() -> Response:
        timeout_s = ATTEMPT_S + next(changes) / 1000  # a change of how it is called closes its circuit breaker
        assert gateway.call("PATCH", lone, {"timeout_s": timeout_s}).status == 200
        assert gateway.call("POST", f"{lone}/test").json["success"] is True  # ends the pause of its account
        return gateway.ask(faulty, timeout_ms=DEADLINE_MS)

    changes = itertools.count(1)
    (lone,) = [f"/api/v1/providers/{provider['id']}" for provider in gateway.call("GET", "/api/v1/providers").json]
    responses, seconds = in_time(ask, DEADLINE_MS / 1000 + SLACK_S, long=long)
    expected = {429} if faulty.startswith("status-429") else {502, 504}
    for response in responses:
        assert response.status in expected, response.body
        assert response.headers["content-type"] == "application/problem+json"
    assert mock.seen().total >= len(responses)
    statuses = sorted({response.status for response in responses})
    note(f"{' or '.join(map(str, statuses))} after {seconds:.2f} s")


@pytest.mark.fault(
    "provider slower than the request's deadline", f"the request has {SHORT_MS / 1000} s, an attempt {ATTEMPT_S} s"
)
@pytest.mark.parametrize("faulty", SLOW, indirect=True)
def test_a_provider_slower_than_the_deadline_gives_504(
    gateway: GatewayProcess, mock: UpstreamProcess, faulty: str, note: Note, long: bool
) -> None:
    """The client's deadline is no failure of the provider, which is called again each time."""

    def ask() -> Response:
        return gateway.ask(faulty, timeout_ms=SHORT_MS)

    responses, seconds = in_time(ask, SHORT_MS / 1000 + SLACK_S, long=long)
    assert {(response.status, response.json["code"]) for response in responses} == {(504, "deadline_exceeded")}
    assert mock.seen().total == len(responses)
    note(f"504 after {seconds:.2f} s")


@pytest.mark.fault("provider that is down is spared", "one of two fails each time; requests one after the other")
@pytest.mark.parametrize("faulty", ["status-500", "stall", "reset"], indirect=True)
@pytest.mark.usefixtures("healthy")
def test_a_failing_provider_is_not_called_until_its_cooldown_ends(
    gateway: GatewayProcess, mock: UpstreamProcess, faulty: str, note: Note, long: bool
) -> None:
    """After the fifth failure in a row the provider gets no call until its cooldown ends, and then exactly one."""
    responses = [gateway.ask(f"{faulty} {number}") for number in range(3 * FAILURES_TO_OPEN)]
    assert {(response.status, response.json["provider"]) for response in responses} == {(200, "healthy")}
    opened = time.monotonic()
    assert calls_of(mock, faulty) == FAILURES_TO_OPEN
    if long:
        while calls_of(mock, faulty) == FAILURES_TO_OPEN:
            assert gateway.ask(faulty).status == 200
            assert time.monotonic() - opened < 1.5 * COOLDOWN_S
            time.sleep(0.1)
        cooled = time.monotonic() - opened
        assert cooled > 0.79 * COOLDOWN_S
        for number in range(FAILURES_TO_OPEN):
            assert gateway.ask(f"{faulty} again {number}").status == 200
        assert calls_of(mock, faulty) == FAILURES_TO_OPEN + 1
        note(f"{FAILURES_TO_OPEN} calls, none for {cooled:.0f} s, then one; 0 errors")
    else:
        note(f"{FAILURES_TO_OPEN} calls in {len(responses)} requests; 0 errors")


def calls_of(mock: UpstreamProcess, model: str) -> int:
    return sum(call.model == model for call in mock.seen().calls)


@pytest.mark.fault("provider that leaves out or invents its usage", "answers without counts, and with negative ones")
@pytest.mark.parametrize("faulty", LYING, indirect=True)
def test_missing_usage_is_estimated(gateway: GatewayProcess, faulty: str, note: Note) -> None:
    response = gateway.ask(f"{faulty} says nothing that can be believed of its tokens")
    assert response.status == 200, response.body
    said = response.json
    assert said["cost_status"] == "estimated"
    assert said["input_tokens"] > 0
    assert said["output_tokens"] > 0
    assert said["cost_usd"] > 0
    gateway.summary()
    row = Ledger(gateway.directory / "data").by_id[response.headers["x-request-id"]]
    assert (row.outcome, row.cost_status) == ("ok", "estimated")
    assert row.cost_nanos / 1e9 == said["cost_usd"]
    note(f"{said['input_tokens']} + {said['output_tokens']} tokens, estimated")


@pytest.mark.fault("provider where nobody listens", "a port that is closed, alone and before a healthy one")
def test_a_provider_with_a_closed_port_is_replaced_and_not_billed(
    gateway: GatewayProcess, mock: UpstreamProcess, note: Note
) -> None:
    """The request was never sent there, so nothing is billed; another provider serves it."""
    path = gateway.provider("nobody", "http://127.0.0.1:1/v1", priority=20)
    alone = gateway.ask("alone", timeout_ms=DEADLINE_MS)
    assert alone.status in (502, 504), alone.body
    other = gateway.provider("healthy", mock.base_url, prices={"ok": PRICES})
    response = gateway.ask("with another")
    assert (response.status, response.json["provider"]) == (200, "healthy")
    assert response.json["cost_status"] == "exact"
    gateway.summary()
    row = Ledger(gateway.directory / "data").by_id[response.headers["x-request-id"]]
    assert [attempt.sent for attempt in row.attempts] == [False, True]
    for one in (path, other):
        assert gateway.call("DELETE", one).status == 204
    note("served by another; the attempt that was never sent is marked so")


@pytest.mark.fault("the books after all these providers' faults", "rollups against the records")
def test_rollups_equal_the_records_after_all_provider_faults(gateway: GatewayProcess, note: Note) -> None:
    gateway.summary()
    ledger = Ledger(gateway.directory / Path("data"))
    ledger.check_sums()
    note(f"{len(ledger.rows)} records add up")
