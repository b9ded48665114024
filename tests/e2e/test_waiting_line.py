"""Requests at a provider's rate limit wait in a fair line, and every surface tells how long and what the limits are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import GatewayProcess, Response
from tests.upstream import UpstreamProcess
from tests.upstream.forked import ForkedUpstream

LIMITS = [f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")]
MESSAGES = [{"role": "user", "content": "Hello"}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/api/v1/generate", {"user_id": "u", "service": "s", "prompt": "Hello", "max_tokens": 200}),
    "chat": ("/v1/chat/completions", {"model": "auto", "max_tokens": 200, "messages": MESSAGES}),
    "responses": ("/v1/responses", {"model": "auto", "max_output_tokens": 200, "input": "Hello"}),
    "messages": ("/v1/messages", {"model": "auto", "max_tokens": 200, "messages": MESSAGES}),
    "gemini": (
        "/v1beta/models/auto:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}], "generationConfig": {"maxOutputTokens": 200}},
    ),
}


def call(gateway: GatewayProcess, surface: str) -> Response:
    path, body = CALLS[surface]
    return gateway.call("POST", path, body, cache_control="no-store")


@pytest.mark.parametrize("surface", CALLS)
def test_an_answer_that_waited_tells_how_long_and_what_is_left(gateway: GatewayProcess, surface: str) -> None:
    """The limit has room for the reservation of one call; the second one waits until the first has given it back.

    The mock is a new one, since its answers get longer with their number.
    """
    with ForkedUpstream() as mock, ThreadPoolExecutor(2) as pool:
        gateway.provider("acme", mock.base_url, "slow-700", rate_limit_rpm=50, rate_limit_tpm=300)
        answers = list(pool.map(lambda _: call(gateway, surface), range(2)))

    assert [answer.status for answer in answers] == [200, 200], [answer.body for answer in answers]
    waited = [answer.headers["x-gateway-queued-ms"] for answer in answers]
    assert waited.count(None) == 1
    [queued_ms] = [int(ms) for ms in waited if ms is not None]
    assert 100 <= queued_ms <= 3000
    for answer in answers:
        told = {name: answer.headers[name] for name in LIMITS}
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("50", "300")
        assert int(told["x-ratelimit-remaining-requests"] or "") in (48, 49)
        assert 0 <= int(told["x-ratelimit-remaining-tokens"] or "") < 300
        assert 58 <= int((told["x-ratelimit-reset-requests"] or "").removesuffix("s")) <= 61


@pytest.mark.parametrize("surface", CALLS)
def test_who_cannot_be_served_in_time_is_refused_at_once_with_the_expected_time(
    gateway: GatewayProcess, mock: UpstreamProcess, surface: str
) -> None:
    gateway.provider("acme", mock.base_url, rate_limit_rpm=1)
    assert call(gateway, surface).status == 200
    started = time.monotonic()

    refused = call(gateway, surface)

    assert refused.status == 429
    assert time.monotonic() - started < 2
    assert 55 <= int(refused.headers["retry-after"] or "") <= 61
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-gateway-queued-ms"] is None
    assert "acme" in refused.body.decode(), "it names the provider"
    assert "1 request" in refused.body.decode(), "and the limit"


def test_streams_tell_the_limits_and_the_wait_too(gateway: GatewayProcess) -> None:
    """The mock is a new one: after many calls, its first answer would leave no room for the second call."""
    body = {"model": "auto", "max_tokens": 200, "stream": True, "messages": MESSAGES}

    with ForkedUpstream() as mock, ThreadPoolExecutor(2) as pool:
        gateway.provider("acme", mock.base_url, "slow-700", rate_limit_tpm=300)
        answers = list(
            pool.map(lambda _: gateway.call("POST", "/v1/chat/completions", body, cache_control="no-store"), range(2))
        )

    assert [answer.status for answer in answers] == [200, 200], [answer.body for answer in answers]
    assert sorted(answer.headers["x-gateway-queued-ms"] is None for answer in answers) == [False, True]
    assert all(answer.headers["x-ratelimit-limit-tokens"] == "300" for answer in answers)


def test_without_waiting_the_limit_refuses_at_once(tmp_path: Path, mock: UpstreamProcess) -> None:
    with GatewayProcess(tmp_path, max_queue_seconds=0) as gateway:
        gateway.provider("acme", mock.base_url, "slow-700", rate_limit_tpm=300)
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: call(gateway, "chat"), range(2)))
        assert sorted(answer.status for answer in answers) == [200, 429]


def repeat(stop_at: float, per_s: float, ask: Callable[[], bool]) -> list[bool]:
    """Call `ask` in threads, at this rate until this time. Returns its results."""
    results: list[bool] = []
    threads = []
    due = time.monotonic()
    while due < stop_at:
        time.sleep(max(0.0, due - time.monotonic()))
        threads.append(threading.Thread(target=lambda: results.append(ask())))
        threads[-1].start()
        due += 1 / per_s
    for thread in threads:
        thread.join()
    return results


def flood(gateway: GatewayProcess, seconds: float, flooding: float, quiet: float) -> tuple[list[bool], list[bool]]:
    """Let two customers ask at these rates. Returns which requests of each were answered."""

    def ask(customer: str) -> bool:
        body = {"user_id": customer, "service": "s", "prompt": "Hello", "max_tokens": 10}
        return gateway.call("POST", "/api/v1/generate", body, cache_control="no-store").status == 200

    stop_at = time.monotonic() + seconds
    with ThreadPoolExecutor(2) as pool:
        calm = pool.submit(repeat, stop_at, quiet, lambda: ask("quiet"))
        wild = pool.submit(repeat, stop_at, flooding, lambda: ask("flooding"))
        return wild.result(), calm.result()


def test_a_quiet_customer_is_served_beside_a_flooding_one(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url, "slow-100", rate_limit_rpm=300)

    flooding, quiet = flood(gateway, 12.0, 40.0, 2.0)

    print(f"flooding {sum(flooding)} of {len(flooding)}, quiet {sum(quiet)} of {len(quiet)}")  # noqa: T201
    assert sum(quiet) >= 0.8 * len(quiet)
    assert sum(flooding) <= 300 - sum(quiet)
    assert not all(flooding), "the limit was not reached, so the test means nothing"
