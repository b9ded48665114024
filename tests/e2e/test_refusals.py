"""A request that a provider rejects does not make it unavailable to others; changes of availability are logged once."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.sdk_clients import closed_later
from tests.upstream import UpstreamProcess
from tests.upstream.behaviour import REFUSALS
from tests.waiting import wait_until

CHANGES = ("circuit breaker", "provider account", "provider model", "rate limit gate")


def changes(gateway: GatewayProcess, provider: str) -> list[tuple[str, str]]:
    """Return event and model of the log lines about this provider's availability."""
    lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("provider") == provider and line["event"].startswith(CHANGES)]
    assert {line["level"] for line in told} <= {"warning"}
    assert all(line["reason"] for line in told)
    return [(line["event"], line["model"]) for line in told]


def assert_changes(gateway: GatewayProcess, provider: str, *expected: tuple[str, str]) -> None:
    """Wait for the last expected line, since lines are written after the answers, and compare all of them."""
    wait_until(lambda: len(changes(gateway, provider)) >= len(expected))
    assert changes(gateway, provider) == list(expected)


def ask(gateway: GatewayProcess, model: str, customer: str) -> Any:
    """Send POST /v1/chat/completions for this customer."""
    client = closed_later(openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0))
    with client:
        return client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"Hello from {customer}"}],
            user=customer,
            extra_headers={"cache-control": "no-store"},
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), log_format="json") as gateway:
        yield gateway


@pytest.mark.parametrize("word", [*REFUSALS, "status-400", "status-404", "status-401", "status-402", "status-403"])
@pytest.mark.parametrize("is_last", [True, False], ids=["alone", "with another"])
def test_another_customer_is_served_right_after(
    gateway: GatewayProcess, mock: UpstreamProcess, word: str, is_last: bool
) -> None:
    name = f"{word}-{'alone' if is_last else 'first'}"
    gateway.provider(name, mock.base_url, word, priority=20, models=["ok", word])
    if not is_last:
        gateway.provider("two", mock.base_url, word, priority=10, models=["ok", word])
    for _ in range(3):  # one failure does not open the breaker
        with pytest.raises(openai.APIStatusError):
            ask(gateway, word, "a customer")
        assert ask(gateway, "ok", "another").choices[0].message.content
    assert {call.behaviour for call in mock.seen().calls} == {word, "ok"}
    rests = word in ("no-model", "no-access")
    assert_changes(gateway, name, *([("provider model paused", word)] if rests else []))


def test_a_moderated_prompt_gets_the_providers_403_and_no_second_attempt(
    gateway: GatewayProcess, mock: UpstreamProcess
) -> None:
    for name, priority in (("strict", 20), ("next", 10)):
        gateway.provider(name, mock.base_url, "moderation", priority=priority)

    with pytest.raises(openai.PermissionDeniedError) as raised:
        ask(gateway, "moderation", "a customer")
    assert raised.value.status_code == 403
    assert isinstance(raised.value.body, dict)
    assert (raised.value.body["message"], raised.value.code) == ("The input was flagged.", "content_filter")
    assert raised.value.response.headers["x-gateway-provider"] == "strict"
    assert raised.value.response.headers["x-should-retry"] == "false"

    response = gateway.ask()
    assert (response.status, response.json["code"]) == (502, "provider_error")
    assert response.headers["x-should-retry"] == "false"
    assert mock.seen().total == 2


@pytest.mark.parametrize("end", ["test", "key", "address"])
def test_a_rejected_key_pauses_the_provider_until_it_is_corrected(
    gateway: GatewayProcess, mock: UpstreamProcess, end: str
) -> None:
    name = f"refusing-{end}"
    path = gateway.provider(name, mock.base_url)
    mock.behave("status-401", model="ok", times=2)
    assert [gateway.ask(f"{number}").status for number in range(3)] == [502, 502, 503]
    assert_changes(gateway, name, ("provider account paused", "ok"))

    assert gateway.call("PATCH", path, {"display_name": "Anew", "priority": 3}).status == 200
    refused = gateway.ask("still")
    assert (refused.status, refused.json["code"]) == (503, "providers_unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 15

    if end == "test":
        assert gateway.call("POST", f"{path}/test").json["success"] is True
    else:
        change = (
            {"api_key": "sk-other"} if end == "key" else {"base_url": mock.base_url.replace("127.0.0.1", "localhost")}
        )
        assert gateway.call("PATCH", path, change).status == 200
    assert gateway.ask("now").status == 200
    assert_changes(gateway, name, ("provider account paused", "ok"), ("provider account pause ended", "ok"))


def test_a_failed_test_does_not_end_the_providers_pause(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    path = gateway.provider("wrong", mock.base_url, api_key="status-401")
    assert [gateway.ask(f"{number}").status for number in range(3)] == [502, 502, 503]
    assert gateway.call("POST", f"{path}/test").json["success"] is False
    assert gateway.ask("still").status == 503


def test_each_change_of_availability_is_logged_once_under_load(gateway: GatewayProcess, mock: UpstreamProcess) -> None:
    gateway.provider("failing", mock.base_url, "status-500", priority=30)
    gateway.provider("limited", mock.base_url, "status-429-after-60", priority=20)
    gateway.provider("leaking", mock.base_url, "leak", priority=10, api_key="sk-live-0123456789abcdef")
    gateway.provider("healthy", mock.base_url, "ok", priority=0)
    for number in range(30):
        gateway.ask(f"{number}")
    assert gateway.ask("last").json["provider"] == "healthy"

    assert_changes(gateway, "failing", ("circuit breaker opened", "status-500"))
    assert_changes(gateway, "limited", ("rate limit gate closed", "status-429-after-60"))
    assert_changes(gateway, "leaking", ("provider account paused", "leak"))
    assert_changes(gateway, "healthy")
    assert "0123456789abcdef" not in gateway.log
