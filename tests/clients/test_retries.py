"""The SDKs' own retries follow the gateway's retry-after and x-should-retry."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from llmock.pytest_plugin import LLMock

from tests.clients.conftest import MODELS
from tests.e2e.process import GatewayProcess

TEXT = "The capital is Paris. It is a large town."
PROVIDER = "my-openai"
Ask = Callable[[], Any]


def chat() -> str | None:
    made = openai.OpenAI().chat.completions.create(model="auto", messages=[{"role": "user", "content": "Where?"}])
    return made.choices[0].message.content


def responses() -> str:
    return openai.OpenAI().responses.create(model="auto", input="Where?").output_text


def messages() -> str:
    asked: Any = [{"role": "user", "content": "Where?"}]
    made: Any = anthropic.Anthropic().messages.create(model="auto", max_tokens=50, messages=asked)
    return "".join(block.text for block in made.content)


SDKS = pytest.mark.parametrize("ask", [chat, responses, messages])


class Nap:
    """Replacement of `time.sleep` that records the requested seconds and runs an action instead of waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.meanwhile()


@pytest.fixture
def nap(monkeypatch: pytest.MonkeyPatch) -> Nap:
    made = Nap()
    monkeypatch.setattr(time, "sleep", made)
    return made


def provider(gateway: GatewayProcess, llmock: LLMock, **limits: int) -> str:
    """Configure a provider with these limits. Returns its path."""
    return gateway.provider(PROVIDER, llmock.base_url("openai"), MODELS["openai"], kind="openai", **limits)


@SDKS
def test_at_the_rate_limit_an_sdk_waits_for_retry_after(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    path = provider(gateway, llmock, rate_limit_rpm=1)
    llmock.reply(TEXT, times=None)
    assert gateway.ask().status == 200
    told = float(gateway.ask().headers["retry-after-ms"]) / 1000
    nap.meanwhile = lambda: gateway.call("PATCH", path, {"rate_limit_rpm": 100})

    assert ask() == TEXT

    [waited] = nap.seconds
    assert 50 < waited <= told
    assert len(llmock.requests) == 2, "the gateway did not ask the vendor while it was at its limit"


@SDKS
def test_after_a_vendors_429_without_retry_after_an_sdk_waits_a_second(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    provider(gateway, llmock)
    gateway.provider("second", llmock.base_url("openai"), MODELS["openai"], kind="openai")
    for _ in range(9):
        llmock.fail(429, message="slow down")

    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
        ask()

    assert len(nap.seconds) == 2, "as often as the SDKs do by default"
    assert all(seconds >= 0.75 for seconds in nap.seconds), "SDKs may take a quarter off"


@SDKS
def test_a_request_above_the_whole_limit_is_not_retried(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    provider(gateway, llmock, rate_limit_tpm=1)

    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
        ask()

    assert nap.seconds == []


@SDKS
def test_a_request_that_the_vendor_rejects_is_not_retried(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    provider(gateway, llmock)
    llmock.fail(400, message="too odd", times=None)

    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="too odd"):
        ask()

    assert nap.seconds == []
    assert len(llmock.requests) == 1


@SDKS
def test_without_a_working_provider_an_sdk_gives_up(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    provider(gateway, llmock)
    llmock.outage(status=500)

    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)) as failed:
        ask()

    error: Any = failed.value
    assert error.response.headers["x-should-retry"] == "true"
    assert len(nap.seconds) == 2, "as often as the SDKs do by default"
