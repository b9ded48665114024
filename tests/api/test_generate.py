"""POST /api/v1/generate: what is read, what is refused and how, what comes back. The straight line is a stand-in."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast
from uuid import UUID

import pytest

from llm_gateway import errors
from llm_gateway.api.auth import DATA_PLANE, Gate, Keyring
from llm_gateway.api.generate import Generate
from llm_gateway.api.planes import Planes
from llm_gateway.api.surface import InFlight
from llm_gateway.domain.messages import Answer, Request
from llm_gateway.gateway import Gateway
from tests.api.driver import DEV_KEY, Client, Response, assert_problem, exchange

PATH = "/api/v1/generate"
LEAST = {"user_id": "customer", "service": "shop", "prompt": "Hello"}
ANSWER = Answer(
    content="Hi", provider="p", model="m", input_tokens=3, output_tokens=4, finish_reason="stop",
    cost_nanos=1_500, cost_status="exact",
)  # fmt: skip


class StraightLine:
    """Stands in for the gateway: keeps what it was asked, and answers or fails as told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.error: BaseException | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def generate(self, request: Request) -> Answer:
        self.requests.append(request)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return ANSWER


class World:
    """The surface behind the gate."""

    def __init__(self) -> None:
        self.line = StraightLine()
        self.in_flight = InFlight(2)
        self.logged: list[dict[str, Any]] = []
        generate = Generate(cast(Gateway, self.line), self.in_flight, timeout_s=120, log=self._log)
        surfaces = Planes({DATA_PLANE: generate}, generate)
        keys = [("dev", DEV_KEY, frozenset({"call"}))]
        self.client = Client(Gate(surfaces, Keyring(keys), local_only=True))

    def _log(self, event: str, **fields: Any) -> None:
        self.logged.append({"event": event, **fields})

    async def post(self, body: object, **headers: str | bytes) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.call("POST", PATH, body, headers=named)

    async def request(self, **headers: str | bytes) -> Request:
        """What a request with these headers becomes."""
        response = await self.post(LEAST, **headers)
        assert response.status == 200, response.body
        return self.line.requests[-1]


@pytest.fixture
def world() -> World:
    return World()


async def test_the_answer_has_the_fields_of_the_reference(world: World) -> None:
    response = await world.post(LEAST)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json
    types = {
        "content": str, "provider": str, "model": str, "input_tokens": int, "output_tokens": int,
        "cost_usd": float, "cached": bool, "latency_ms": int,
    }  # fmt: skip
    assert {name: type(answer[name]) for name in types} == types
    assert set(answer) == {*types, "finish_reason", "cost_status"}
    assert answer["cost_usd"] == 0.0000015
    assert 0 <= answer["latency_ms"] < 1000


async def test_latency_is_end_to_end(world: World) -> None:
    world.line.go_on.clear()
    asyncio.get_running_loop().call_later(0.06, world.line.go_on.set)
    assert 55 <= (await world.post(LEAST)).json["latency_ms"] < 1000


async def test_defaults(world: World) -> None:
    request = await world.request()
    assert (request.user_id, request.service, request.prompt) == ("customer", "shop", "Hello")
    assert (request.task_type, request.system) == ("general", "")
    assert (request.max_tokens, request.temperature, request.json_mode) == (1000, 0.7, False)
    assert (request.surface, request.key_name) == ("generate", "dev")
    assert (request.use_cache, request.keep_in_cache) == (True, True)
    assert (request.client_request_id, request.tags) == (None, {})
    assert UUID(request.id).version == 7
    assert abs(request.at_ms - time.time() * 1000) < 2000
    assert request.deadline - request.started == pytest.approx(120)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", "x"),
        ("user_id", "ü" * 256),
        ("service", "s" * 256),
        ("task_type", "summary"),
        ("prompt", "\u0000 \U0001f600 \u2028"),
        ("system", ""),
        ("system", "Be brief."),
        ("max_tokens", 1),
        ("max_tokens", 8000),
        ("temperature", 0),
        ("temperature", 0.0),
        ("temperature", 2),
        ("temperature", 2.0),
        ("temperature", 1e-9),
        ("json_mode", True),
        ("json_mode", False),
    ],
)
async def test_what_is_taken(world: World, field: str, value: object) -> None:
    assert (await world.post({**LEAST, field: value})).status == 200
    assert getattr(world.line.requests[0], field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", None),
        ("user_id", 1),
        ("user_id", ["x"]),
        ("user_id", "x" * 257),
        ("user_id", "nul\u0000"),
        ("service", ""),
        ("service", True),
        ("service", "a\u0000b"),
        ("task_type", ""),
        ("task_type", "\u0000"),
        ("task_type", None),
        ("prompt", ""),
        ("prompt", None),
        ("prompt", {"text": "x"}),
        ("system", None),
        ("system", 0),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 8001),
        ("max_tokens", 10**30),
        ("max_tokens", "100"),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", None),
        ("temperature", -0.0001),
        ("temperature", 2.0001),
        ("temperature", "0.7"),
        ("temperature", False),
        ("temperature", None),
        ("json_mode", 1),
        ("json_mode", "true"),
        ("json_mode", None),
    ],
)
async def test_what_is_refused_by_field(world: World, field: str, value: object) -> None:
    response = await world.post({**LEAST, field: value})
    problem = assert_problem(response, 422, "validation_error")
    assert [error["loc"] for error in problem["errors"]] == [["body", field]]
    assert field in problem["detail"]
    assert response.headers["x-should-retry"] == "false"
    assert world.line.requests == []


@pytest.mark.parametrize("field", ["user_id", "service", "prompt"])
async def test_a_missing_field(world: World, field: str) -> None:
    response = await world.post({name: value for name, value in LEAST.items() if name != field})
    problem = assert_problem(response, 422, "validation_error")
    expected = {"loc": ["body", field], "msg": f"{field} is required.", "type": "missing"}
    assert problem["errors"] == [expected]


@pytest.mark.parametrize("field", ["model", "User_ID", "", "stream", "a.b", "`$.x`", "ünïcode"])
async def test_an_unknown_field(world: World, field: str) -> None:
    problem = assert_problem(await world.post({**LEAST, field: 1}), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", field]
    assert problem["errors"][0]["type"] == "extra_forbidden"


def with_field(text: str) -> bytes:
    return b'{"user_id": "u", "service": "s", "prompt": "p", %s}' % text.encode("latin-1")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="blank"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'"text"', id="string"),
        pytest.param(b"{}{}", id="two"),
        pytest.param(json.dumps(LEAST).encode() + b"x", id="trailing"),
        pytest.param(json.dumps(LEAST).encode("utf-16"), id="utf-16"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(LEAST).encode(), id="byte-order mark"),
        pytest.param(b"user_id=u&service=s&prompt=p", id="form"),
        pytest.param(with_field('"system": "\xff"'), id="invalid UTF-8"),
        pytest.param(with_field('"system": "\xed\xa0\x80"'), id="surrogate in UTF-8"),
        pytest.param(with_field('"system": "\\ud800"'), id="lone surrogate"),
        pytest.param(with_field('"system": "\\udc00\\ud800"'), id="surrogates reversed"),
        pytest.param(with_field('"system": "\n"'), id="control character"),
        pytest.param(with_field('"temperature": NaN'), id="NaN"),
        pytest.param(with_field('"temperature": Infinity'), id="Infinity"),
        pytest.param(with_field('"temperature": 1e999'), id="out of range"),
        pytest.param(with_field('"max_tokens": 0x10'), id="hexadecimal"),
        pytest.param(with_field("'system': 'x'"), id="single quotes"),
        pytest.param(with_field('"x": ' + "[" * 100_000), id="deep"),
        pytest.param(with_field('"x": ' + "[" * 5_000 + "]" * 5_000), id="deep and closed"),
        pytest.param(b"[" * 1_000_000, id="deep array"),
        pytest.param(b'{"user_id":' * 100_000, id="deep objects"),
    ],
)
async def test_what_is_no_request(world: World, body: bytes) -> None:
    assert_problem(await world.post(body), 422, "validation_error")
    assert world.line.requests == []
    assert world.logged == []


async def test_of_a_field_given_twice_the_last_wins(world: World) -> None:
    assert (await world.post(with_field('"prompt": "second"'))).status == 200
    assert world.line.requests[0].prompt == "second"


async def test_a_body_in_pieces(world: World) -> None:
    whole = json.dumps(LEAST).encode()
    assert (await world.post([whole[:7], b"", whole[7:], b""])).status == 200


MEBIBYTE = 1024 * 1024


def sized(size: int) -> bytes:
    head, tail = b'{"user_id":"u","service":"s","prompt":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize("piece", [MEBIBYTE, 4 * MEBIBYTE])
async def test_four_mebibytes_are_taken(world: World, piece: int) -> None:
    body = sized(4 * MEBIBYTE)
    assert (await world.post([body[i : i + piece] for i in range(0, len(body), piece)])).status == 200


@pytest.mark.parametrize("piece", [65536, 4 * MEBIBYTE, 5 * MEBIBYTE])
async def test_one_byte_more_is_refused(world: World, piece: int) -> None:
    body = sized(4 * MEBIBYTE + 1)
    response = await world.post([body[i : i + piece] for i in range(0, len(body), piece)])
    assert_problem(response, 413, "payload_too_large")
    assert response.headers["connection"] == "close"
    assert world.line.requests == []


async def test_a_body_too_large_is_dropped_up_to_eight_mebibytes(world: World) -> None:
    pieces: list[object] = [b"x" * MEBIBYTE] * 20
    taken = 0

    class Counted(bytes):
        def __len__(self) -> int:
            nonlocal taken
            taken += 1
            return super().__len__()

    assert_problem(await world.post([Counted(b"x" * MEBIBYTE) for _ in pieces]), 413, "payload_too_large")
    assert taken <= 11


async def test_dropping_ends_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_gateway.api.surface.DROP_SECONDS", 0.05)
    response = await call_and_say(world, [piece(b"x" * 5 * MEBIBYTE, more=True)])
    assert_problem(response, 413, "payload_too_large")


def piece(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def call_and_say(world: World, messages: list[dict[str, Any]]) -> Response:
    """A request made of these ASGI messages, after which the client falls silent."""
    headers = [("host", "localhost"), ("x-service-key", DEV_KEY)]
    return await exchange(world.client.app, "POST", PATH, headers, list(messages))


@pytest.mark.parametrize("before", [b"", b"{", b"x" * 5 * MEBIBYTE])
async def test_nobody_is_answered_when_the_client_went_away(world: World, before: bytes) -> None:
    gone = [piece(before, more=True), {"type": "http.disconnect"}]
    assert (await call_and_say(world, gone)).status == 0
    assert (await call_and_say(world, gone[1:])).status == 0
    assert world.in_flight.count == 0
    assert world.logged == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods(world: World, method: str) -> None:
    response = await world.client.call(method, PATH)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "code", "retry", "after"),
    [
        (errors.RateLimited("Wait.", retry_after_s=2.0004), "rate_limited", "true", ("3", "2001")),
        (errors.RateLimited("Wait.", retry_after_s=0), "rate_limited", "true", ("1", "1")),
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
async def test_errors_of_the_line(
    world: World, error: errors.GatewayError, code: str, retry: str, after: tuple[str, str] | None
) -> None:
    world.line.error = error
    response = await world.post(LEAST, x_request_id="mine")
    problem = assert_problem(response, error.status, code)
    assert problem["detail"] == error.detail
    assert response.headers["x-should-retry"] == retry
    assert response.headers["x-request-id"] == "mine"
    assert problem["request_id"] == world.line.requests[0].id
    said = (response.headers.get("retry-after"), response.headers.get("retry-after-ms"))
    assert said == (after or (None, None))
    if error.status in (429, 503) and code != "request_exceeds_limit":
        assert None not in said


async def test_a_defect_of_ours_is_logged_and_not_shown(world: World) -> None:
    world.line.error = ZeroDivisionError("the secret cause")
    response = await world.post(LEAST)
    problem = assert_problem(response, 500, "internal_error")
    assert "secret" not in response.body.decode()
    assert problem["request_id"] in problem["detail"]
    assert world.logged[0]["request_id"] == problem["request_id"]
    assert world.logged[0]["exc_info"] is world.line.error
    assert world.in_flight.count == 0


async def test_what_is_cut_short_by_the_gateways_end_is_told_so(world: World) -> None:
    world.line.error = asyncio.CancelledError()
    assert_problem(await world.post(LEAST), 503, "overloaded")


async def test_more_than_the_cap_is_refused_at_once(world: World) -> None:
    world.line.go_on.clear()
    under_way = [asyncio.create_task(world.post(LEAST)) for _ in range(2)]
    await asyncio.sleep(0)
    response = await world.post(LEAST)
    assert_problem(response, 503, "overloaded")
    assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("1", "true")
    world.line.go_on.set()
    assert [(await task).status for task in under_way] == [200, 200]
    assert (await world.post(LEAST)).status == 200


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 0.001),
        ("250", 0.25),
        ("0250", 0.25),
        ("120000", 120),
        ("120001", 120),
        ("9" * 400, 120),
        ("9" * 5000, 120),
    ],
)
async def test_a_caller_may_shorten_the_deadline(world: World, value: str, seconds: float) -> None:
    request = await world.request(x_request_timeout_ms=value)
    assert request.deadline - request.started == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["0", "000", "", "-1", "1.5", "1s", "1e3", " ", "٣", "nan", "1_000"])
async def test_an_unfit_deadline(world: World, value: str) -> None:
    assert_problem(await world.post(LEAST, x_request_timeout_ms=value), 400, "bad_request")


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("team=checkout", {"team": "checkout"}),
        (" team = checkout , run=7 ", {"team": "checkout", "run": "7"}),
        ("a=1,a=2", {"a": "2"}),
        ("empty=", {"empty": ""}),
        ("A.b_c-9=x y", {"A.b_c-9": "x y"}),
        ("k" * 64 + "=" + "v" * 64, {"k" * 64: "v" * 64}),
        (",".join(f"t{i}={i}" for i in range(10)), {f"t{i}": str(i) for i in range(10)}),
    ],
)
async def test_tags(world: World, value: str, tags: dict[str, str]) -> None:
    assert (await world.request(x_tags=value)).tags == tags


@pytest.mark.parametrize(
    "value",
    [
        "",
        "novalue",
        "=x",
        "a=b=c",
        "a=1,",
        "a b=1",
        "ü=1",
        "a=\x01",
        "k" * 65 + "=x",
        "k=" + "v" * 65,
        ",".join(f"t{i}={i}" for i in range(11)),
    ],
)
async def test_unfit_tags(world: World, value: str) -> None:
    assert_problem(await world.post(LEAST, x_tags=value), 400, "bad_request")


async def test_unfit_tags_are_refused_quickly(world: World) -> None:
    started = time.monotonic()
    assert_problem(await world.post(LEAST, x_tags="a=" + " " * 30_000 + "="), 400, "bad_request")
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    ("value", "use", "keep"),
    [
        ("no-cache", False, True),
        ("No-Cache", False, True),
        ("no-store", False, False),
        ("max-age=0, no-store", False, False),
        ("no-cache, no-store", False, False),
        ("max-age=60", True, True),
        ("", True, True),
    ],
)
async def test_cache_control(world: World, value: str, use: bool, keep: bool) -> None:
    request = await world.request(cache_control=value)
    assert (request.use_cache, request.keep_in_cache) == (use, keep)


async def test_a_callers_request_id_is_stored_but_ours_identifies(world: World) -> None:
    request = await world.request(x_request_id="order-7")
    assert request.client_request_id == "order-7"
    assert UUID(request.id).version == 7
    response = await world.post(LEAST)
    assert response.headers["x-request-id"] == world.line.requests[-1].id
