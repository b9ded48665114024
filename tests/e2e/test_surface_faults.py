"""Streams that break, at every surface from every dialect, as the official SDKs see them; the mock judges us."""

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
def test_before_the_first_word_another_vendor_answers(
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
def test_a_lone_vendor_is_asked_again(gateway: GatewayProcess, llmock: LLMock, kind: str, fault: Fault) -> None:
    configure(gateway, llmock, kind, timeout_s=1)
    llmock.add(StreamFault(fault, after_chunks=0, stall_seconds=20, match=streams(kind)))
    llmock.add(Reply(text=TEXT, times=2))

    assert Chat(gateway).stream(extra_headers=FRESH)[0] == TEXT
    assert len(llmock.requests) == 2
    # The mock may learn that we left its malformed stream only after our second call has come, and takes it for another
    # one's; that is a warning of its. That we asked again and got the answer is seen above.
    llmock.assert_resilient(strict=fault != "malformed")


@SURFACES
@DIALECTS
@pytest.mark.parametrize("fault", ["disconnect", "truncate", "malformed"])
def test_after_it_the_client_is_told(
    gateway: GatewayProcess, llmock: LLMock, surface: Surface, kind: str, fault: Fault
) -> None:
    configure(gateway, llmock, kind)
    llmock.add(StreamFault(fault, after_chunks=4, match=streams(kind)))
    llmock.reply(TEXT * 5)

    client = surface(gateway)
    if isinstance(client, Responses):  # its error is an event, which the SDK hands on as any other
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
