"""POST /api/v1/generate: fields and headers of requests, refused requests, and the answer."""

from __future__ import annotations

import asyncio
import json
import time
from uuid import UUID

import pytest

from llm_gateway.domain.conversation import Conversation, Role, Text, Turn
from llm_gateway.domain.request import Request
from tests.application.driver import assert_problem
from tests.application.straight_line import LEAST, World
from tests.waiting import until


@pytest.fixture
def world() -> World:
    return World()


def said(role: Role, text: str) -> Turn:
    return Turn(role=role, parts=[Text(text=text)])


def asked_with(request: Request) -> dict[str, object]:
    """Post a body, and return its fields as they reached the gateway."""
    conversation = request.client_request.conversation
    texts = {turn.role: part.text for turn in conversation.turns for part in turn.parts if isinstance(part, Text)}
    return {
        **{name: getattr(request, name) for name in ("user_id", "service", "task_type", "max_tokens", "json_mode")},
        "prompt": texts["user"],
        "system": texts.get("system", ""),
        "temperature": conversation.temperature,
    }


async def test_the_answer_has_the_fields_of_the_reference(world: World) -> None:
    response = await world.post(LEAST)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["x-gateway-provider"], response.headers["x-gateway-route"]) == ("p", "priority")
    answer = response.json
    types = {
        "content": str, "provider": str, "model": str, "input_tokens": int, "output_tokens": int,
        "cost_usd": float, "cached": bool, "latency_ms": int,
    }  # fmt: skip
    assert {name: type(answer[name]) for name in types} == types
    assert set(answer) == {*types, "finish_reason", "cost_status"}
    assert answer["cost_usd"] == 0.0000015
    assert 0 <= answer["latency_ms"] < 1000


async def test_the_latency_in_the_answer_is_end_to_end(world: World) -> None:
    world.gateway.go_on.clear()
    posted = asyncio.create_task(world.post(LEAST))
    await until(lambda: bool(world.gateway.requests))
    await asyncio.sleep(0.06)
    world.gateway.go_on.set()
    assert (await posted).json["latency_ms"] >= 59


async def test_optional_fields_have_defaults(world: World) -> None:
    request = await world.request()
    assert (request.user_id, request.service, request.task_type) == ("customer", "shop", "general")
    assert request.client_request.conversation == Conversation(
        turns=[said("user", "Hello")], max_tokens=1000, temperature=0.7
    )
    assert (request.max_tokens, request.json_mode) == (1000, False)
    assert (request.surface, request.key_name) == ("generate", "dev")
    assert (request.use_cache, request.store_in_cache) == (True, True)
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
        ("user_id", " x "),
        ("system", ""),
        ("system", "Be brief."),
        ("max_tokens", 1),
        ("max_tokens", 8000),
        ("max_tokens", 1.0),
        ("max_tokens", 8e3),
        ("temperature", 0),
        ("temperature", 0.0),
        ("temperature", 2),
        ("temperature", 2.0),
        ("temperature", 1e-9),
        ("json_mode", True),
        ("json_mode", False),
    ],
)
async def test_every_value_within_the_limits_is_accepted(world: World, field: str, value: object) -> None:
    assert (await world.post({**LEAST, field: value})).status == 200
    assert asked_with(world.gateway.requests[0])[field] == value


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
        ("task_type", "\u0085"),
        ("user_id", "  "),
        ("service", "\u3000\t"),
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
        ("max_tokens", 0.0),
        ("max_tokens", 8001.0),
        ("max_tokens", 1e300),
        ("max_tokens", True),
        ("max_tokens", None),
        ("temperature", -0.0001),
        ("temperature", 2.0001),
        ("temperature", "0.7"),
        ("temperature", False),
        ("temperature", None),
        ("stream", "yes"),
        ("messages", []),
        ("model", 1),
        ("json_mode", 1),
        ("json_mode", "true"),
        ("json_mode", None),
    ],
)
async def test_an_invalid_field_is_named(world: World, field: str, value: object) -> None:
    response = await world.post({**LEAST, field: value})
    problem = assert_problem(response, 422, "validation_error")
    assert [error["loc"] for error in problem["errors"]] == [["body", field]]
    assert field in problem["detail"]
    assert response.headers["x-should-retry"] == "false"
    assert world.gateway.requests == []


@pytest.mark.parametrize("field", ["user_id", "service", "prompt"])
async def test_a_missing_field_is_named(world: World, field: str) -> None:
    response = await world.post({name: value for name, value in LEAST.items() if name != field})
    problem = assert_problem(response, 422, "validation_error")
    expected = {"loc": ["body", field], "msg": f"{field} is required.", "type": "missing"}
    assert problem["errors"] == [expected]


@pytest.mark.parametrize("field", ["models", "User_ID", "", "streams", "a.b", "`$.x`", "ünïcode"])
async def test_an_unknown_field_is_refused_and_named(world: World, field: str) -> None:
    problem = assert_problem(await world.post({**LEAST, field: 1}), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", field]
    assert problem["errors"][0]["type"] == "extra_forbidden"


async def test_all_mistakes_are_named_at_once_with_what_was_meant(world: World) -> None:
    body = {"userId": "u", "service": 1, "promt": "p", "max_tokens": 9000, "stream": "yes", "foo": None}
    problem = assert_problem(await world.post(body), 422, "validation_error")
    assert [(error["loc"][1], error["type"]) for error in problem["errors"]] == [
        ("userId", "extra_forbidden"),
        ("promt", "extra_forbidden"),
        ("foo", "extra_forbidden"),
        ("service", "value_error"),
        ("max_tokens", "value_error"),
        ("stream", "value_error"),
        ("user_id", "missing"),
        ("prompt", "missing"),
    ]
    assert problem["detail"] == (
        "userId is not a field of this request. Did you mean user_id? "
        "promt is not a field of this request. Did you mean prompt? foo is not a field of this request. "
        "service must be text, not a whole number. max_tokens must be at most 8000. "
        "stream must be true or false or null, not text. user_id is required. prompt is required."
    )


async def test_a_body_of_thousands_of_mistakes_names_20(world: World) -> None:
    problem = assert_problem(
        await world.post({f"prompt{number}": 1 for number in range(15_000)}), 422, "validation_error"
    )
    assert len(problem["errors"]) == 20
    assert len(problem["detail"]) <= 600


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"user_id": "u",\n "service": "s", // no\n}', "line 2, column 18: this looks like a comment"),
        (b"{'user_id': 'u'}", "line 1, column 2: strings and field names are written in double quotes"),
        (b'\xef\xbb\xbf{"user_id": "u"}', "byte order mark"),
        ('{"user_id": "u"}'.encode("utf-16"), "UTF-16"),
        (b"user_id=u&service=s", "looks like a form"),
        (b"", "it is empty"),
        (b'["u"]', "must be a JSON object, not a list"),
        (b'"{}"', "encoded twice"),
    ],
)
async def test_what_is_no_json_is_told_where_and_what_it_looks_like(world: World, body: bytes, sentence: str) -> None:
    problem = assert_problem(await world.post(body), 422, "validation_error")
    assert sentence in problem["detail"]
    assert problem["errors"][0]["type"] == "json_invalid"


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
        pytest.param(b"[" * 200_000, id="deep array"),
        pytest.param(b'{"user_id":' * 15_000, id="deep objects"),
    ],
)
async def test_a_body_that_is_not_a_request_is_refused(world: World, body: bytes) -> None:
    assert_problem(await world.post(body), 422, "validation_error")
    assert world.gateway.requests == []
    assert world.logged == []


async def test_the_last_of_two_fields_with_one_name_wins(world: World) -> None:
    assert (await world.post(with_field('"prompt": "second"'))).status == 200
    assert world.gateway.requests[0].client_request.conversation.turns == [said("user", "second")]


async def test_a_body_in_several_messages_is_joined(world: World) -> None:
    whole = json.dumps(LEAST).encode()
    assert (await world.post([whole[:7], b"", whole[7:], b""])).status == 200


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
async def test_a_client_can_shorten_the_deadline(world: World, value: str, seconds: float) -> None:
    request = await world.request(x_request_timeout_ms=value)
    assert request.deadline - request.started == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["0", "000", "", "-1", "1.5", "1s", "1e3", " ", "٣", "nan", "1_000"])
async def test_a_deadline_that_is_not_a_positive_integer_is_refused(world: World, value: str) -> None:
    assert_problem(await world.post(LEAST, x_request_timeout_ms=value), 400, "bad_request")


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("team=checkout", {"team": "checkout"}),
        (" team = checkout , run=7 ", {"team": "checkout", "run": "7"}),
        ("a=1,a=2", {"a": "2"}),
        ("city=Köln,fun=\U0001f600".encode(), {"city": "Köln", "fun": "\U0001f600"}),
        ("k=" + "ü" * 64, {"k": "ü" * 64}),
        ("empty=", {"empty": ""}),
        ("A.b_c-9=x y", {"A.b_c-9": "x y"}),
        ("k" * 64 + "=" + "v" * 64, {"k" * 64: "v" * 64}),
        (",".join(f"t{i}={i}" for i in range(10)), {f"t{i}": str(i) for i in range(10)}),
    ],
)
async def test_tags_are_read_from_their_header(world: World, value: str | bytes, tags: dict[str, str]) -> None:
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
        "a=\x7f",
        "city=Köln".encode("latin-1"),
        b"a=\xed\xa0\x80",
        "k" * 65 + "=x",
        "k=" + "v" * 65,
        ",".join(f"t{i}={i}" for i in range(11)),
        ",".join(["a=1"] * 11),
    ],
)
async def test_malformed_tags_are_refused(world: World, value: str | bytes) -> None:
    assert_problem(await world.post(LEAST, x_tags=value), 400, "bad_request")


async def test_large_malformed_tags_are_refused_quickly(world: World) -> None:
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
        ("max-age=0", False, True),
        ("private, Max-Age=00 ,no-transform", False, True),
        ('max-age="0"', False, True),
        ("max-age=60", True, True),
        ("max-age=05", True, True),
        ("x-max-age=0", True, True),
        ("", True, True),
    ],
)
async def test_cache_control_decides_on_cache_reads_and_writes(world: World, value: str, use: bool, keep: bool) -> None:
    request = await world.request(cache_control=value)
    assert (request.use_cache, request.store_in_cache) == (use, keep)


async def test_a_clients_request_id_is_stored_beside_the_gateways_own(world: World) -> None:
    request = await world.request(x_request_id="order-7")
    assert request.client_request_id == "order-7"
    assert UUID(request.id).version == 7
    response = await world.post(LEAST)
    assert response.headers["x-request-id"] == world.gateway.requests[-1].id
    assert response.headers["x-gateway-request-id"] == world.gateway.requests[-1].id


async def test_an_error_has_the_clients_request_id_and_the_gateways_own(world: World) -> None:
    response = await world.post({**LEAST, "max_tokens": 0}, x_request_id="order-7")
    assert_problem(response, 422, "validation_error")
    assert response.headers["x-request-id"] == "order-7"
    assert UUID(response.headers["x-gateway-request-id"]).version == 7


@pytest.mark.parametrize("field", ["user_id", "service", "task_type", "model"])
async def test_a_nul_character_in_a_label_is_refused(world: World, field: str) -> None:
    problem = assert_problem(await world.post({**LEAST, field: "a\0b"}), 422, "validation_error")
    assert problem["detail"] == f"{field} must not contain a NUL character."
    assert world.gateway.requests == []
