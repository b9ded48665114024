"""Behaviour common to all endpoints: bodies up to 4 MiB, the cap on requests in flight, and error responses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_gateway import errors
from tests.application.driver import DEV_KEY, Response, assert_problem, exchange
from tests.application.straight_line import LEAST, PATH, World


@pytest.fixture
def world() -> World:
    return World()


MEBIBYTE = 1024 * 1024


def sized(size: int) -> bytes:
    head, tail = b'{"user_id":"u","service":"s","prompt":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize("piece", [MEBIBYTE, 4 * MEBIBYTE])
async def test_a_body_of_4_mib_is_accepted(world: World, piece: int) -> None:
    body = sized(4 * MEBIBYTE)
    assert (await world.post([body[i : i + piece] for i in range(0, len(body), piece)])).status == 200


@pytest.mark.parametrize("piece", [65536, 4 * MEBIBYTE, 5 * MEBIBYTE])
async def test_a_body_of_4_mib_and_a_byte_is_refused(world: World, piece: int) -> None:
    body = sized(4 * MEBIBYTE + 1)
    response = await world.post([body[i : i + piece] for i in range(0, len(body), piece)])
    assert_problem(response, 413, "payload_too_large")
    assert response.headers["connection"] == "close"
    assert world.gateway.requests == []


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "identity, br", ""])
async def test_a_compressed_body_is_refused(world: World, coding: str) -> None:
    response = await world.post([b"\x1f\x8b\x08"], content_encoding=coding)
    problem = assert_problem(response, 415, "coding_not_supported")
    assert response.headers["accept-encoding"] == "identity"
    assert problem["detail"] == (
        f"The body is compressed (Content-Encoding: {coding}): send it without, as plain JSON."
    )
    assert world.gateway.requests == []


async def test_a_body_sent_as_it_is_is_accepted(world: World) -> None:
    assert (await world.post([sized(100)], content_encoding="Identity")).status == 200


async def test_a_body_that_is_too_large_is_read_and_dropped_up_to_8_mib(world: World) -> None:
    pieces: list[object] = [b"x" * MEBIBYTE] * 20
    taken = 0

    class Counted(bytes):
        def __len__(self) -> int:
            nonlocal taken
            taken += 1
            return super().__len__()

    assert_problem(await world.post([Counted(b"x" * MEBIBYTE) for _ in pieces]), 413, "payload_too_large")
    assert taken <= 11


@pytest.mark.parametrize("piece", [100_000, 4 * MEBIBYTE])
async def test_bodies_beyond_the_cap_are_refused_until_others_have_ended(world: World, piece: int) -> None:
    body = sized(4 * MEBIBYTE)
    pieces = [body[i : i + piece] for i in range(0, len(body), piece)]
    world.in_flight.hold(7_000_000)

    refused = await world.post(pieces)
    world.in_flight.release(7_000_000)

    assert_problem(refused, 503, "overloaded")
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
    assert (await world.post(pieces)).status == 200
    assert (world.in_flight.bytes, world.in_flight.count, len(world.gateway.requests)) == (0, 0, 1)


@pytest.mark.parametrize(
    "messages",
    [
        [b"{}"],
        [b"x" * 5 * MEBIBYTE],
        [b"{", b"x" * 5 * MEBIBYTE],
        [b"{nope", b"}"],
        [b"{", None],
        [None],
    ],
    ids=["invalid", "too large", "too large in pieces", "malformed", "client gone in its middle", "client gone"],
)
async def test_no_body_stays_counted_however_the_request_ends(world: World, messages: list[bytes | None]) -> None:
    said = [{"type": "http.disconnect"} if m is None else piece(m, more=m is not messages[-1]) for m in messages]

    await call_and_say(world, said)

    assert (world.in_flight.bytes, world.in_flight.count) == (0, 0)


async def test_a_body_of_too_many_values_is_refused(world: World) -> None:
    body = b'{"messages":[%b]}' % b",".join([b"{}"] * 200_001)
    assert_problem(await world.post([body]), 413, "payload_too_large")
    assert (world.in_flight.bytes, world.in_flight.count, world.gateway.requests) == (0, 0, [])


async def test_dropping_a_body_ends_after_a_time_limit() -> None:
    world = World(drop_s=0.05)
    response = await call_and_say(world, [piece(b"x" * 5 * MEBIBYTE, more=True)])
    assert_problem(response, 413, "payload_too_large")


def piece(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def call_and_say(world: World, messages: list[dict[str, Any]]) -> Response:
    """Make a request of these ASGI messages, after which the client sends nothing more."""
    headers = [("host", "localhost"), ("x-service-key", DEV_KEY)]
    return await exchange(world.client.app, "POST", PATH, headers, list(messages))


@pytest.mark.parametrize("before", [b"", b"{", b"x" * 5 * MEBIBYTE])
async def test_nothing_is_sent_to_a_client_that_disconnected(world: World, before: bytes) -> None:
    gone = [piece(before, more=True), {"type": "http.disconnect"}]
    assert (await call_and_say(world, gone)).status == 0
    assert (await call_and_say(world, gone[1:])).status == 0
    assert world.in_flight.count == 0
    assert world.logged == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_methods_other_than_post_are_not_allowed(world: World, method: str) -> None:
    response = await world.client.call(method, PATH)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "code", "retry", "after"),
    [
        (errors.RateLimited("Wait.", retry_after_s=2.0004), "rate_limited", "true", ("3", "2001")),
        (errors.RateLimited("Wait.", retry_after_s=0), "rate_limited", "true", ("1", "100")),
        (errors.RateLimited("Wait.", retry_after_s=0.25), "rate_limited", "true", ("1", "250")),
        (errors.RequestExceedsLimit("Too large."), "request_exceeds_limit", "false", None),
        (errors.ProviderFailed("It failed."), "provider_error", "true", None),
        (errors.ProviderFailed("Your fault.", retryable=False), "provider_error", "false", None),
        (errors.NoProvider("None."), "no_provider", "false", ("30", "30000")),
        (
            errors.ProvidersUnavailable("All open.", retry_after_s=17.5),
            "providers_unavailable",
            "true",
            ("18", "17500"),
        ),
        (errors.JournalUnavailable("Disk full."), "journal_unavailable", "true", ("5", "5000")),
        (errors.Overloaded("Too many."), "overloaded", "true", ("5", "5000")),
        (errors.DeadlineExceeded("Late."), "deadline_exceeded", "true", None),
    ],
)
async def test_errors_of_the_gateway_are_problem_documents(
    world: World, error: errors.GatewayError, code: str, retry: str, after: tuple[str, str] | None
) -> None:
    world.gateway.error = error
    response = await world.post(LEAST, x_request_id="mine")
    problem = assert_problem(response, error.status, code)
    assert problem["detail"] == error.detail
    assert response.headers["x-should-retry"] == retry
    assert response.headers["x-request-id"] == "mine"
    assert problem["request_id"] == "mine"
    assert world.gateway.requests[0].client_request_id == "mine"
    said = (response.headers.get("retry-after"), response.headers.get("retry-after-ms"))
    assert said == (after or (None, None))
    if error.status in (429, 503) and code != "request_exceeds_limit":
        assert None not in said


async def test_a_defect_of_the_gateway_is_logged_and_not_shown(world: World) -> None:
    world.gateway.error = ZeroDivisionError("the secret cause")
    response = await world.post(LEAST)
    problem = assert_problem(response, 500, "internal_error")
    assert "secret" not in response.body.decode()
    assert problem["request_id"] in problem["detail"]
    assert world.logged[0]["request_id"] == problem["request_id"]
    assert world.logged[0]["exc_info"] is world.gateway.error
    assert world.in_flight.count == 0


async def test_requests_cancelled_by_a_stop_get_a_503(world: World) -> None:
    world.gateway.error = asyncio.CancelledError()
    assert_problem(await world.post(LEAST), 503, "overloaded")


async def test_requests_above_the_cap_are_refused_at_once(world: World) -> None:
    world.gateway.go_on.clear()
    under_way = [asyncio.create_task(world.post(LEAST)) for _ in range(2)]
    await asyncio.sleep(0)
    response = await world.post(LEAST)
    assert_problem(response, 503, "overloaded")
    assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("1", "true")
    world.gateway.go_on.set()
    assert [(await task).status for task in under_way] == [200, 200]
    assert (await world.post(LEAST)).status == 200
