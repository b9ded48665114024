"""The management API's application: errors of all kinds are sent as problem details, and defects are logged."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from fastapi import HTTPException, Request
from fastapi.responses import Response as Raw
from pydantic import BaseModel

from llm_gateway.control.management.app import build_management
from llm_gateway.control.management.fields import STRICT
from llm_gateway.control.management.router import Router
from llm_gateway.errors import StoreUnavailable
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.in_flight import InFlight
from tests.application.driver import DEV_KEY, Client, assert_problem, exchange, ignore

KEYS = [("dev", DEV_KEY, frozenset({"admin"}))]


class Thing(BaseModel):
    model_config = STRICT

    name: str
    sizes: list[int]


def routes() -> Router:
    router = Router()

    @router.get("/defect")
    def defect() -> None:
        raise ZeroDivisionError("the secret cause")

    @router.get("/late")
    def late() -> Raw:
        return Raw(b"x", headers={"content-length": "1"}, background=Late())  # type: ignore[arg-type]

    @router.get("/store")
    def store() -> None:
        raise StoreUnavailable("Wait.", retry_after_s=1.5)

    @router.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418, "Short and stout.")

    @router.get("/nan")
    def nan() -> float:
        return math.nan

    @router.post("/thing")
    def thing(body: Thing) -> str:
        return body.name

    @router.post("/body")
    async def body(request: Request) -> dict[str, Any]:
        return {"body": (await request.body()).decode(), "gone": await request.is_disconnected()}

    return router


class Late:
    """A response that fails after its start is sent."""

    async def __call__(self) -> None:
        raise ZeroDivisionError("too late")


class World:
    """The application around the given routes, and its log lines."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        management = build_management(
            [routes()], lambda event, **fields: self.logged.append(fields), InFlight(10, 10_000_000)
        )
        self.refused: list[dict[str, Any]] = []
        gate = Gate(management, Keyring(KEYS), local_only=True, log=lambda _, **fields: self.refused.append(fields))
        self.client = Client(gate)


@pytest.fixture
def world() -> World:
    return World()


async def test_an_unexpected_exception_is_logged_and_not_shown(world: World) -> None:
    response = await world.client.call("GET", "/defect", headers={"x-request-id": "mine"})
    problem = assert_problem(response, 500, "internal_error")
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["x-should-retry"] == "false"
    assert "secret" not in str(problem)
    assert problem["request_id"] == "mine"
    [logged] = world.logged
    assert logged["client_request_id"] == "mine"
    assert logged["request_id"] != "mine"
    assert isinstance(logged["exc_info"], ZeroDivisionError)


async def test_an_exception_after_the_response_has_started_is_logged(world: World) -> None:
    response = await world.client.call("GET", "/late")
    assert (response.status, response.body) == (200, b"x")
    assert len(world.logged) == 1


async def test_errors_keep_their_own_headers(world: World) -> None:
    response = await world.client.call("GET", "/store")
    assert_problem(response, 503, "database_unavailable")
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("2", "1500")
    assert response.headers["x-should-retry"] == "true"


async def test_other_errors_of_the_framework_are_validation_errors(world: World) -> None:
    problem = assert_problem(await world.client.call("GET", "/teapot"), 422, "validation_error")
    assert problem["detail"] == "Short and stout."


async def test_a_value_that_json_lacks_is_null_or_a_500(world: World) -> None:
    response = await world.client.call("GET", "/nan")
    assert response.body == b"null" or response.status == 500


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"", b""),
        (b' {"a": 1, "a": [2]} ', b'{"a":[2]}'),
        (b'"\\u00e9\xc3\xa9"', '"éé"'.encode()),
        (b"12345678901234567890123", b"12345678901234567890123"),
        (b"1.50", b"1.5"),
    ],
)
async def test_a_body_is_parsed_once_and_passed_on_as_json(world: World, sent: bytes, seen: bytes) -> None:
    messages: list[Any] = [
        {"type": "http.request", "body": sent, "more_body": False},
        {"type": "http.disconnect"},
    ]
    headers = [("host", "localhost"), ("x-service-key", DEV_KEY), ("content-length", "999")]
    response = await exchange(world.client.app, "POST", "/body", headers, messages)
    assert response.json == {"body": seen.decode(), "gone": True}


async def test_a_body_of_more_than_100_fields_is_rejected_before_validation(world: World) -> None:
    some = {f"f{number}": number for number in range(100)}
    assert (await world.client.call("POST", "/body", some)).status == 200
    problem = assert_problem(await world.client.call("POST", "/body", {**some, "one": "more"}), 422, "validation_error")
    assert problem["detail"] == (
        "The body has 101 fields, but no request takes more than 100: send only fields of this request."
    )


SIZE = "size is not a field of this request. Did you mean sizes?"


async def test_the_errors_of_a_body_name_its_fields(world: World) -> None:
    for sent, sentence in (
        (b"", 'The body is not JSON: it is empty. Send an object such as {"name": "value"}.'),
        ([1], 'The body must be a JSON object, not a list: send an object such as {"name": "value"}.'),
        ({}, "name is required. sizes is required."),
        ({"size": [], "name": "n"}, f"sizes is required. {SIZE}"),
        (
            {"name": 1, "sizes": [""]},
            "name must be text, not a whole number. sizes.0 must be a whole number, not text.",
        ),
        ({"name": "n", "sizes": [1], "x": 1}, "x is not a field of this request."),
        ({"name": "n", "sizes": [1, "2"]}, "sizes.1 must be a whole number, not text."),
    ):
        assert (
            assert_problem(await world.client.call("POST", "/thing", sent), 422, "validation_error")["detail"]
            == sentence
        )


async def test_no_more_than_20_errors_are_listed(world: World) -> None:
    response = await world.client.call("POST", "/thing", {"name": "n", "sizes": ["1"] * 1000})
    assert len(assert_problem(response, 422, "validation_error")["errors"]) == 20


async def test_nothing_is_sent_when_the_client_has_disconnected(world: World) -> None:
    messages: list[Any] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    headers = [("host", "localhost"), ("x-service-key", DEV_KEY)]
    assert (await exchange(world.client.app, "POST", "/body", headers, messages)).status == 0
    assert world.logged == []


async def test_unknown_paths_are_404_and_unknown_methods_405(world: World) -> None:
    assert_problem(await world.client.call("GET", "/nothing"), 404, "not_found")
    assert_problem(await world.client.call("GET", "/redoc"), 404, "not_found")
    response = await world.client.call("POST", "/store")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD"


async def test_a_query_behind_an_encoded_question_mark_is_neither_answered_nor_logged(world: World) -> None:
    for path in ("/provid%3Fkey=sekret", "/store%3Fkey=sekret/x", "/docs/x%3fkey=sekret"):
        problem = assert_problem(await world.client.call("GET", path), 404, "not_found")
        assert "sekret" not in str(problem)
        assert f"There is nothing at {path[:6]}" in problem["detail"]
        assert world.refused[-1]["path"] == path.partition("%")[0]
    assert "sekret" not in str(world.refused)


async def test_head_is_answered_as_get(world: World) -> None:
    head, get = [await world.client.call(method, "/nan") for method in ("HEAD", "GET")]
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert head.status == get.status == 200
    assert_problem(await world.client.call("HEAD", "/body"), 405, "method_not_allowed")
    assert_problem(await world.client.call("HEAD", "/nothing"), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
async def test_an_invalid_body_of_a_method_without_one_is_ignored(world: World, method: str) -> None:
    response = await world.client.call(method, "/nan" if method != "DELETE" else "/nothing", b"{no json")
    assert response.status == (404 if method == "DELETE" else 200)


async def test_the_openapi_document_lists_the_routes_of_the_application(world: World) -> None:
    response = await world.client.call("GET", "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json["info"]["title"] == "LLM Gateway"
    assert "/store" in response.json["paths"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_method_without_a_body_is_answered_without_reading_one(method: str) -> None:
    read = []

    async def receive() -> dict[str, Any]:
        read.append(True)
        await asyncio.Event().wait()
        raise AssertionError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"x-service-key", DEV_KEY.encode()), (b"content-length", b"4000000")]
    scope = {"type": "http", "method": method, "path": "/nothing", "raw_path": b"/nothing", "query_string": b"",
             "root_path": "", "headers": headers, "client": None, "server": None, "http_version": "1.1"}  # fmt: skip
    async with asyncio.timeout(5):
        await Gate(
            build_management([routes()], ignore, InFlight(10, 10_000_000)), Keyring(KEYS), local_only=True, log=ignore
        )(scope, receive, send)
    assert sent[0]["status"] == 404
    assert not read
