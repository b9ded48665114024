"""Invalid bodies, fields, headers and parameters over the wire are rejected with a clear error and no side effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.process import GatewayProcess
from tests.e2e.wire import Answer, Wire, ask, chunks, is_problem, request
from tests.rows import each_row
from tests.upstream import UpstreamProcess

GENERATE = "/api/v1/generate"
PROVIDERS = "/api/v1/providers"
OVERRIDES = "/api/v1/overrides"
MIB = 1024 * 1024
CALL: dict[str, Any] = {"user_id": "u", "service": "s", "prompt": "p"}
PROVIDER: dict[str, Any] = {
    "name": "n", "display_name": "d", "api_key": "k", "models": ["m"], "base_url": "http://127.0.0.1:1/v1",
}  # fmt: skip


@pytest.fixture(scope="module")
def busy(running: GatewayProcess, vendor: UpstreamProcess) -> str:
    """Configure a provider. Returns its path."""
    return running.provider("acme", vendor.base_url)


@pytest.fixture(scope="module")
def watched(running: GatewayProcess, vendor: UpstreamProcess, busy: str) -> Iterator[GatewayProcess]:
    """Check after all tests that only served requests were recorded, the providers kept, and no defect logged."""
    vendor.reset()
    before = running.summary()["total_requests"]
    providers = running.call("GET", PROVIDERS).json
    yield running
    assert running.summary()["total_requests"] == before + vendor.seen().total
    assert running.call("GET", PROVIDERS).json == providers
    assert "Traceback" not in running.log
    assert '"level": "error"' not in running.log


@pytest.fixture(autouse=True)
def served(watched: GatewayProcess) -> Iterator[None]:
    """Check after each test that the gateway still serves."""
    yield
    assert watched.ask("still there?").status == 200


@pytest.fixture
def port(running: GatewayProcess) -> int:
    return running.port


def invalid(answer: Answer) -> dict[str, Any]:
    problem = is_problem(answer, 422, "validation_error")
    assert problem["errors"]
    for error in problem["errors"]:
        assert set(error) == {"loc", "msg", "type"}
        assert error["loc"][0] in ("body", "query")
        assert len(json.dumps(error)) < 2000, "what was sent is not sent back"
    return problem


# Bodies that are not a JSON object

DEEP = 100_000
NO_OBJECTS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("blanks", b" \r\n"),
    ("an array", b"[]"),
    ("a string", b'"user_id"'),
    ("a number", b"1"),
    ("null", b"null"),
    ("half of one", b'{"user_id":'),
    ("words", b"user_id=u&service=s"),
    ("two of them", b"{}{}"),
    ("a trailing comma", b'{"user_id":"u",}'),
    ("a comment", b"{} // none"),
    ("single quotes", b"{'user_id':'u'}"),
    ("a byte order mark", b"\xef\xbb\xbf{}"),
    ("UTF-16", "{}".encode("utf-16")),
    ("invalid UTF-8", b'{"user_id":"\xff"}'),
    ("an overlong NUL", b'{"user_id":"\xc0\x80"}'),
    ("a surrogate in UTF-8", b'{"user_id":"\xed\xa0\x80"}'),
    ("half a pair", b'{"user_id":"\\ud800"}'),
    ("the other half", b'{"user_id":"\\udc00"}'),
    ("half a pair as a name", b'{"\\ud800":1}'),
    ("invalid UTF-8 as a name", b'{"\xff":1}'),
    ("a raw control character", b'{"user_id":"\x01"}'),
    ("deep arrays", b"[" * DEEP),
    ("deep arrays that end", b"[" * DEEP + b"]" * DEEP),
    ("deep objects", b'{"a":' * 15_000),
    ("depth in a field", b'{"user_id":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    ("depth in an unknown field", b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    ("NaN", b'{"temperature":NaN}'),
    ("Infinity", b'{"temperature":Infinity}'),
    ("minus Infinity", b'{"temperature":-Infinity}'),
    ("more than a float", b'{"temperature":1e400}'),
    ("more than an int", b'{"max_tokens":' + b"1" * 5000 + b"}"),
    ("a hexadecimal number", b'{"max_tokens":0x10}'),
    ("a leading zero", b'{"max_tokens":010}'),
    ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
]


@each_row("body", [body for _, body in NO_OBJECTS])
def test_a_body_that_is_not_a_json_object_is_rejected(port: int, busy: str, body: bytes) -> None:
    invalid(ask(port, request("POST", GENERATE, body)))
    invalid(ask(port, request("POST", PROVIDERS, body)))
    invalid(ask(port, request("PATCH", busy, body)))
    invalid(ask(port, request("POST", GENERATE, None, "transfer-encoding: chunked") + chunks(body)))


# Fields

HALF_A_PAIR = "\ud800"
LONG = "x" * 100_000
CALLS: list[tuple[dict[str, Any], str]] = [
    *(({name: value}, name) for name in ("user_id", "service", "task_type") for value in ("", "\0", "a\0b", LONG)),
    *(({name: value}, name) for name in CALL for value in (None, 1, True, ["u"], {"a": "b"})),
    ({"prompt": ""}, "prompt"),
    *(({"system": value}, "system") for value in (None, 0, True)),
    *(({"max_tokens": value}, "max_tokens") for value in (0, -1, 8001, 1.5, "1", True, None, 10**30)),
    *(({"temperature": value}, "temperature") for value in (-0.1, 2.0001, "0.5", True, None, 10**400)),
    *(({"json_mode": value}, "json_mode") for value in (1, 0, "true", None)),
    ({"streams": False}, "streams"),
    ({"Prompt": "p"}, "Prompt"),
    ({"": 1}, ""),
    ({"a\nb\0": 1}, "a"),
    ({LONG: 1}, "xxx"),
]


@each_row(("fields", "name"), CALLS)
def test_an_invalid_field_of_a_request_is_named(port: int, fields: dict[str, Any], name: str) -> None:
    problem = invalid(ask(port, request("POST", GENERATE, json.dumps({**CALL, **fields}).encode())))
    assert name in problem["detail"]


@pytest.mark.parametrize("name", list(CALL))
def test_a_request_without_a_required_field_is_rejected(port: int, name: str) -> None:
    body = {key: value for key, value in CALL.items() if key != name}
    problem = invalid(ask(port, request("POST", GENERATE, json.dumps(body).encode())))
    assert problem["errors"] == [{"loc": ["body", name], "msg": f"{name} is required.", "type": "missing"}]


@pytest.mark.parametrize("name", ["user_id", "service", "task_type", "prompt", "system", "unknown"])
def test_a_lone_surrogate_in_a_request_is_rejected(port: int, busy: str, name: str) -> None:
    for value in (HALF_A_PAIR, f"a{HALF_A_PAIR}b", "\udfff\ud800"):
        invalid(ask(port, request("POST", GENERATE, json.dumps({**CALL, name: value}).encode())))
        raw = json.dumps({**CALL, name: "?"}).encode().replace(b"?", value.encode("utf-8", "surrogatepass"))
        invalid(ask(port, request("POST", GENERATE, raw)))


NOTHING: list[object] = []
UNPRICED: list[object] = [1, [], {"m": 1}, {"m": {}}, {"m": {"input": -1, "output": 1}}, {"m": {"\0": 1}}]
ENTRIES: list[dict[str, Any]] = [
    *({name: value} for name in ("name", "display_name") for value in ("", "\0", "a\nb", LONG, None, 1)),
    *({"name": value} for value in ("A", "-a", "a b", "é", "a" * 64, "../a")),
    *({"api_key": value} for value in ("", " ", "\0", "é", "a b\r\nx: y", LONG, None, 1)),
    *({"base_url": value} for value in ("", "\0", "host/v1", "ftp://h/", "http://", "http://u:p@h/", "http://h/?a")),
    *({"base_url": value} for value in ("http://h/#a", "http://h:99999/", "http://[::1", f"http://{LONG}/", 1)),
    *({"base_url": value} for value in ("http://h/\n", "http://é/", "http://h h/", "//h/v1", "http:\\\\h")),
    *({"models": value} for value in (NOTHING, [1], ["m"] * 1001)),
    *({"models": value} for value in ([""], ["\0"], [LONG])),
    *({"models": value} for value in ("m", None, 1)),
    *({"kind": value} for value in ("", "\0", "soap", 1)),
    *({name: value} for name in ("rate_limit_rpm", "rate_limit_tpm") for value in (0, -1, 1.5, "1", True, None, 2**63)),
    *({"priority": value} for value in (2**31, -(2**31) - 1, 1.5, "1", None)),
    *({"timeout_s": value} for value in (0, -1, 3601, "1", None, True)),
    *({"is_enabled": value} for value in (1, "true", None)),
    *({"prices": value} for value in UNPRICED),
    *({"prices": {"m": {"input": value, "output": 1}}} for value in (1e300, "1", None, True)),
    *({name: 1} for name in ("id", "created_at", "unknown", "", "a\0", LONG)),
]  # fmt: skip


@each_row("fields", ENTRIES)
def test_an_invalid_field_of_a_provider_is_named(port: int, busy: str, fields: dict[str, Any]) -> None:
    created = invalid(ask(port, request("POST", PROVIDERS, json.dumps({**PROVIDER, **fields}).encode())))
    changed = invalid(ask(port, request("PATCH", busy, json.dumps(fields).encode())))
    for problem in (created, changed):
        [error] = problem["errors"]
        assert next(iter(fields))[:10].replace("\0", "\ufffd") in [str(part)[:10] for part in error["loc"]]


@pytest.mark.parametrize("name", [*PROVIDER, "kind", "prices"])
def test_a_lone_surrogate_in_a_provider_is_rejected(port: int, busy: str, name: str) -> None:
    value = {"models": [HALF_A_PAIR], "prices": {HALF_A_PAIR: {"input": 1, "output": 1}}}.get(name, HALF_A_PAIR)
    invalid(ask(port, request("POST", PROVIDERS, json.dumps({**PROVIDER, name: value}).encode())))
    invalid(ask(port, request("PATCH", busy, json.dumps({name: value}).encode())))


OVERRIDE: dict[str, Any] = {"user_id": "u", "provider_name": "acme", "model_name": "ok"}
CHANGES: list[dict[str, Any]] = [
    *({name: value} for name in (*OVERRIDE, "service_name") for value in ("", "\0", LONG, 1, True)),
    *({name: None} for name in OVERRIDE),
    *({"allow_fallback": value} for value in (0, "false", None)),
    {"provider_name": "nobody"},
    {"model_name": "another"},
    {"unknown": 1},
]


@each_row("fields", CHANGES)
def test_an_invalid_field_of_an_override_is_named(port: int, fields: dict[str, Any]) -> None:
    [error] = invalid(ask(port, request("POST", OVERRIDES, json.dumps({**OVERRIDE, **fields}).encode())))["errors"]
    assert next(iter(fields)) in error["loc"]
    assert json.loads(ask(port, request("GET", OVERRIDES)).body) == []


@pytest.mark.parametrize("name", [*OVERRIDE, "service_name"])
def test_a_lone_surrogate_in_an_override_is_rejected(port: int, name: str) -> None:
    invalid(ask(port, request("POST", OVERRIDES, json.dumps({**OVERRIDE, name: HALF_A_PAIR}).encode())))


@each_row("body", [body for _, body in NO_OBJECTS])
def test_an_override_that_is_not_an_object_is_rejected(port: int, body: bytes) -> None:
    invalid(ask(port, request("POST", OVERRIDES, body)))


def test_a_long_list_of_field_errors_is_cut(port: int) -> None:
    problem = invalid(ask(port, request("POST", PROVIDERS, json.dumps({**PROVIDER, "models": [1] * 1000}).encode())))
    assert len(problem["errors"]) == 20


# Unusual but valid values


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b'{"user_id":"u","service":"s","prompt":"first","prompt":"last"}', "last"),
        (b' \t\r\n{"user_id":"u","service":"s","prompt":"\\ud83d\\ude00"} \n', "\U0001f600"),
        (b'{"user_id":"u","service":"s","prompt":"\\u0000\\u001f\x7f"}', "\0\x1f\x7f"),
        (b'{"user_id":" u","service":"\xe2\x80\xae","prompt":" "}', " "),
        (b'{"user_id":"u","service":"s","prompt":"\\/","temperature":-0.0,"max_tokens":8000}', "/"),
    ],
)
def test_unusual_but_valid_values_are_sent_unchanged(
    port: int, vendor: UpstreamProcess, body: bytes, prompt: str
) -> None:
    assert ask(port, request("POST", GENERATE, body, "cache-control: no-store")).status == 200
    bill = vendor.seen().calls[-1]
    assert bill.json["messages"][-1]["content"] == prompt


# Size


def filled(fields: dict[str, Any], name: str, size: int) -> bytes:
    """Return a body of exactly this size, with its field `name` padded."""
    short = json.dumps({**fields, name: ""}).encode()
    return json.dumps({**fields, name: "x" * (size - len(short))}).encode()


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("path", [GENERATE, PROVIDERS])
def test_a_body_of_4_mib_is_accepted_and_a_byte_more_is_not(
    port: int, path: str, waits: bool, is_chunked: bool
) -> None:
    fields, name = (CALL, "prompt") if path == GENERATE else (PROVIDER, "display_name")
    for size in (4 * MIB, 4 * MIB + 1):
        body = filled(fields, name, size)
        framing = "transfer-encoding: chunked" if is_chunked else f"content-length: {size}"
        waiting = ["expect: 100-continue"] if waits else []
        head = request("POST", path, None, framing, "cache-control: no-store", *waiting)
        with Wire(port) as wire:
            wire.send(head)
            if waits:
                assert wire.answer().status == 100
            wire.send(chunks(body) if is_chunked else body)
            answer = wire.answer()
            if size > 4 * MIB:
                is_problem(answer, 413, "payload_too_large")
                assert wire.is_closed()
            elif path == GENERATE:
                assert answer.status == 200
            else:
                invalid(answer)


def test_a_large_body_with_too_many_values_is_rejected(port: int) -> None:
    deep = b'{"a":' * DEEP
    is_problem(ask(port, request("POST", GENERATE, deep)), 413, "payload_too_large")
    invalid(ask(port, request("POST", PROVIDERS, deep)))


def test_a_body_that_never_ends_is_cut_off(port: int) -> None:
    with Wire(port) as wire:
        wire.send(request("POST", GENERATE, None, "transfer-encoding: chunked"))
        piece = b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
        try:
            for _ in range(64):
                wire.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            return  # sending continued after the response until the gateway closed the connection
        is_problem(wire.answer(), 413, "payload_too_large")


def test_without_a_key_no_body_is_requested(port: int) -> None:
    data = request("POST", GENERATE, None, "content-length: 1000000000", "expect: 100-continue")
    with Wire(port) as wire:
        wire.send(data.replace(b"x-service-key", b"x-other"))
        is_problem(wire.answer(), 401, "unauthorized")
        assert wire.is_closed()


# Headers that the gateway reads


@pytest.mark.parametrize(
    "header",
    [
        *(f"x-request-timeout-ms: {value}" for value in ("abc", "", "0", "-1", "1.5", "1e3", "0x10", "000")),
        b"x-request-timeout-ms: \xd9\xa1",
        *(f"x-tags: {value}" for value in ("a", "", "=", "=b", "a=b,", "a=b=c", "a b=c", "é=1", "k=" + "v" * 65)),
        "x-tags: " + ",".join(f"k{number}=v" for number in range(11)),
        "x-service-key: another",
    ],
)
def test_a_malformed_header_is_rejected_by_name(port: int, header: str | bytes) -> None:
    is_problem(ask(port, request("POST", GENERATE, json.dumps(CALL).encode(), header)), 400, "bad_request")


@pytest.mark.parametrize("own", ["", " ", "a b", "a" * 129, "é"])
def test_an_invalid_request_id_is_not_echoed(port: int, own: str) -> None:
    data = request("POST", GENERATE, b"{}").replace(b"x-request-id: mine-1", b"x-request-id: " + own.encode())
    is_problem(ask(port, data), 422, "validation_error", echo=None)


@pytest.mark.parametrize(
    "header", ["content-type: text/plain", "content-type: \xff", "accept: image/png", "cache-control: \x80", "x: " * 99]
)
def test_odd_values_of_other_headers_are_ignored(port: int, header: str) -> None:
    body = json.dumps({**CALL, "prompt": header}).encode()
    assert ask(port, request("POST", GENERATE, body, header.encode("latin-1"))).status == 200


# Parameters


@pytest.mark.parametrize("value", ["abc", "1e3", "0", "366", "-1", "", "%00", "1%00", "٣", "9" * 5000, "true", "[1]"])
def test_an_invalid_parameter_is_named(port: int, value: str) -> None:
    for path, name in (("usage/summary", "days"), ("usage/by-provider", "days"), ("usage/by-service", "days")):
        problem = invalid(ask(port, request("GET", f"/api/v1/{path}?{name}={quote(value, safe='%')}")))
        assert problem["errors"][0]["loc"] == ["query", name]
    limit = "501" if value == "366" else value
    problem = invalid(ask(port, request("GET", f"/api/v1/usage/by-customer?limit={quote(limit, safe='%')}")))
    assert problem["errors"][0]["loc"] == ["query", "limit"]


@pytest.mark.parametrize("value", ["", "%00", "a%00b", "x" * 257])
def test_an_invalid_customer_to_filter_by_is_rejected(port: int, value: str) -> None:
    problem = invalid(ask(port, request("GET", f"{OVERRIDES}?user_id={value}")))
    assert problem["errors"][0]["loc"] == ["query", "user_id"]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/api/v1/usage/summary?day=7", "day"),
        ("/api/v1/usage/summary?DAYS=7", "DAYS"),
        ("/api/v1/usage/summary?days=7&days=7", "days"),
        ("/api/v1/usage/summary?days[]=7", "days[]"),
        ("/api/v1/usage/by-customer?limit=1&offset=1", "offset"),
        ("/api/v1/providers?limit=1", "limit"),
        ("/api/v1/providers?%00", "\ufffd"),
        ("/api/v1/health/providers?" + "a" * 10_000, "a" * 49 + "\u2026" + "a" * 50),
        ("/api/v1/overrides?user=u", "user"),
        ("/api/v1/providers/x?limit=1", "limit"),
    ],
)
def test_an_unknown_parameter_is_rejected(port: int, target: str, name: str) -> None:
    problem = invalid(ask(port, request("GET", target)))
    assert problem["errors"][0]["loc"] == ["query", name]


@pytest.mark.parametrize("target", ["/api/v1/usage/summary?", "/api/v1/health?t=1", "/metrics?a=b", "/healthz?x"])
def test_an_empty_query_and_parameters_of_probes_are_ignored(port: int, target: str) -> None:
    assert ask(port, request("GET", target)).status == 200
