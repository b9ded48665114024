"""A provider that cannot verify the reasoning of earlier answers is tried once more without it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import ProviderRefused
from llm_gateway.protocols.registry import PROTOCOLS
from tests.providers.documents import ANTHROPIC, completion
from tests.worker.pipeline.fakes import World, answer, plan, provider, request

CLAUDE = provider("claude", kind="anthropic", models=("claude-haiku-4-5",))
OTHER = provider("other", kind="anthropic", models=("claude-haiku-4-5",))
GPT = provider("gpt")
MESSAGE = "messages.1.content.0: Invalid `signature` in `thinking` block"
INVALID = UpstreamResult(400, msgspec.json.encode({"error": {"type": "invalid_request_error", "message": MESSAGE}}))
ANSWERED = UpstreamResult(200, msgspec.json.encode(ANTHROPIC))
SIGNED = {"type": "thinking", "thinking": "Hm", "signature": "s"}
DETAILS = [{"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "anthropic-claude-v1", "index": 0}]


def read_document(protocol: str) -> Any:
    def read(document: Any) -> Any:
        parsed = PROTOCOLS[protocol].read_request(document)
        return parsed.conversation, parsed.dropped

    return read


def messages(*blocks: Any) -> Request:
    text = {"type": "text", "text": "hi"}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": [*blocks, text]},
             {"role": "user", "content": "!"}]  # fmt: skip
    document = {"max_tokens": 99, "messages": turns}
    return request(client_request=ClientRequest("anthropic_messages", document, read_document("anthropic_messages")))


def chat() -> Request:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "hi", "reasoning_details": DETAILS},
             {"role": "user", "content": "!"}]  # fmt: skip
    return request(client_request=ClientRequest("openai_chat", {"messages": turns}, read_document("openai_chat")))


@pytest.mark.parametrize("asked", [messages(SIGNED), chat()], ids=["passes through", "translated"])
async def test_the_same_provider_answers_once_the_signatures_are_left_out(world: World, asked: Request) -> None:
    world.script(claude=[INVALID, ANSWERED], other=[])
    record = world.open(asked)

    served = await world.failover.run(asked, plan([CLAUDE], [OTHER]), record)

    first, second = [json.loads(body)["messages"][1]["content"] for body in world.upstream.bodies]
    assert world.upstream.called == ["claude", "claude"]
    assert (first[0], "thinking" in json.dumps(second)) == (SIGNED, False)
    assert [attempt.why for attempt in record.attempts] == [None, "retry:signature"]
    assert served.reply.dropped[-1] in ("thinking", "reasoning_content")


async def test_it_is_tried_only_once_more_and_its_refusal_reaches_the_client(world: World) -> None:
    world.script(claude=[INVALID, INVALID], other=[])
    asked = messages(SIGNED)

    with pytest.raises(ProviderRefused) as raised:
        await world.failover.run(asked, plan([CLAUDE], [OTHER]), world.open(asked))

    assert (world.upstream.called, raised.value.status) == (["claude", "claude"], 400)
    assert raised.value.detail == MESSAGE


async def test_without_signatures_in_the_request_there_is_no_second_try(world: World) -> None:
    world.script(claude=[INVALID])
    asked = messages()

    with pytest.raises(ProviderRefused):
        await world.failover.run(asked, plan([CLAUDE]), world.open(asked))

    assert world.upstream.called == ["claude"]


async def test_the_next_candidate_after_the_second_try_is_a_failover(world: World) -> None:
    world.script(claude=[INVALID, UpstreamResult(503, b"{}")], gpt=[answer()])
    asked = messages(SIGNED)
    record = world.open(asked)

    await world.failover.run(asked, plan([CLAUDE], [GPT]), record)

    assert world.upstream.called == ["claude", "claude", "gpt"]
    assert [attempt.why for attempt in record.attempts] == [None, "retry:signature", "failover:503"]


async def test_an_aggregator_that_cannot_verify_returned_details_is_tried_once_more_without_them(world: World) -> None:
    raw = json.dumps({"error": {"message": MESSAGE}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw, "provider_name": "Google"}}
    refused = UpstreamResult(400, msgspec.json.encode({"error": error}))
    world.script(openrouter=[refused, UpstreamResult(200, completion())])
    aggregator = provider("openrouter", models=("anthropic/claude-sonnet-4",))
    asked = messages(SIGNED)

    served = await world.failover.run(asked, plan([aggregator]), world.open(asked))

    first, second = [json.loads(body)["messages"][1] for body in world.upstream.bodies]
    assert [entry["signature"] for entry in first["reasoning_details"]] == ["s"]
    assert "reasoning_details" not in second
    assert served.reply.dropped == ("thinking",)
