"""Authentication: keys, scopes and hosts; no route answers without a key except the open paths."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, cast
from uuid import UUID

import pytest
from starlette.types import Receive, Scope, Send

from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.gate.authentication import OPEN_PATHS, Gate, Keyring
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.protocols.registry import VENDOR_PATH_PREFIXES, is_call
from tests.application.driver import DEV_KEY, Client, assert_problem, ignore
from tests.in_one_loop import GatewayInOneLoop

ALL = frozenset({"call", "read", "admin"})
KEYS = [
    ("all", "key-of-all", ALL),
    ("caller", "key-of-caller", frozenset({"call"})),
    ("reader", "key-of-reader", frozenset({"read"})),
    ("both", "key-of-both", frozenset({"call", "read"})),
    ("owner", "key-of-owner", frozenset({"admin"})),
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the caller's name, in place of the application behind authentication."""
    context: RequestContext = scope[REQUEST_CONTEXT]
    await send_body(send, 200, (context.caller.name or "nobody").encode(), JSON, [(b"x-request-id", context.echo)])


@pytest.fixture
def gate() -> Client:
    return Client(Gate(inside, Keyring(KEYS), local_only=True, log=ignore), key=None)


def routes(app: GatewayInOneLoop) -> Iterator[tuple[str, str]]:
    """Yield all registered paths with each of their methods."""
    worker, control = cast(Any, app.worker), cast(Any, app.control)
    planes = worker._entry._app
    for path in planes._endpoints:
        yield "GET" if path.endswith("/models") or path in {*OPEN_PATHS, "/metrics"} else "POST", path
    for start, methods in planes._methods.items():
        for method in methods:
            yield "POST", f"{start}ID:{method}"
    for start in planes._below:
        yield "GET", start + "ID"
    waiting = list(control._entry._management._app.routes)
    for route in waiting:
        if hasattr(route, "original_router"):
            waiting.extend(route.original_router.routes)
            continue
        for method in route.methods:
            yield method, re.sub(r"\{.*?\}", new_id(), route.path)


async def test_no_route_answers_without_a_key(app: GatewayInOneLoop) -> None:
    client = Client(app, key=None)
    found = set(routes(app))
    assert {path for _, path in found} >= {
        "/api/v1/generate",
        "/api/v1/health",
        "/api/v1/health/providers",
        "/api/v1/providers",
        "/api/v1/usage/summary",
        "/openapi.json",
        "/docs",
        "/api/v1/overrides",
        "/api/v1/usage/by-customer",
        "/metrics",
        "/healthz",
        "/readyz",
    }
    unknown = {(method, path) for method in METHODS for path in ("/", "/docs/", "/redoc", "/nothing", "/api/v1", "*")}
    wrong = {(method, path) for method in METHODS for _, path in found}
    for method, path in sorted(found | unknown | wrong):
        response = await client.call(method, path)
        assert ("x-gateway-request-id" in response.headers) == is_call(path), path
        if method in ("GET", "HEAD") and path in OPEN_PATHS:
            assert response.status in (200, 405)
        elif path.startswith(VENDOR_PATH_PREFIXES):
            assert (response.status, set(response.json) & {"error"}) == (401, {"error"})
        else:
            problem = assert_problem(response, 401, "unauthorized")
            assert path == "/" or path not in problem["detail"]


async def test_open_paths_are_the_first_page_and_those_of_the_reference() -> None:
    assert {"/", "/api/v1/health", "/healthz", "/readyz"} == OPEN_PATHS


@pytest.mark.parametrize("path", ["/api/v1/health/", "/api/v1/health/providers", "/API/V1/HEALTH", "//api/v1/health"])
async def test_a_path_that_only_resembles_an_open_one_needs_a_key(gate: Client, path: str) -> None:
    assert_problem(await gate.call("GET", path), 401, "unauthorized")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-service-key": "key-of-all"},
        {"X-SERVICE-KEY": "  key-of-all "},
        {"x-api-key": "key-of-all"},
        {"x-goog-api-key": "key-of-all"},
        {"authorization": "Bearer key-of-all"},
        {"authorization": "bearer   key-of-all"},
        {"authorization": "Basic dXNlcjpwYXNz", "x-service-key": "key-of-all"},
        {"authorization": "Bearer key-of-all", "x-service-key": "key-of-all", "x-api-key": "key-of-all"},
    ],
)
async def test_the_key_is_taken_from_each_of_the_three_headers(gate: Client, headers: dict[str, str]) -> None:
    response = await gate.call("DELETE", "/anything", headers=headers)
    assert (response.status, response.body) == (200, b"all")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-service-key": ""},
        {"x-service-key": "key-of-al"},
        {"x-service-key": "key-of-all2"},
        {"x-service-key": "KEY-OF-ALL"},
        {"x-service-key": b"\xff\x00\xfe"},
        {"x-service-key": "x" * 30_000},
        {"x-service-key": "all"},
        {"x-service-key": "all:key-of-all"},
        {"authorization": "key-of-all"},
        {"authorization": "Basic key-of-all"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"cookie": "x-service-key=key-of-all"},
    ],
)
async def test_every_failure_is_a_401_that_repeats_nothing_of_the_key(
    gate: Client, headers: dict[str, str | bytes]
) -> None:
    response = await gate.call("GET", "/secret-path?key=key-of-all", headers=headers)
    problem = assert_problem(response, 401, "unauthorized")
    assert problem["detail"].endswith("Send a service key of the gateway as `X-Service-Key: KEY`.")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-should-retry"] == "false"
    assert "key-of" not in response.body.decode()
    for value in headers.values():
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        assert len(text) < 4 or text.startswith("Bearer") or text not in response.body.decode()


async def test_all_unknown_keys_get_the_same_sentence(gate: Client) -> None:
    keys = ("key-of-al", "key-of-all2", "KEY-OF-ALL", "all", "all:key-of-all", "y" * 30_000)
    found = {(await gate.call("GET", "/x", headers={"x-service-key": key})).json["detail"] for key in keys}
    assert len(found) == 1
    assert "not known" in found.pop()


@pytest.mark.parametrize(
    "headers",
    [
        [("x-service-key", "key-of-all"), ("x-api-key", "key-of-caller")],
        [("x-service-key", "key-of-all"), ("x-service-key", "key-of-caller")],
        [("x-service-key", "key-of-all"), ("x-service-key", "wrong"), ("x-api-key", "wrong")],
        [("x-service-key", "wrong"), ("authorization", "Bearer key-of-all")],
        [("x-service-key", ""), ("x-api-key", "key-of-all"), ("x-goog-api-key", "wrong")],
        [("authorization", "Bearer first-key"), ("authorization", "Bearer second-key")],
        [("authorization", "Bearer key-of-all"), ("x-api-key", "wrong")],
    ],
)
async def test_two_different_keys_are_rejected_unless_one_comes_first(
    gate: Client, headers: list[tuple[str, str]]
) -> None:
    response = await gate.call("GET", "/anything", headers=headers)
    assert_problem(response, 400, "bad_request")
    for _, value in headers:
        assert len(value) < 4 or value.removeprefix("Bearer ") not in response.body.decode()


FOREIGN = ["unused", "sk-of-a-vendor", "eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "key-of-all"]
"""Values of other credential headers: what SDKs insist on, what proxies add, and the same key once more."""


async def test_the_gateways_own_header_comes_before_those_of_vendors_and_proxies(gate: Client) -> None:
    """Every path, the vendors' SDKs' among them: their dummy keys and a mesh's tokens are not for the gateway."""
    gemini = "/v1beta/models/m:generateContent"
    for path in (
        *("/api/v1/generate", "/api/v1/providers", "/metrics", "/nothing", "/v1/chat/completions", "/v1/responses"),
        *("/v1/messages", "/v1/models", gemini, f"{gemini}?key=other"),
    ):
        for value in FOREIGN:
            others = [("authorization", f"Bearer {value}"), ("x-api-key", value), ("x-goog-api-key", value)]
            for headers in ([("x-service-key", "key-of-all"), *others], [*others, ("x-service-key", "key-of-all")]):
                response = await gate.call("POST", path, headers=headers)
                assert (response.status, response.body) == (200, b"all"), (path, headers)
                wrong = [(name, "wrong" if name == "x-service-key" else "unused") for name, _ in headers]
                assert (await gate.call("POST", path, headers=wrong)).status == 401


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui.css", "/openapi.json", "/api/v1/providers", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_no_path_accepts_the_key_as_basic_password(gate: Client, method: str, path: str) -> None:
    """Browsers attach Basic credentials by themselves, also to requests that other sites cause."""
    credentials = base64.b64encode(b"me:key-of-all").decode()
    response = await gate.call(method, path, headers={"authorization": f"Basic {credentials}"})
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("key", "method", "path", "allowed"),
    [
        ("caller", "POST", "/api/v1/generate", True),
        ("caller", "GET", "/api/v1/generate", True),
        ("caller", "POST", "/v1/chat/completions", True),
        ("caller", "GET", "/v1/models", True),
        ("caller", "GET", "/api/v1/providers", False),
        ("caller", "GET", "/metrics", False),
        ("caller", "GET", "/openapi.json", False),
        ("caller", "GET", "/nothing", False),
        ("caller", "POST", "/api/v1/generate/", False),
        ("reader", "GET", "/api/v1/usage/summary", True),
        ("reader", "HEAD", "/api/v1/providers", True),
        ("reader", "GET", "/metrics", True),
        ("reader", "POST", "/api/v1/generate", False),
        ("reader", "POST", "/api/v1/providers", False),
        ("reader", "PATCH", "/api/v1/providers/x", False),
        ("reader", "DELETE", "/api/v1/providers/x", False),
        ("reader", "OPTIONS", "/api/v1/providers", False),
        ("both", "POST", "/api/v1/generate", True),
        ("both", "GET", "/api/v1/usage/summary", True),
        ("both", "POST", "/api/v1/providers", False),
        ("owner", "POST", "/api/v1/generate", True),
        ("owner", "GET", "/api/v1/usage/summary", True),
        ("owner", "DELETE", "/api/v1/providers/x", True),
    ],
)
async def test_a_request_needs_a_key_with_its_scope(
    gate: Client, key: str, method: str, path: str, allowed: bool
) -> None:
    response = await gate.call(method, path, headers={"x-service-key": f"key-of-{key}"})
    if allowed:
        assert (response.status, response.body) == (200, key.encode())
    else:
        assert_problem(response, 403, "forbidden")
        assert response.headers["x-should-retry"] == "false"
        assert f"key-of-{key}" not in response.body.decode()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8200", "127.0.0.1", "127.0.0.1:8200", "[::1]", "[::1]:99", "localhost:1"]
)
async def test_dev_accepts_the_hosts_of_loopback(gate: Client, host: str) -> None:
    response = await gate.call("GET", "/x", headers={"x-service-key": "key-of-all"}, host=host)
    assert response.status == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "localhost.evil.example",
        "evil.example:8200",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "localhost:",
        "localhost:8200:1",
        "localhost, evil.example",
        "[::1",
        "0.0.0.0",
        "user@localhost",
    ],
)
async def test_dev_rejects_any_other_host(gate: Client, host: str | None) -> None:
    for path in ("/x", "/api/v1/health"):
        response = await gate.call("GET", path, headers={"x-service-key": "key-of-all"}, host=host)
        assert_problem(response, 403, "forbidden")
        assert not host or host not in response.json["detail"] or host in "localhost, 127.0.0.1 or [::1]"
        assert "LLM_GATEWAY_ALLOWED_HOSTS" in response.json["detail"]


@pytest.mark.parametrize("host", ["gateway", "GATEWAY:8200", "box.internal:1"])
async def test_dev_answers_to_hosts_that_are_allowed(host: str) -> None:
    client = Client(own_hosts_gate(), "key-of-all")
    assert (await client.call("GET", "/x", host=host)).status == 200


@pytest.mark.parametrize("host", ["gateway.evil.example", "gateway:", "gateway:x", "gateway:1:2", "", None, "internal"])
async def test_an_allowed_host_lets_no_other_in(host: str | None) -> None:
    client = Client(own_hosts_gate(), "key-of-all")
    assert_problem(await client.call("GET", "/x", host=host), 403, "forbidden")


def own_hosts_gate() -> Gate:
    names = frozenset({"gateway", "box.internal"})
    return Gate(inside, Keyring(KEYS), local_only=True, log=ignore, allowed_hosts=names)


async def test_production_accepts_any_host() -> None:
    client = Client(Gate(inside, Keyring(KEYS), local_only=False, log=ignore), "key-of-all")
    assert (await client.call("GET", "/x", host="gateway.example")).status == 200


async def test_the_dev_key_is_valid_in_dev_only(gate: Client, app: GatewayInOneLoop) -> None:
    assert (await Client(app, DEV_KEY).call("GET", "/api/v1/providers")).status == 200
    assert_problem(await gate.call("GET", "/x", headers={"x-service-key": DEV_KEY}), 401, "unauthorized")


async def test_open_paths_need_no_key_and_grant_no_scope(gate: Client) -> None:
    for path in OPEN_PATHS:
        assert (await gate.call("GET", path)).body == b"nobody"
        assert_problem(await gate.call("POST", path), 401, "unauthorized")


@pytest.mark.parametrize("key", ["key-of-all", None])
async def test_a_clients_own_request_id_is_echoed(gate: Client, key: str | None) -> None:
    client = Client(gate.app, key)
    assert (await client.call("GET", "/x", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    without = await client.call("GET", "/x")
    assert UUID(without.headers["x-request-id"]).version == 7
    if key is None:
        answer = await client.call("GET", "/x", headers={"x-request-id": "mine-1"})
        assert answer.json["request_id"] == answer.headers["x-request-id"] == "mine-1"
        assert without.json["request_id"] == without.headers["x-request-id"]


async def test_every_refusal_of_a_call_has_the_gateways_id_beside_the_clients(gate: Client) -> None:
    """The log has both, so that either finds its line."""
    logged: list[dict[str, Any]] = []
    client = Client(Gate(inside, Keyring(KEYS), local_only=True, log=lambda _, **line: logged.append(line)), None)
    rows: list[tuple[int, list[tuple[str, str]], str]] = [
        (401, [], "localhost"),
        (401, [("x-service-key", "wrong")], "localhost"),
        (403, [("x-service-key", "key-of-reader")], "localhost"),
        (403, [("x-service-key", "key-of-all")], "elsewhere"),
        (400, [("x-api-key", "one"), ("x-api-key", "two")], "localhost"),
    ]
    for path in ("/api/v1/generate", "/v1/messages", "/v1/models", "/v1beta/models/m:generateContent", "/v1/nothing"):
        for status, headers, host in rows:
            response = await client.call("POST", path, headers=[*headers, ("x-request-id", "mine")], host=host)
            [line] = logged
            ids = (line["request_id"], line["client_request_id"])
            assert (response.status, *ids) == (status, response.headers["x-gateway-request-id"], "mine")
            logged.clear()


@pytest.mark.parametrize("own", ["", "with blank", "x" * 129, "tab\there", "umläut", "a\x00b"])
async def test_an_invalid_request_id_is_not_echoed(gate: Client, own: str) -> None:
    echoed = (await gate.call("GET", "/x", headers={"x-request-id": own})).headers["x-request-id"]
    assert UUID(echoed).version == 7


async def test_events_other_than_requests_pass_without_a_key(gate: Client) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await Gate(app, Keyring(KEYS), local_only=True, log=ignore)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
