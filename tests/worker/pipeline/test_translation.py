"""Translation of requests and replies: options a provider lacks, and parts that other protocols cannot express."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.upstream_call import UpstreamCall
from llm_gateway.protocols import anthropic_messages, openai_chat, openai_responses
from llm_gateway.protocols.contract import Malformed, Unsupported
from llm_gateway.worker.pipeline.translation import Translation
from tests.worker.pipeline.fakes import provider, request

TRANSLATION = Translation()


def call(asked: ClientRequest, kind: str, model: str, **changes: Any) -> UpstreamCall:
    candidate = Candidate.of(provider(kind=kind, models=(model,), **changes), model)
    return TRANSLATION.call(request(client_request=asked), candidate)


def ask(protocol: Any, name: str, document: dict[str, Any]) -> ClientRequest:
    def read(given: dict[str, Any]) -> Any:
        found = protocol.read_request(given)
        return found.conversation, found.dropped

    return ClientRequest(name, document, read)


def messages(*said: Any, **fields: Any) -> ClientRequest:
    return ask(anthropic_messages, "anthropic_messages", {"max_tokens": 9, "messages": list(said), **fields})


THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": ""}
SIGNED = {"type": "thinking", "thinking": "Hm", "signature": "sig"}
TEXT = {"type": "text", "text": "Well"}
USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ([THOUGHT, TEXT], [TEXT]),
        ([SIGNED, TEXT], [SIGNED, TEXT]),
        ([THOUGHT], [THOUGHT]),
        ("Well", "Well"),
    ],
)
def test_anthropic_is_not_sent_unsigned_thinking_of_other_models(content: Any, sent: Any) -> None:
    """The client got them from the gateway without a signature; Anthropic would refuse the whole request."""
    asked = messages(USER, {"role": "assistant", "content": content}, USER)

    body = json.loads(call(asked, "anthropic", "claude").body)

    assert body["messages"] == [USER, {"role": "assistant", "content": sent}, USER]


def test_unsupported_options_are_named_by_the_clients_field_names() -> None:
    told = call(messages(USER, thinking={"type": "disabled"}), "openai", "gpt-4o")
    assert told.dropped == ("thinking",)

    stops = messages(USER, stop_sequences=["a", "b", "c", "d", "e"])
    with pytest.raises(Unsupported) as caught:
        call(stops, "openai", "gpt-4o")
    assert caught.value.field == "stop_sequences"


def test_a_translated_answer_with_only_foreign_parts_is_malformed() -> None:
    asked = ask(openai_chat, "openai_chat", {"messages": [USER]})
    body = json.dumps({"content": [{"type": "server_tool_use", "id": "s"}], "stop_reason": "pause_turn"}).encode()

    with pytest.raises(Malformed):
        TRANSLATION.reply(asked, provider(kind="anthropic"), call(asked, "anthropic", "claude"), body)
    told = messages(USER)
    native = TRANSLATION.reply(told, provider(kind="anthropic"), call(told, "anthropic", "claude"), body)
    assert (native.body, native.is_cacheable) == (body, False)


def test_openai_is_not_sent_reasoning_sealed_by_the_gateway() -> None:
    theirs = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    ours = {"type": "reasoning", "summary": [], "encrypted_content": "gw1.e30="}
    asked = ask(openai_responses, "openai_responses", {"input": [USER, ours, theirs]})

    body = json.loads(call(asked, "openai", "gpt-5", protocols=("openai_chat", "openai_responses")).body)

    assert body["input"] == [USER, theirs]


DOCUMENT: Any = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
BOTH = ("openai_chat", "openai_responses")


def test_a_file_by_url_goes_to_openai_in_the_protocol_that_takes_it() -> None:
    """OpenAI fetches it. The gateway never fetches what a client names."""
    made = call(messages({"role": "user", "content": [DOCUMENT]}), "openai", "gpt-4o", protocols=BOTH)

    assert made.path == "/responses"
    assert json.loads(made.body)["input"][0]["content"] == [
        {"type": "input_file", "file_url": DOCUMENT["source"]["url"]}
    ]


@pytest.mark.parametrize(
    ("fields", "protocols"), [({}, None), ({"stop_sequences": list("abcde")}, BOTH)], ids=["one protocol", "both"]
)
def test_a_provider_that_has_no_protocol_for_a_request_is_passed_over(fields: Any, protocols: Any) -> None:
    with pytest.raises(Unsupported) as refused:
        call(messages({"role": "user", "content": [DOCUMENT]}, **fields), "openai", "gpt-4o", protocols=protocols)

    assert (refused.value.field, "sent with their content" in refused.value.why) == ("messages", True)
