"""Large requests and answers through the whole gateway: providers and clients get all of them, and none is held."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec
import pytest
import pytest_asyncio

from llm_gateway.errors import Invalid, Overloaded, PayloadTooLarge
from llm_gateway.forked import ForkFailed, Forks, Function
from llm_gateway.json_outline import SMALL_BYTES
from llm_gateway.worker.endpoints.request_document import parse_document, read_large_document
from tests.application.driver import Client, Response
from tests.application.fixtures import isolate, logging_restored, running
from tests.upstream import MockUpstream

SHARED = pytest.mark.asyncio(loop_scope="module")
FIELDS = ("messages",)
PICTURE = base64.b64encode(random.Random(1).randbytes(900_000)).decode()
TEXT = 'He said "no\\yes", é.\n' * 3000
MANY: list[dict[str, Any]] = [{"role": ("user", "assistant")[n % 2], "content": f"{n} " * 9} for n in range(9_001)]


class World(NamedTuple):
    client: Client
    mock: MockUpstream

    async def ask(self, path: str, **fields: Any) -> Response:
        """Send a request, and return its answer; it must have been served."""
        answer = await self.client.call("POST", path, {"model": "m", "max_tokens": 9, **fields})
        assert answer.status == 200, answer.body[:500]
        return answer

    @property
    def sent(self) -> Any:
        """The body of the last call that the provider got."""
        return self.mock.calls[-1].json


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("large")
    shutil.copy(migrated, directory / "gateway.db")
    with pytest.MonkeyPatch.context() as patch, logging_restored():
        isolate(patch, directory)
        async with running(directory, log_level="error") as app, MockUpstream() as mock:
            client = Client(app)
            limits = {"rate_limit_tpm": 10**9, "rate_limit_rpm": 10**6}
            account = {"name": "a", "display_name": "A", "api_key": "key-0123456789", "models": ["m", "huge"], **limits}
            created = await client.call("POST", "/api/v1/providers", {**account, "base_url": mock.base_url})
            assert created.status == 201, created.body
            yield World(client, mock)


@SHARED
@pytest.mark.parametrize("stream", [False, True])
async def test_a_picture_passes_through(world: World, stream: bool) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": TEXT}, image]}]
    await world.ask("/v1/chat/completions", messages=messages, stream=stream, user=f"{stream}")
    assert world.sent["messages"] == messages


@SHARED
async def test_a_picture_and_a_tools_input_are_translated(world: World) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}
    use = {"type": "tool_use", "id": "t", "name": "write", "input": {"text": TEXT}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": TEXT}
    await world.ask(
        "/v1/messages",
        messages=[
            {"role": "user", "content": [image]},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ],
    )
    user, assistant, tool = world.sent["messages"]
    assert user["content"][0]["image_url"]["url"] == f"data:image/png;base64,{PICTURE}"
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"text": TEXT}
    assert tool["content"] == TEXT


@SHARED
async def test_a_picture_in_the_url_safe_alphabet_is_converted(world: World) -> None:
    data = PICTURE.replace("+", "-").replace("/", "_")
    part = {"inlineData": {"mimeType": "image/png", "data": data}}
    path = "/v1beta/models/m:generateContent"
    answer = await world.client.call("POST", path, {"contents": [{"role": "user", "parts": [part]}]})
    assert answer.status == 200
    assert world.sent["messages"][0]["content"][0]["image_url"]["url"].endswith(PICTURE)


@SHARED
@pytest.mark.parametrize("stream", [False, True])
async def test_many_messages_pass_through_and_are_translated_by_another_process(world: World, stream: bool) -> None:
    await world.ask("/v1/chat/completions", messages=MANY, stream=stream)
    assert world.sent["messages"] == MANY
    await world.ask("/v1/messages", messages=MANY, stream=stream)
    assert [message["content"] for message in world.sent["messages"]] == [message["content"] for message in MANY]


@SHARED
async def test_many_messages_that_cannot_be_translated_are_refused_with_the_field(world: World) -> None:
    wrong = [*MANY, {"role": "user", "content": [{"type": "image", "source": {"type": "odd"}}]}]
    answer = await world.client.call("POST", "/v1/messages", {"model": "m", "max_tokens": 9, "messages": wrong})
    assert answer.status == 400
    assert "messages[9001].content" in answer.json["error"]["message"]


@SHARED
async def test_an_identical_large_request_is_answered_from_the_cache(world: World) -> None:
    for messages in ([{"role": "user", "content": TEXT * 6}], MANY[1:]):
        await world.ask("/v1/chat/completions", messages=messages)
        seen = len(world.mock.calls)
        await world.ask("/v1/chat/completions", messages=messages)
        assert len(world.mock.calls) == seen
        await world.ask("/v1/chat/completions", messages=[*messages[:-1], {"role": "user", "content": TEXT * 6 + "?"}])
        assert len(world.mock.calls) == seen + 1


@SHARED
async def test_a_huge_answer_is_passed_on_and_translated(world: World) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    passed = await world.ask("/v1/chat/completions", model="huge", messages=messages)
    content = passed.json["choices"][0]["message"]["content"]
    assert len(content) > 5_000_000
    translated = await world.ask("/v1/messages", model="huge", messages=messages)
    assert translated.json["content"] == [{"type": "text", "text": content}]
    plain = {"user_id": "u", "service": "s", "model": "huge", "prompt": "Hi"}
    assert (await world.client.call("POST", "/api/v1/generate", plain)).json["content"] == content


@SHARED
async def test_tokens_of_a_large_text_are_counted(world: World) -> None:
    messages = [{"role": "user", "content": TEXT * 6}]
    small = await world.ask("/v1/messages/count_tokens", messages=[{"role": "user", "content": TEXT}])
    large = await world.ask("/v1/messages/count_tokens", messages=messages)
    assert large.json["input_tokens"] == pytest.approx(6 * small.json["input_tokens"], rel=0.1)


@SHARED
async def test_a_large_prompt_of_the_gateways_own_api_is_sent_whole(world: World) -> None:
    prompt = {"user_id": "u", "service": "s", "model": "m", "prompt": TEXT * 6}
    assert (await world.client.call("POST", "/api/v1/generate", prompt)).status == 200
    assert world.sent["messages"] == [{"role": "user", "content": TEXT * 6}]


BROKEN = [b'{"a": "%b' % (b"x" * SMALL_BYTES), b'{"a": "%b", }' % (b"x" * SMALL_BYTES), b" " * SMALL_BYTES + b"[]"]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
async def test_a_large_body_with_a_mistake_has_the_error_of_a_small_one(body: bytes) -> None:
    with pytest.raises(Invalid) as expected:
        parse_document(body)
    with pytest.raises(Invalid) as raised:
        await read_large_document(bytearray(body), FIELDS, Forks())
    assert str(raised.value) == str(expected.value)


async def test_too_many_values_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(PayloadTooLarge):
        await read_large_document(bytearray(b"{},{}," * 700_000), FIELDS, Forks(most_bytes=0))


class KilledForks(Forks):
    """Forked processes that are killed."""

    async def run(self, function: Function, timeout_s: float) -> NoReturn:
        """Fail as `Forks.run` does for a process that was killed."""
        raise ForkFailed("it was killed")


@SHARED
async def test_many_messages_are_refused_by_the_gateways_own_api_which_decodes_them_itself(world: World) -> None:
    asked = {"user_id": "u", "service": "s", "messages": MANY}
    answer = await world.client.call("POST", "/api/v1/generate", asked)
    assert (answer.status, "more than 20,000 values" in answer.json["detail"]) == (413, True)


async def test_the_request_fails_alone_if_the_other_process_does() -> None:
    body = bytearray(msgspec.json.encode({"messages": MANY}))
    with pytest.raises(Overloaded, match="a process of its own reads it, and it was killed: try again"):
        await read_large_document(body, FIELDS, KilledForks())
    document, large = await read_large_document(body, FIELDS, Forks())
    assert (document, large.apart is not None) == ({}, True)


async def test_the_size_of_a_document_is_measured_where_it_is_decoded() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 70_000}}, {"type": "web_search"}]
    whole = {"messages": [*MANY, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "tools": tools}
    body = msgspec.json.encode(whole)
    document, large = await read_large_document(bytearray(body), FIELDS, Forks())
    assert "tools" not in document
    assert large.size is not None
    assert large.size.bytes > len(body) * 3 // 4, "all but punctuation"
    assert (large.size.pictures, large.size.hosted_tool, large.size.is_plain) == (1, "web_search", False)
