"""A tool call in the history whose arguments are no JSON object does not end a session, whatever the vendor."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import ProviderFailed, ProviderRefused
from tests.protocols.test_encrypted_reasoning import sent
from tests.providers.documents import completion
from tests.rows import each_row
from tests.upstream.responses_api import response
from tests.worker.pipeline.fakes import World, plan, provider, request
from tests.worker.pipeline.test_signature_retry import read_document

BROKEN = {
    '{"city": "Ul': {"invalid_json": '{"city": "Ul'},
    '{"path": "\\q"}': {"invalid_json": '{"path": "\\q"}'},
    "[1]": {"value": [1]},
    '"Ulm"': {"value": "Ulm"},
    "": {},
    "[" * 5000: {"invalid_json": "[" * 5000},
}
TEXTS = pytest.mark.parametrize("arguments", list(BROKEN), ids=[text[:20] for text in BROKEN])
VLLM, OTHER = provider("vllm"), provider("other")
REFUSED = "Expecting ',' delimiter: line 1 column 14 (char 13)"
ANSWERED = UpstreamResult(200, completion())
RESPONDED = UpstreamResult(200, msgspec.json.encode(response("ok", 1, "resp_1", {"model": "m", "input": "x"})))


def refused(status: int, message: str = REFUSED) -> UpstreamResult:
    return UpstreamResult(status, msgspec.json.encode({"error": {"message": message}}))


def chat(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    good = {"id": "d", "type": "function", "function": {"name": "weather", "arguments": '{"a":  1}'}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call, good]}
    results = [{"role": "tool", "tool_call_id": each, "content": "invalid arguments"} for each in "cd"]
    return {"messages": [{"role": "user", "content": "?"}, answer, *results]}


def responses(arguments: str) -> dict[str, Any]:
    calls = [{"type": "function_call", "call_id": name, "name": "weather", "arguments": given}
             for name, given in (("c", arguments), ("d", '{"a":  1}'))]  # fmt: skip
    results = [{"type": "function_call_output", "call_id": each, "output": "invalid arguments"} for each in "cd"]
    return {"input": [{"type": "message", "role": "user", "content": "?"}, *calls, *results]}


CLIENTS = {"openai_chat": chat, "openai_responses": responses}


def called_with(body: Any) -> list[Any]:
    """Return the arguments of the calls in a body of any protocol."""
    if "contents" in body:
        return [part["functionCall"]["args"] for part in body["contents"][1]["parts"]]
    if "input" in body:
        return [json.loads(item["arguments"]) for item in body["input"] if item["type"] == "function_call"]
    answer = body["messages"][1]
    if "tool_calls" in answer:
        return [json.loads(call["function"]["arguments"]) for call in answer["tool_calls"]]
    return [block["input"] for block in answer["content"]]


@TEXTS
@each_row(
    ("client", "kind", "protocol"),
    [
        *((client, kind, protocol) for client in CLIENTS
          for kind, protocol in (("anthropic", "anthropic_messages"), ("gemini", "gemini_content"))),
        ("openai_chat", "openai", "openai_responses"),
        ("openai_responses", "openai", "openai_chat"),
    ],
)  # fmt: skip
def test_every_translated_request_has_objects_as_arguments(
    client: str, kind: str, protocol: str, arguments: str
) -> None:
    body = sent(client, CLIENTS[client](arguments), kind, "m", *((protocol,) if kind == "openai" else ()))

    assert called_with(body) == [BROKEN[arguments], {"a": 1}]


def asked(client: str, arguments: str) -> Request:
    return request(client_request=ClientRequest(client, CLIENTS[client](arguments), read_document(client)))


@TEXTS
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("client", list(CLIENTS))
async def test_a_provider_that_refuses_the_arguments_is_tried_once_more_with_valid_ones(
    world: World, client: str, status: int, arguments: str
) -> None:
    spoken = provider("vllm", protocols=(client,))
    world.script(vllm=[refused(status), ANSWERED if client == "openai_chat" else RESPONDED], other=[])
    given = asked(client, arguments)
    record = world.open(given)

    await world.failover.run(given, plan([spoken], [OTHER]), record)

    first, second = [json.loads(body) for body in world.upstream.bodies]
    assert world.upstream.called == ["vllm", "vllm"]
    assert json.dumps(arguments)[1:-1] in json.dumps(first)
    assert called_with(second) == [BROKEN[arguments], {"a": 1}]
    assert [attempt.why for attempt in record.attempts] == [None, f"retry:{status}"]


async def test_a_call_with_valid_arguments_counts_towards_the_three_attempts(world: World) -> None:
    world.script(vllm=[refused(400), *[refused(503, "busy")] * 3])
    given = asked("openai_chat", '{"city": "Ul')

    with pytest.raises(ProviderFailed):
        await world.failover.run(given, plan([VLLM]), world.open(given))

    assert world.upstream.called == ["vllm"] * 3


async def test_a_retry_keeps_the_valid_arguments(world: World) -> None:
    world.script(vllm=[refused(400), refused(503, "busy"), ANSWERED])
    given = asked("openai_chat", '{"city": "Ul')

    await world.failover.run(given, plan([VLLM]), world.open(given))

    assert [called_with(json.loads(body))[0] for body in world.upstream.bodies[1:]] == [
        {"invalid_json": '{"city": "Ul'}
    ] * 2


async def test_llama_cpps_500_blames_the_request_and_not_the_provider(world: World) -> None:
    message = "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error"
    given = asked("openai_chat", '{"city": "Ul')

    for _ in range(6):  # five failures would open the circuit breaker, for every customer
        world.script(vllm=[refused(500, message), ANSWERED])
        await world.failover.run(given, plan([VLLM]), world.open(given))

    assert world.upstream.called == ["vllm", "vllm"] * 6


async def test_it_is_tried_only_once_more_and_its_refusal_reaches_the_client(world: World) -> None:
    world.script(vllm=[refused(400), refused(400)], other=[])
    given = asked("openai_chat", "{")

    with pytest.raises(ProviderRefused) as raised:
        await world.failover.run(given, plan([VLLM], [OTHER]), world.open(given))

    assert (world.upstream.called, raised.value.detail) == (["vllm", "vllm"], REFUSED)


async def test_with_valid_arguments_there_is_no_second_try(world: World) -> None:
    world.script(vllm=[refused(400)])
    given = asked("openai_chat", '{"city": "Ulm"}')

    with pytest.raises(ProviderRefused):
        await world.failover.run(given, plan([VLLM]), world.open(given))

    assert world.upstream.called == ["vllm"]


async def test_a_provider_that_takes_any_text_gets_the_clients_own(world: World) -> None:
    world.script(vllm=[ANSWERED])
    given = asked("openai_chat", '{"city": "Ul')

    await world.failover.run(given, plan([VLLM]), world.open(given))

    [body] = world.upstream.bodies
    assert json.loads(body)["messages"] == chat('{"city": "Ul')["messages"]
