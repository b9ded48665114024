"""Requests that got an error have exactly one log line with the request id that the client saw."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import KEY, GatewayProcess, until

GENERATED = Path(__file__).with_name("generated_requests.jsonl")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OPEN = {"/healthz", "/readyz", "/api/v1/health"}
BODIES: dict[str, bytes] = {
    "empty": b"",
    "malformed": b"{",
    "no object": b"[]",
    "unknown field": b'{"nope": 1}',
    "not UTF-8": b'{"user_id": "\xff"}',
    "unknown model": b'{"user_id":"u","service":"s","prompt":"p","model":"none"}',
    "chat": b'{"model":"none","max_tokens":5,"messages":[{"role":"user","content":"x"}],"input":"x"}',
    "stream": b'{"model":"none","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"x"}],"input":"x"}',
}


@dataclass(frozen=True)
class Case:
    method: str
    path: str
    body: bytes = b""
    key: str | None = KEY

    def headers(self, own: str | None) -> dict[str, str]:
        given = {"x-service-key": self.key, "x-request-id": own, "content-type": "application/json"}
        return {name: value for name, value in given.items() if value is not None}


def cases(document: dict[str, Any]) -> Iterator[Case]:
    """Yield each operation of the OpenAPI document with each kind of client error."""
    for template, operations in document["paths"].items():
        path = re.sub(r"\{[^}]*\}", str(uuid.UUID(int=0)), template)
        for method in METHODS:
            yield Case(method, path, key=None)
            yield Case(method, path, key="wrong-key-wrong-key")
            if method.lower() not in operations:
                yield Case(method, path)
        for method in (known.upper() for known in operations if known.upper() in METHODS):
            yield Case(method, f"{path}?nope=1&key=sk-canary12345678")
            for body in BODIES.values():
                yield Case(method, path, body)
        yield Case("GET", f"{path}/nope%0d%0a\u2028".encode("ascii", "ignore").decode())


@dataclass
class Seen:
    """The request ids of error responses with their statuses, and those that were the clients' own."""

    statuses: dict[str, int]
    own: set[str]


def ask_all(gateway: GatewayProcess) -> Seen:
    document = gateway.call("GET", "/openapi.json").json
    seen = Seen({}, set())
    numbers = itertools.count()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    for case in cases(document):
        for own in (f"own-{next(numbers)}", None):
            connection.request(case.method, case.path, case.body or None, case.headers(own))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status < 400:
                continue
            shown = answer.headers["x-request-id"]
            assert own is None or shown == own, (case, answer.status)
            if body:
                assert request_id_in(json.loads(body)) == shown, (case, body)
            assert shown not in seen.statuses
            seen.statuses[shown] = answer.status
            if own:
                seen.own.add(own)
    connection.close()
    return seen


def request_id_in(told: dict[str, Any]) -> str:
    """Return the request id in an error of any format."""
    if "request_id" in told:
        return str(told["request_id"])
    error = told["error"]
    return str(error["request_id"] if "request_id" in error else error["details"][1]["requestId"])


def lines(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log.splitlines() if line.endswith("}")]


def test_each_error_has_exactly_one_line(gateway: GatewayProcess) -> None:
    seen = ask_all(gateway)
    assert {400, 401, 404, 405, 422} <= set(seen.statuses.values())
    assert len(seen.statuses) > 500

    gateway.ask("the last", model="none")
    until(lambda: any(shown in gateway.log for shown in list(seen.statuses)[-1:]))
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines(gateway):
        for shown in {str(line.get("request_id")), str(line.get("client_request_id"))} & seen.statuses.keys():
            found.setdefault(shown, []).append(line)

    assert Counter(len(found.get(shown, [])) for shown in seen.statuses) == {1: len(seen.statuses)}
    for shown, status in seen.statuses.items():
        [line] = found[shown]
        assert line["status"] == status, line
        assert line["level"] == ("info" if status < 500 else "warning")
        assert (line["client_request_id"] == shown) == (shown in seen.own)
    refused = [line for line in lines(gateway) if line["event"] == "request refused"]
    assert {line["key"] for line in refused} == {None, "dev"}
    assert {line["client"] for line in refused} == {"127.0.0.1"}
    assert all(line["method"] and line["path"] and line["detail"] and line["error_code"] for line in refused)
    assert "canary" not in gateway.log, "the query string is left out"
    text = "dev mode: anyone on this machine may call with the public development key"
    assert [line["level"] for line in lines(gateway) if line["event"] == text] == ["warning"]


def test_generated_requests_get_the_answers_that_are_kept(gateway: GatewayProcess) -> None:
    """Each line of the file is a request that schemathesis made up, and its status."""
    path = gateway.provider("acme", "http://127.0.0.1:1/v1", "m", is_enabled=False)
    rows = [
        json.loads(line.replace("{provider}", path.rpartition("/")[2])) for line in GENERATED.read_text().splitlines()
    ]
    assert len(rows) > 100
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    unlike: list[object] = []
    for row in rows:
        headers = row.get("headers", {}) if row.get("anonymous") else {"X-Service-Key": KEY} | row.get("headers", {})
        body = row["body"].encode("latin-1") if "body" in row else None
        connection.request(
            row["method"], row["path"], body, {name: text.encode("latin-1") for name, text in headers.items()}
        )
        answer = connection.getresponse()
        answer.read()
        is_vendors = row["path"].startswith(("/v1/", "/v1beta/"))
        forms = ["application/json"] if is_vendors else ["application/problem+json"]
        if answer.status != row["status"] or (answer.status >= 400 and answer.headers.get_all("content-type") != forms):
            unlike.append((row, answer.status, answer.headers["content-type"]))
    connection.close()
    assert unlike == []
    assert '"level": "error"' not in gateway.log


def test_a_successful_management_request_has_no_error_line(gateway: GatewayProcess) -> None:
    for path in ("/api/v1/providers", "/api/v1/usage/summary", "/openapi.json", "/metrics", "/readyz"):
        answer = gateway.call("GET", path, x_request_id=f"fine{path.replace('/', '-')}")
        assert answer.status == 200
    gateway.call("GET", "/api/v1/providers/none", x_request_id="the-last")
    until(lambda: "the-last" in gateway.log)
    assert "fine-" not in gateway.log


@pytest.mark.parametrize(
    ("request_", "status", "where"),
    [
        (
            b"POST /v1/x?key=sk-canary HTTP/1.1\r\nHost: x\r\nx-request-id: %b\r\nno colon\r\n\r\n",
            400,
            ("POST", "/v1/x"),
        ),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nx-request-id: %b\r\nx: " + b"x" * 40_000, 431, ("GET", "/a")),
        (b"GET /a HTTP/1.1\r\nx-request-id: %b\r\n\r\n", 400, ("GET", "/a")),
        (b"%b\r\n\r\n", 400, (None, None)),
    ],
)
def test_an_error_of_the_http_server_has_exactly_one_line(
    gateway: GatewayProcess, request_: bytes, status: int, where: tuple[str | None, str | None]
) -> None:
    own = uuid.uuid4().hex
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(request_.replace(b"%b", own.encode()))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        problem = json.loads(answer.read())
    shown = problem["request_id"]
    assert (answer.status, answer.headers["x-request-id"]) == (status, shown)
    until(lambda: shown in gateway.log)
    [line] = [line for line in lines(gateway) if shown in (line.get("request_id"), line.get("client_request_id"))]
    assert (line["event"], line["status"], line["error_code"]) == ("request refused", status, problem["code"])
    assert (line["method"], line["path"]) == where
    assert "sk-canary" not in gateway.log
