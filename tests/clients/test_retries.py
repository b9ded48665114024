"""The SDKs' own retries: they come again when the gateway says so, and not before."""

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
    """In place of `time.sleep`: keeps how long was asked for, and does at once what was to come in that time."""

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
    """A provider with these limits. Returns its path."""
    return gateway.provider(PROVIDER, llmock.base_url("openai"), MODELS["openai"], kind="openai", **limits)


@SDKS
def test_at_the_limit_it_waits_as_long_as_it_is_told(
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
def test_what_exceeds_the_limit_is_not_tried_again(gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask) -> None:
    provider(gateway, llmock, rate_limit_tpm=1)

    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
        ask()

    assert nap.seconds == []


@SDKS
def test_what_the_vendor_refuses_is_not_tried_again(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    provider(gateway, llmock)
    llmock.fail(400, message="too odd", times=None)

    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="too odd"):
        ask()

    assert nap.seconds == []
    assert len(llmock.requests) == 1


@SDKS
def test_without_a_provider_that_works_it_gives_up_in_the_end(
    gateway: GatewayProcess, llmock: LLMock, nap: Nap, ask: Ask
) -> None:
    provider(gateway, llmock)
    llmock.outage(status=500)

    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)) as failed:
        ask()

    error: Any = failed.value
    assert error.response.headers["x-should-retry"] == "true"
    assert len(nap.seconds) == 2, "as often as the SDKs do by default"
