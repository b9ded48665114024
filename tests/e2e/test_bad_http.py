"""Malformed HTTP over the wire: paths, methods, request heads, framing, and other protocols."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.wire import MINE, Answer, Wire, ask, is_problem, request
from tests.rows import each_row
from tests.upstream import UpstreamProcess

GENERATE = "/api/v1/generate"
PROVIDERS = "/api/v1/providers"
HEALTH = "/api/v1/health"
UNKNOWN = "01a2071a-648b-7caa-b3db-aca1d1e5ccc1"
CALL = b'{"user_id":"u","service":"s","prompt":"p"}'
HEAD_S = 10.0
"""Seconds within which a request head must arrive."""
KIB = 1024


@pytest.fixture(scope="module")
def slow(running: GatewayProcess) -> Iterator[tuple[Wire, float]]:
    """Send half a request head before all other tests. Yields the connection and the time."""
    with Wire(running.port) as wire:
        wire.send(request("GET", HEALTH)[:-2] + b"x-slow: ")
        yield wire, time.monotonic()


@pytest.fixture(autouse=True)
def served(running: GatewayProcess, vendor: UpstreamProcess, slow: object) -> Iterator[None]:
    """Check after each test that the gateway still serves, recorded only served requests, and logged no defect."""
    vendor.reset()
    if not running.call("GET", PROVIDERS).json:
        running.provider("acme", vendor.base_url)
    before = running.summary()["total_requests"]
    yield
    assert running.call("GET", HEALTH, key=None).json["status"] == "ok"
    assert running.summary()["total_requests"] == before + vendor.seen().total
    assert "Traceback" not in running.log
    assert '"level": "error"' not in running.log


@pytest.fixture
def port(running: GatewayProcess) -> int:
    return running.port


def echo_if_read(answer: Answer) -> str | None:
    """Return the client's id if the response has it; packet boundaries decide if the server has read it."""
    return MINE if answer.headers["x-request-id"] == MINE else None


# Paths


@each_row(
    "path",
    [
        "/nothing", "//", "/api/v1/providers/", "/api/v1//providers", "//api/v1/providers", "/api/v1/generate/",
        "/API/V1/PROVIDERS", "/api/v1/../v1/providers", "/api/v1/health/..%2fproviders", "/api/v1/generate%3Fx",
        "/api/v1/providers%00", "/api/v1/generate%0d%0ax-a:%20b", "/%", "/%zz", "/%ff", "*", "/" + "a" * 30_000,
        f"{PROVIDERS}/..", f"{PROVIDERS}/.", f"{PROVIDERS}/0", f"{PROVIDERS}/%00", f"{PROVIDERS}/%C3%A9",
        f"{PROVIDERS}/%ff", f"{PROVIDERS}/{UNKNOWN}", f"{PROVIDERS}/{UNKNOWN}%00", f"{PROVIDERS}/{{{UNKNOWN}}}",
        f"{PROVIDERS}/urn:uuid:{UNKNOWN}", f"{PROVIDERS}/{UNKNOWN.replace('-', '')}", f"{PROVIDERS}/{'9' * 5000}",
        f"{PROVIDERS}/{UNKNOWN}/more", f"{PROVIDERS}/a%2Fb", f"{PROVIDERS}/' OR 1=1 --".replace(" ", "%20"),
    ],
)  # fmt: skip
def test_an_unknown_path_is_404(port: int, path: str) -> None:
    for method in ("GET", "DELETE"):
        is_problem(ask(port, request(method, path)), 404, "not_found")
    is_problem(ask(port, request("PATCH", path, b"{}")), 404, "not_found")


@each_row("path", ["/nothing", "/api/v1//providers", PROVIDERS, GENERATE, f"{PROVIDERS}/0", "*", "/%00"])
@each_row("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_without_a_valid_key_all_paths_are_401(port: int, path: str, method: str) -> None:
    data = request(method, path, b"{" if method == "POST" else None)
    is_problem(ask(port, data.replace(KEY.encode(), b"another")), 401, "unauthorized")


@pytest.mark.parametrize(
    "target", [b"/\xc3\xa9", b"/a b", b"/a\tb", b"/\x00", b"", b"api", b"?", b"http://[/", b"/\x7f"]
)
def test_an_invalid_request_target_is_rejected(port: int, target: bytes) -> None:
    answer = ask(port, request("GET", target))
    is_problem(answer, 400, "bad_request", echo=echo_if_read(answer))


# Methods


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (GENERATE, "POST"),
        (PROVIDERS, "GET, HEAD, POST"),
        (f"{PROVIDERS}/{UNKNOWN}", "DELETE, GET, HEAD, PATCH"),
        (f"{PROVIDERS}/{UNKNOWN}/test", "POST"),
        ("/api/v1/overrides", "GET, HEAD, POST"),
        (f"/api/v1/overrides/{UNKNOWN}", "DELETE"),
        (HEALTH, "GET, HEAD"),
        ("/api/v1/usage/summary", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
    ],
)
def test_an_unsupported_method_is_405_with_allow(port: int, path: str, allowed: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - set(allowed.split(", ")):
        answer = ask(port, request(method, path))
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_a_response_to_head_has_no_body(port: int) -> None:
    with Wire(port) as wire:
        for path, status in ((GENERATE, 405), ("/nothing", 404), (HEALTH, 200), (PROVIDERS, 200)):
            wire.send(request("HEAD", path))
            answer = wire.answer(bodyless=True)
            assert (answer.status, answer.headers["x-request-id"]) == (status, MINE)
            assert int(answer.headers["content-length"]) > 0
        wire.send(request("GET", PROVIDERS))
        assert wire.answer().status == 200


@pytest.mark.parametrize("method", ["FOO", "get", "", "G\0T", "GET\t", "X" * 1000])
def test_an_unknown_method_is_rejected(port: int, method: str) -> None:
    is_problem(ask(port, request(method, HEALTH)), 400, "bad_request", echo=None)


def test_connect_is_rejected_with_400(port: int) -> None:
    is_problem(ask(port, request("CONNECT", "localhost:1")), 400, "bad_request")


# Heads


def test_a_request_head_that_is_too_large_is_431(port: int) -> None:
    for junk in ("x-a: " + "a" * 300 * KIB, "\r\n".join(["a: b"] * 10_000), "x-a: " + "a" * 33 * KIB):
        is_problem(ask(port, request("GET", HEALTH, None, junk)), 431, "headers_too_large")
    answer = ask(port, request("GET", "/" + "a" * 40_000))
    is_problem(answer, 431, "headers_too_large", echo=echo_if_read(answer))
    assert ask(port, request("GET", HEALTH, None, "x-a: " + "a" * 30 * KIB)).status == 200
    assert ask(port, request("GET", HEALTH, None, "\r\n".join(["a:b"] * 5_000))).status == 200


@pytest.mark.parametrize(
    "header",
    [
        b"no colon", b"na me: x", b"name : x", b": x", b"x: a\x00b", b"x: a\x01b", b"x: a\rb", b"x: 1\r\n folded",
        b"host: evil.example", b"n\xc3\xa9: x",
    ],
)  # fmt: skip
def test_a_malformed_header_is_rejected(port: int, header: bytes) -> None:
    is_problem(ask(port, request("GET", HEALTH, None, b"x: 1", header)), 400, "bad_request")


def test_only_hosts_of_loopback_are_accepted(port: int) -> None:
    for host in ("evil.example", "localhost.evil.example", "localhost:99999999", "", "127.0.0.1@evil", "[::1"):
        is_problem(ask(port, request("GET", HEALTH, host=host)), 403, "forbidden")
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8200"):
        assert ask(port, request("GET", HEALTH, host=host)).status == 200
    without = request("GET", HEALTH).replace(b"host: localhost\r\n", b"")
    is_problem(ask(port, without), 400, "bad_request")


# Framing


@each_row(
    "framing",
    [
        *(f"content-length: {value}" for value in ("-1", "+42", "0x2a", "42, 42", "42,43", "4 2", "", "1e2", "9" * 30)),
        "content-length: 42\r\ncontent-length: 43",
        "content-length: 42\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 42",
        "content-length: 5\r\ntransfer-encoding: identity",
        *(f"transfer-encoding: {value}" for value in ("identity", "gzip", "gzip, chunked", "chunked, gzip")),
        *(f"transfer-encoding: {value}" for value in ("xchunked", "\x0bchunked", "chunk", "chunked;q=1")),
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
    ],
)  # fmt: skip
@each_row("inside", [b"2a\r\n" + CALL + b"\r\n0\r\n\r\n", CALL, b"0\r\n\r\n"])
def test_ambiguous_framing_is_rejected(port: int, framing: str, inside: bytes) -> None:
    """A proxy in front of the gateway must not see other requests in the bytes than the gateway (request smuggling)."""
    with Wire(port) as wire:
        wire.send(request("POST", GENERATE, None, framing) + inside + request("GET", PROVIDERS))
        is_problem(wire.answer(), 400, "bad_request")
        assert wire.is_closed()


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"0x2\r\nhi\r\n", b"2\r\nhello\r\n", b"fffffffffffffffff\r\n"])
def test_malformed_chunks_are_rejected(port: int, chunk: bytes) -> None:
    with Wire(port) as wire:
        wire.send(request("POST", GENERATE, None, "transfer-encoding: chunked") + chunk)
        is_problem(wire.answer(), 400, "bad_request")
        assert wire.is_closed()


def test_a_body_shorter_than_its_content_length_is_rejected(port: int) -> None:
    with Wire(port) as wire:
        wire.send(request("POST", GENERATE, None, f"content-length: {len(CALL) + 1}") + CALL)
        wire.end()
        is_problem(wire.answer(), 400, "bad_request")
        assert wire.is_closed()


def test_bytes_after_the_content_length_are_rejected_as_a_request(port: int) -> None:
    with Wire(port) as wire:
        wire.send(request("POST", GENERATE, None, "content-length: 10") + CALL)
        is_problem(wire.answer(), 422, "validation_error")
        is_problem(wire.answer(), 400, "bad_request", echo=None)
        assert wire.is_closed()


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with Wire(port) as wire:
        wire.send(
            request("POST", GENERATE, CALL, "cache-control: no-store")
            + request("POST", GENERATE, b"{")
            + request("GET", "/nothing")
            + request("POST", GENERATE, CALL, "cache-control: no-store")
            + request("GET", PROVIDERS, None, "no colon")
        )
        assert wire.answer().status == 200
        is_problem(wire.answer(), 422, "validation_error")
        is_problem(wire.answer(), 404, "not_found")
        assert wire.answer().status == 200
        assert wire.answer().status == 400
        assert wire.is_closed()


# Other protocols


def test_http_1_0_requests_are_answered(port: int) -> None:
    with Wire(port) as wire:
        wire.send(request("GET", PROVIDERS).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert isinstance(json.loads(answer.body), list)
        assert wire.is_closed()


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9,
        bytes.fromhex("16030100c8010000c40303") + b"\0" * 190,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 100,
        b"\xff" * 100,
        request("GET", HEALTH).replace(b"HTTP/1.1", b"HTTP/1.2"),
        request("GET", HEALTH).replace(b"HTTP/1.1", b"HTCPCP/1.0"),
        request("GET", HEALTH).replace(b"\r\n", b"\n"),
    ],
)
def test_bytes_of_other_protocols_are_rejected(port: int, data: bytes) -> None:
    with Wire(port) as wire:
        wire.send(data)
        answer = wire.answer()
        is_problem(answer, 400, "bad_request", echo=echo_if_read(answer))
        assert wire.is_closed()


def test_an_upgrade_header_is_ignored(port: int) -> None:
    for protocol in ("websocket", "h2c"):
        upgrade = ("connection: upgrade", f"upgrade: {protocol}", "http2-settings: AAMAAABkAAQAAP__")
        assert ask(port, request("GET", PROVIDERS, None, *upgrade)).status == 200


# Time


def test_a_request_head_that_does_not_end_is_408(slow: tuple[Wire, float]) -> None:
    wire, started = slow
    is_problem(wire.answer(), 408, "request_timeout")
    assert time.monotonic() - started >= HEAD_S
    assert wire.is_closed()
