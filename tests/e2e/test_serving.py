"""POST /generate over the wire with a vendor that can fail: cost, cache, failover, limits, disconnects."""

from __future__ import annotations

import http.client
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.process import KEY, GatewayProcess, Response, send, until
from tests.upstream import UpstreamProcess, completion_tokens, prompt_tokens


def problem(response: Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in ("true", "false")
    assert response.json["status"] == response.status
    return response.status, response.json["code"]


def test_the_cost_of_an_answer_is_exact(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url)
    before = gateway.summary()
    answer = gateway.ask("marker:cost").json
    [bill] = mock.seen().calls
    assert (bill.marker, bill.key) == ("cost", "sk-test")
    assert (bill.prompt_tokens, bill.completion_tokens) == (prompt_tokens(bill.n), completion_tokens(bill.n))
    assert (answer["input_tokens"], answer["output_tokens"]) == (bill.prompt_tokens, bill.completion_tokens)
    cost = (bill.prompt_tokens + 2 * bill.completion_tokens) / 1e6
    assert answer["cost_usd"] == cost
    after = gateway.summary()
    assert after["total_cost_usd"] - before["total_cost_usd"] == pytest.approx(cost, abs=1e-12)
    assert after["total_tokens"] - before["total_tokens"] == bill.prompt_tokens + bill.completion_tokens


def test_all_fields_of_a_request_reach_the_vendor(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url, "json")
    gateway.ask("Grüße ☃", system="Be brief.", max_tokens=7, temperature=0, json_mode=True)
    sent = mock.seen().calls[0].json
    system, user = sent["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("Be brief.")
    assert user == {"role": "user", "content": "Grüße ☃"}
    assert (sent["model"], sent["temperature"], sent["response_format"]) == ("json", 0, {"type": "json_object"})
    assert 7 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))


def test_a_repeated_request_hits_the_cache_of_its_customer_only(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    path = gateway.provider("acme", mock.base_url)
    first = gateway.ask("Say it once", no_store=False).json
    hit = gateway.ask("Say it once", no_store=False).json
    assert (first["cached"], hit["cached"]) == (False, True)
    assert (hit["content"], hit["cost_usd"]) == (first["content"], 0)
    assert not gateway.ask("Say it once", no_store=False, user_id="someone else").json["cached"]
    assert not gateway.ask("Say it once", no_store=False, temperature=0.8).json["cached"]
    gateway.call("PATCH", path, {"models": ["gpt-4o"]})
    assert not gateway.ask("Say it once", no_store=False).json["cached"]
    assert mock.seen().total == 4


def test_a_change_of_configuration_applies_to_the_next_request(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    path = gateway.provider("acme", mock.base_url, "one")
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    body = {"user_id": "u", "service": "s", "prompt": "p"}
    for number in range(20):
        model = f"model-{number}"
        assert gateway.call("PATCH", path, {"models": [model]}).json["models"] == [model]
        answer = send(connection, "POST", "/api/v1/generate", body, cache_control="no-store").json
        assert answer["model"] == model
    connection.close()


def test_a_report_includes_all_responses_sent_before(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url)
    before = gateway.summary()["total_requests"]
    for number in range(1, 21):
        assert gateway.ask().status == 200
        assert gateway.summary()["total_requests"] == before + number
    with ThreadPoolExecutor(8) as pool:
        assert {response.status for response in pool.map(lambda _: gateway.ask(), range(80))} == {200}
    assert gateway.summary()["total_requests"] == before + 100
    assert mock.seen().total == 100


@pytest.mark.parametrize("fault", ["status-500", "status-401", "status-429-after-30", "reset", "garbage", "bad-json"])
def test_the_next_provider_answers_when_one_fails(gateway: GatewayProcess, mock: UpstreamProcess, fault: str) -> None:
    gateway.provider("first", mock.base_url, fault, priority=2)
    gateway.provider("second", mock.base_url, "ok", priority=1)
    answer = gateway.ask()
    assert (answer.status, answer.json["provider"]) == (200, "second")
    assert [call.model for call in mock.seen().calls] == [fault, "ok"]


def test_an_unreachable_vendor_is_a_502(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        path = gateway.provider("first", f"http://127.0.0.1:{closed.getsockname()[1]}/v1", priority=2)
        assert problem(gateway.ask(timeout_ms=190)) == (502, "provider_error")
        gateway.provider("second", mock.base_url, priority=1)
        assert gateway.ask().json["provider"] == "second"
        gateway.call("PATCH", path, {"base_url": mock.base_url})
        assert gateway.ask().json["provider"] == "first"


def test_errors_have_the_documented_statuses_and_codes(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    assert problem(gateway.call("POST", "/api/v1/generate", {}, key="wrong")) == (401, "unauthorized")
    assert problem(gateway.ask(max_tokens=8001)) == (422, "validation_error")
    response = gateway.ask()
    assert problem(response) == (503, "no_provider")
    assert response.headers["retry-after"]
    path = gateway.provider("acme", mock.base_url, "status-400")
    response = gateway.ask()
    assert problem(response) == (502, "provider_error")
    assert "The mock answers 400." in response.json["detail"]
    assert response.headers["x-should-retry"] == "false"
    gateway.call("PATCH", path, {"models": ["stall"], "timeout_s": 0.1})
    assert problem(gateway.ask(timeout_ms=290)) == (502, "provider_error")
    gateway.call("PATCH", path, {"timeout_s": 60})
    assert problem(gateway.ask(timeout_ms=100)) == (504, "deadline_exceeded")
    gateway.call("PATCH", path, {"models": ["status-500"]})
    for _ in range(5):
        gateway.ask(timeout_ms=190)
    response = gateway.ask()
    assert problem(response) == (503, "providers_unavailable")
    assert 20 < int(response.headers["retry-after"]) <= 37


def test_a_rate_limit_rejects_the_excess_with_retry_after(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    path = gateway.provider("acme", mock.base_url, rate_limit_rpm=5)
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: gateway.ask(), range(20)))
    assert sorted(response.status for response in responses) == [200] * 5 + [429] * 15
    assert mock.seen().total == 5
    refused = next(response for response in responses if response.status == 429)
    assert problem(refused) == (429, "rate_limited")
    assert 50 < int(refused.headers["retry-after"]) <= 61
    assert 50_000 < int(refused.headers["retry-after-ms"]) <= 61_000
    assert refused.headers["x-should-retry"] == "true"
    gateway.call("PATCH", path, {"rate_limit_rpm": 1000, "rate_limit_tpm": 900})
    refused = gateway.ask()
    assert problem(refused) == (429, "request_exceeds_limit")
    assert "retry-after" not in refused.headers
    assert refused.headers["x-should-retry"] == "false"
    other = gateway.provider("other", mock.base_url)
    assert gateway.ask().json["provider"] == "other"
    gateway.call("DELETE", other)


def test_a_body_over_four_mebibytes_gets_a_413(gateway: GatewayProcess) -> None:
    for size in (4 * 1024 * 1024 + 1, 8 * 1024 * 1024):
        assert problem(gateway.ask("x" * size)) == (413, "payload_too_large")


def test_one_connection_carries_many_requests(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    body = {"user_id": "u", "service": "s", "prompt": "p"}
    connection.connect()
    own = connection.sock
    for fields, status in (({}, 200), ({"max_tokens": 0}, 422), ({}, 200)):
        assert send(connection, "POST", "/api/v1/generate", {**body, **fields}).status == status
    for path, status in (("/nothing", 404), ("/metrics", 200), ("/api/v1/health", 200)):
        assert send(connection, "GET", path).status == status
    assert send(connection, "GET", "/metrics", key=None).status == 401
    assert connection.sock is own
    connection.close()


def test_all_key_headers_are_accepted_and_other_hosts_are_not(gateway: GatewayProcess) -> None:
    assert problem(gateway.call("GET", "/api/v1/health", host="evil.example")) == (403, "forbidden")
    assert gateway.call("GET", "/metrics", key=None, authorization=f"Bearer {KEY}").status == 200
    assert gateway.call("GET", "/metrics", key=None, x_api_key=KEY).status == 200


def test_a_client_that_disconnects_is_still_billed(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("acme", mock.base_url, "slow-300")
    before = gateway.summary()["total_requests"]
    body = b'{"user_id":"u","service":"s","prompt":"left"}'
    head = f"POST /api/v1/generate HTTP/1.1\r\nhost: localhost\r\nx-service-key: {KEY}\r\ncontent-length: {len(body)}"
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        until(lambda: mock.seen().total == 1)
    assert gateway.ask("after it", timeout_ms=5000).status == 200
    assert gateway.summary()["total_requests"] == before + 2
