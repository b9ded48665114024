"""Admin port: the management API on a socket of control's own, off the public one; also while control is replaced."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from llm_gateway.data_dir import running_gateway
from tests.e2e.process import KEY, GatewayProcess, Response, free_port, send, until

CALLER = "the-key-of-a-service-that-only-calls"
ON_ADMIN = "on this port: the management API is served at LLM_GATEWAY_ADMIN_HOST and LLM_GATEWAY_ADMIN_PORT."
ON_PUBLIC = "is served at LLM_GATEWAY_HOST and LLM_GATEWAY_PORT, not on the admin port: send the request there."
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
ROLLS = 2
WAITED_S = 10.0
"""Longest time in which a connection waits for the next control process, on a busy machine."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    keys = f"dev:{KEY},caller:{CALLER}:call"
    folder = tmp_path_factory.mktemp("admin")
    with GatewayProcess(folder, admin_port=free_port(), service_keys=keys, trusted_proxies="127.0.0.1") as running:
        yield running


def admin_port(gateway: GatewayProcess) -> int:
    return int(gateway._environment["LLM_GATEWAY_ADMIN_PORT"])


def manage(gateway: GatewayProcess, method: str, path: str, body: object = None, **given: Any) -> Response:
    """Send one request to the admin port, on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", admin_port(gateway), timeout=60)
    try:
        return send(connection, method, path, body, **given)
    finally:
        connection.close()


def has_ended(gateway: GatewayProcess, number: int) -> bool:
    """Return whether this replacement is over."""
    found = running_gateway(gateway.directory / "data")
    return found is not None and found.ended == number


def detail(response: Response) -> str:
    found: str = response.json["detail"]
    return found


def test_the_management_api_is_on_the_admin_port_behind_the_same_gate(gateway: GatewayProcess) -> None:
    assert manage(gateway, "GET", "/api/v1/providers").status == 200
    assert manage(gateway, "GET", "/metrics").status == 200
    assert manage(gateway, "GET", "/openapi.json").json["openapi"]
    assert manage(gateway, "GET", "/api/v1/health", key=None).json["status"] == "ok"
    home = manage(gateway, "GET", "/", key=None)
    assert (home.status, home.headers["location"]) == (307, "/docs")
    assert manage(gateway, "GET", "/api/v1/providers", key=None).status == 401
    assert manage(gateway, "GET", "/docs", key=None, accept="text/html").status == 401
    lacking = manage(gateway, "GET", "/api/v1/providers", key=CALLER)
    assert (lacking.status, detail(lacking)) == (403, "This key lacks the scope 'read', which this request needs.")
    assert manage(gateway, "GET", "/api/v1/me", key=CALLER).json["name"] == "caller"
    assert manage(gateway, "GET", "/api/v1/health", key=None, host="rebound.example").status == 403
    forged = manage(gateway, "GET", "/api/v1/providers", key=None, x_gateway_internal_identity="e30=")
    assert forged.status == 401
    assert manage(gateway, "POST", "/api/v1/providers", {"name": "x" * 2**23}).status == 413
    made = manage(gateway, "POST", "/api/v1/teams", {"name": "made on the admin port"})
    assert (made.status, made.headers["x-gateway-pending-workers"]) == (201, None)


def test_a_key_that_was_made_on_the_admin_port_is_valid_on_both(gateway: GatewayProcess) -> None:
    made = manage(gateway, "POST", "/api/v1/keys", {"name": "reader", "scopes": ["read", "call"]}).json
    assert manage(gateway, "GET", "/api/v1/providers", key=made["secret"]).status == 200
    assert gateway.call("GET", "/v1/models", key=made["secret"]).status == 200
    assert manage(gateway, "DELETE", f"/api/v1/keys/{made['id']}").status == 204
    assert manage(gateway, "GET", "/api/v1/providers", key=made["secret"]).status == 401


def test_each_port_names_the_settings_of_the_other_one(gateway: GatewayProcess) -> None:
    assert manage(gateway, "GET", "/ui/", key=None).status in (200, 303)
    for path in ("/api/v1/providers", "/metrics", "/openapi.json", "/docs", "/ui", "/ui/", "/nothing"):
        response = gateway.call("GET", path)
        assert (response.status, detail(response)) == (404, f"There is nothing at {path} {ON_ADMIN}")
    assert gateway.call("GET", "/api/v1/providers", key=None).status == 401
    assert "Did you mean /api/v1/generate?" in detail(gateway.call("POST", "/api/v1/generat", {}))
    for path in ("/api/v1/health", "/healthz", "/readyz", "/"):
        assert gateway.call("GET", path, key=None).status == 200
    assert gateway.call("GET", "/api/v1/health?x=1", key=None).status in (200, 422)
    assert gateway.call("GET", "/api/v1/me", key=CALLER).json["name"] == "caller"
    assert gateway.call("POST", "/v1/chat/completions", CHAT).status == 503, "it is served here: there is no provider"
    assert detail(manage(gateway, "POST", "/api/v1/generate", {})) == f"/api/v1/generate {ON_PUBLIC}"
    assert manage(gateway, "GET", "/v1/organizations/spend_limits").status == 200
    assert gateway.call("GET", "/v1/organizations/spend_limits").status == 404
    refused = manage(gateway, "POST", "/v1/chat/completions", CHAT)
    assert (refused.status, refused.json["error"]["message"]) == (404, f"What vendors' clients call {ON_PUBLIC}")


def test_replacements_refuse_no_connection_of_the_admin_port(gateway: GatewayProcess) -> None:
    ends = threading.Event()
    answers: list[tuple[int, float]] = []
    errors: list[str] = []
    kept = http.client.HTTPConnection("127.0.0.1", admin_port(gateway), timeout=60)
    assert send(kept, "GET", "/api/v1/teams").status == 200

    def ask() -> None:
        while not ends.wait(0.01):
            begun = time.monotonic()
            try:
                answers.append((manage(gateway, "GET", "/api/v1/teams").status, time.monotonic() - begun))
            except (OSError, http.client.HTTPException) as error:
                errors.append(repr(error))

    asking = threading.Thread(target=ask)
    asking.start()
    before = gateway.control_pid
    for number in range(1, ROLLS + 1):
        gateway.process.send_signal(signal.SIGHUP)
        if number == 1:
            until(lambda: '"event": "retiring"' in gateway.log and '"port": "admin"' in gateway.log)
            last = send(kept, "GET", "/api/v1/teams")
            assert (last.status, last.headers["connection"]) == (200, "close")
        until(partial(has_ended, gateway, number))
    ends.set()
    asking.join()
    assert gateway.control_pid != before
    assert errors == []
    assert {status for status, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < WAITED_S
