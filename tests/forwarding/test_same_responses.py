"""Comparison of management responses: through a worker they are those of the control process itself."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from llm_gateway.docs_page.page import build_page
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.settings import DEV_KEY, Settings
from tests.application.fixtures import running
from tests.forwarding.harness import KEY, request, served
from tests.in_one_loop import GatewayInOneLoop
from tests.server.harness import WAIT_S, Client, Response

VOLATILE = (
    (re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), b"<id>"),
    (re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)"), b"<time>"),
    (re.compile(rb"spl_[0-9a-f]{32}"), b"<id>"),
    (re.compile(rb'"(secret|last4|version|hash)":"[\w:]+"'), b'"secret":""'),
    (re.compile(rb'"latency_ms":\d+'), b'"latency_ms":0'),
)
NUMBER = re.compile(rb" [\d.e+-]+$", re.MULTILINE)
PROVIDER = (
    b"""{"name": "p", "display_name": "P", "api_key": "k", "models": ["m"], "base_url": "http://127.0.0.1:9/v1"}"""
)
OVERRIDE = b'{"user_id": "u", "service_name": "s", "provider_name": "p", "model_name": "m"}'
PERSON = b'{"name": "n", "password": "correct horse battery"}'
NAMED = b'{"name": "n"}'
BUDGET = b'{"name": "n", "limit_usd": 1}'
TARGET = b'{"name": "n", "kind": "slack", "url": "http://127.0.0.1:9/hook"}'
INVALID = (b"", b"{", b"[]", b"{}", b'{"nme": 1, "models": "m"}', b'"' + b"\xff" + b'"', b"[" * 1000)
BODIES = {
    ("POST", "/api/v1/providers"): (PROVIDER, PROVIDER),  # the second one is a conflict
    ("PATCH", "/api/v1/providers/{provider_id}"): (b'{"display_name": "Q"}',),
    ("POST", "/api/v1/providers/{provider_id}/test"): (b"",),
    ("POST", "/api/v1/overrides"): (OVERRIDE, OVERRIDE),
    ("POST", "/api/v1/keys"): (NAMED, NAMED),
    ("PATCH", "/api/v1/keys/{key_id}"): (b'{"rpm": 5}',),
    ("POST", "/api/v1/keys/{key_id}/rotate"): (b'{"overlap_s": 5}',),
    ("POST", "/api/v1/budgets"): (BUDGET, BUDGET),
    ("PATCH", "/api/v1/budgets/{budget_id}"): (b'{"limit_usd": 5}',),
    ("PUT", "/api/v1/budgets/{budget_id}/override"): (b'{"amount_usd": 5, "until": "2099-01-01T00:00:00Z"}',),
    ("POST", "/v1/organizations/spend_limits"): (b'{"scope": {"type": "organization"}, "amount": "500"}',),
    ("POST", "/api/v1/teams"): (NAMED, NAMED),
    ("POST", "/api/v1/alert-targets"): (TARGET, TARGET),
    ("PATCH", "/api/v1/alert-targets/{alert_target_id}"): (b'{"is_enabled": false}',),
    ("POST", "/api/v1/alert-targets/{alert_target_id}/test"): (b"",),
    ("PATCH", "/api/v1/teams/{team_id}"): (b'{"description": "d"}',),
    ("POST", "/api/v1/people"): (PERSON, PERSON),
    ("PATCH", "/api/v1/people/{person_id}"): (b'{"role": "admin"}',),
    ("POST", "/api/v1/configuration"): (b'{"document": {"teams": [{"name": "t"}]}, "dry_run": true}',),
}
WITH_BODY = ("POST", "PATCH", "PUT")
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"
LAST = "DELETE"


class Route(NamedTuple):
    method: str
    path: str


class World:
    """A gateway on a port, the routes of its management API, and the ids that it gave to what was created."""

    def __init__(self, port: int, routes: list[Route]) -> None:
        self.port = port
        self.routes = routes
        self.ids = {"name": "swagger-ui.css", "record_id": "01890a5d-ac96-774b-bcce-b302099a8057", "user_id": "nobody"}
        self.ids |= dict.fromkeys(("spend_limit_id", "session_id", "host_id"), UNKNOWN_ID)

    async def ask(self, method: str, path: str, body: bytes = b"", *fields: bytes, key: str | None = KEY) -> Response:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            async with asyncio.timeout(WAIT_S):
                filled = path.format_map(self.ids)
                sent = request(method, filled, body, b"x-request-id: fixed", *fields, key=key)
                response = await client.ask(sent, method=method)
        finally:
            await client.close()
        if response.status == 201:
            noun = path.removeprefix("/api/v1/").replace("people", "person").removesuffix("s")
            self.ids[f"{noun.replace('-', '_')}_id"] = response.json["id"]
        return response


def routes_of(app: GatewayInOneLoop) -> list[Route]:
    management = cast(Any, app.control)._entry._management
    return [Route(method, route.path_format) for route in management._routes for method in sorted(route.methods)]


@asynccontextmanager
async def direct_side(data_dir: Path) -> AsyncIterator[World]:
    """Run a gateway whose control process is called directly, behind a gate of its own."""
    async with running(data_dir, log_level="error") as app:
        keys = Keyring(Settings().callers())
        page = build_page(DEV_KEY)
        gate = Gate(app.control, keys, local_only=True, log=app.log, dev_key=DEV_KEY, sign_in_page=page)
        async with served(gate) as (port, _):
            yield World(port, routes_of(app))


@asynccontextmanager
async def forwarded_side(data_dir: Path) -> AsyncIterator[World]:
    """Run a gateway whose management API is reached through its worker."""
    async with running(data_dir, log_level="error") as app, served(app) as (port, _):
        yield World(port, routes_of(app))


@pytest.fixture
async def worlds(migrated: Path, tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(migrated, tmp_path / name / "gateway.db")
    async with direct_side(tmp_path / "one") as direct, forwarded_side(tmp_path / "two") as forwarded:
        yield direct, forwarded


def comparable(path: str, response: Response) -> tuple[int, dict[str, str], bytes]:
    body = response.body
    for pattern, name in VOLATILE:
        body = pattern.sub(name, body)
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    if "location" in headers:
        headers["location"] = headers["location"].rpartition("/")[0]
    if path == "/api/v1/state":  # where the gateway's files are, and how full its disk is
        body = re.sub(rb'LLM_GATEWAY_DATA_DIR","value":"[^"]*|"available_bytes":\d+|"disk_bytes":\d+', b"X", body)
        headers.pop("content-length", None)
    if path == "/metrics":
        body = NUMBER.sub(b" N", body)
        headers.pop("content-length", None)
    return response.status, headers, body


def requests_of(route: Route) -> Iterator[tuple[Any, ...]]:
    """Yield requests for a route: valid and invalid ones, as arguments of `World.ask`."""
    method, path = route
    yield method, path, b"", b"accept: text/html"
    yield method, f"{path}?unknown=1&unknown=2"
    yield method, f"{path}/"
    yield "PUT", path, b"{}"
    if "_id}" in path:
        for unknown in (UNKNOWN_ID, "x", "%2F", "a%20b"):
            yield method, re.sub(r"\{\w+_id\}", unknown, path), *((b"{}",) if method in WITH_BODY else ())
    if method == "GET":
        yield "HEAD", path
        yield "GET", path, b"", b"range: bytes=0-9"
        yield "GET", path, b"{ignored"
    if method in WITH_BODY:
        for body in (*INVALID, *BODIES[route]):
            yield method, path, body
    else:
        yield method, path


async def test_every_route_gives_the_same_responses(worlds: tuple[World, World]) -> None:
    direct, forwarded = worlds
    assert direct.routes == forwarded.routes
    assert len(direct.routes) > 20
    order = sorted(direct.routes, key=lambda route: (route.method == LAST, route.method != "POST", route.path))
    statuses: set[int] = set()
    for world in worlds:
        for path, body in (("/api/v1/providers", PROVIDER), ("/api/v1/overrides", OVERRIDE)):
            assert (await world.ask("POST", path, body)).status == 201
    for route in order:
        for arguments in requests_of(route):
            one, two = [comparable(route.path, await world.ask(*arguments)) for world in worlds]
            assert two == one, arguments
            statuses.add(one[0])
    assert statuses >= {200, 204, 404, 405, 409, 422}


@pytest.mark.parametrize(
    "arguments",
    [
        ("GET", "/api/v1/providers", b"", b"connection: close"),
        ("GET", "/nothing?key=sekret"),
        ("GET", "/provid%3Fkey=sekret"),
        ("GET", "/api/v1/usage/summary?days=7"),
        ("GET", "/docs", b"", b"accept-encoding: gzip"),
        ("POST", "/api/v1/providers", b"x" * 5_000_000),
        ("POST", "/api/v1/providers", b"[" + b"0," * 300_000 + b"0]"),
        ("POST", "/api/v1/providers", b"{" + b",".join(b'"f%d": 1' % n for n in range(101)) + b"}"),
        ("OPTIONS", "/api/v1/providers"),
        ("PROPFIND", "/api/v1/providers", b"<x/>"),
    ],
)
async def test_an_unusual_request_gets_the_same_response(
    worlds: tuple[World, World], arguments: tuple[Any, ...]
) -> None:
    one, two = [comparable(arguments[1], await world.ask(*arguments)) for world in worlds]
    assert two == one
    assert one[0] > 0


async def test_errors_of_the_gate_are_the_same(worlds: tuple[World, World]) -> None:
    for key in (None, "wrong"):
        for path in ("/api/v1/providers", "/docs", "/nothing"):
            one, two = [comparable(path, await world.ask("GET", path, key=key)) for world in worlds]
            assert two == one
            assert one[0] == 401


async def test_without_a_request_id_of_the_client_header_and_body_name_the_same_one(
    worlds: tuple[World, World],
) -> None:
    ids = []
    for world in worlds:
        response = await world.ask("GET", "/nothing", b"", b"x-request-id: not fit for an id")
        assert response.json["request_id"] == response.headers["x-request-id"]
        ids.append(response.headers["x-request-id"])
    assert len({*ids}) == 2
    assert all(len(each) == 36 for each in ids)
