"""Broken streams of each dialect, as the official SDKs see them; the mock also checks the gateway's reactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import anthropic
import openai
import pytest
from google.genai import errors
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Match, Reply, StreamFault

from tests.e2e.process import GatewayProcess
from tests.e2e.test_dialects import DIALECTS, OTHERS, configure
from tests.e2e.test_streams import records
from tests.e2e.test_surfaces import FRESH, SURFACES, TEXT, Chat, Client, Responses

Fault = Literal["disconnect", "truncate", "malformed", "stall"]
FAULTS = pytest.mark.parametrize("fault", get_args(Fault))
Surface = Callable[[GatewayProcess], Client]


def streams(kind: str) -> Match:
    return Match(provider=kind, stream=True)


@SURFACES
@pytest.mark.parametrize(
    ("kind", "fault"),
    [("openai", "disconnect"), ("anthropic", "truncate"), ("gemini", "malformed"), ("openai", "stall")],
)
def test_a_fault_before_the_first_word_fails_over(
    gateway: GatewayProcess, llmock: LLMock, surface: Surface, kind: str, fault: Fault
) -> None:
    configure(gateway, llmock, kind, priority=20, timeout_s=1)
    second = configure(gateway, llmock, OTHERS[kind])
    llmock.add(StreamFault(fault, after_chunks=0, stall_seconds=20, match=streams(kind)))
    llmock.reply(TEXT, provider=OTHERS[kind])

    assert surface(gateway).stream(extra_headers=FRESH)[0] == TEXT

    record = records(gateway)[-1]
    assert (record["outcome"], record["provider"]) == ("ok", second)
    assert [call.provider for call in llmock.requests] == [kind, OTHERS[kind]]


@DIALECTS
@FAULTS
def test_a_fault_of_the_only_vendor_is_retried(
    gateway: GatewayProcess, llmock: LLMock, kind: str, fault: Fault
) -> None:
    configure(gateway, llmock, kind, timeout_s=1)
    llmock.add(StreamFault(fault, after_chunks=0, stall_seconds=20, match=streams(kind)))
    llmock.add(Reply(text=TEXT, times=2))

    assert Chat(gateway).stream(extra_headers=FRESH)[0] == TEXT
    assert len(llmock.requests) == 2
    # The mock can notice the end of the malformed stream only after the second call, which it then reports as a
    # warning. The assertions above show the retry and its answer.
    llmock.assert_resilient(strict=fault != "malformed")


@SURFACES
@DIALECTS
@pytest.mark.parametrize("fault", ["disconnect", "truncate", "malformed"])
def test_a_fault_after_the_first_word_is_reported_to_the_client(
    gateway: GatewayProcess, llmock: LLMock, surface: Surface, kind: str, fault: Fault
) -> None:
    configure(gateway, llmock, kind)
    llmock.add(StreamFault(fault, after_chunks=4, match=streams(kind)))
    llmock.reply(TEXT * 5)

    client = surface(gateway)
    if isinstance(client, Responses):  # the error is an event, which the SDK returns like any other
        *_, last = client.client.responses.create(model="auto", input="Where?", stream=True, extra_headers=FRESH)
        assert last.type == "error"
        assert f"Provider my-{kind}: " in last.message
    else:
        with pytest.raises((openai.APIError, anthropic.APIError, errors.APIError), match=f"Provider my-{kind}: "):
            client.stream(extra_headers=FRESH)

    record = records(gateway)[-1]
    assert (record["outcome"], record["error_code"], record["cost_status"]) == ("failed", "provider_error", "estimated")
    assert record["output_tokens"] > 0
    assert len(llmock.requests) == 1, "there is no going back to another vendor"
