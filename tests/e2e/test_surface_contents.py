"""Schemas, images and tools by the official SDKs, from each vendor-compatible endpoint to each dialect."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Match, Reply, ToolCall
from pydantic import BaseModel

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.test_dialects import DIALECTS, configure

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f00050001ff56c75d"
        "2d0000000049454e44ae426082"
    )
).decode()
CITIES = (ToolCall("weather", {"city": "Paris"}), ToolCall("weather", {"city": "Rome"}))
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class City(BaseModel):
    """The structured answer that the tests request."""

    name: str
    people: int


PARIS = City(name="Paris", people=2)


@pytest.fixture
def chat(gateway: GatewayProcess) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def messages(gateway: GatewayProcess) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=KEY, max_retries=0) as client:
        yield client


def asked(text: Any = "Where?") -> list[Any]:
    return [{"role": "user", "content": text}]


class TestSchemas:
    """Structured output, parsed by the SDKs into a pydantic model."""

    @DIALECTS
    @STREAM
    def test_chat_completions_parses_the_structured_answer(
        self, gateway: GatewayProcess, llmock: LLMock, chat: Any, kind: str, stream: bool
    ) -> None:
        self._vendor(gateway, llmock, kind)

        if stream:
            with chat.chat.completions.stream(model="auto", messages=asked(), response_format=City) as events:
                made = events.get_final_completion()
        else:
            made = chat.chat.completions.parse(model="auto", messages=asked(), response_format=City)

        assert made.choices[0].message.parsed == PARIS
        self._schema_arrived(llmock, kind)

    @DIALECTS
    @STREAM
    def test_responses_parses_the_structured_answer(
        self, gateway: GatewayProcess, llmock: LLMock, chat: Any, kind: str, stream: bool
    ) -> None:
        self._vendor(gateway, llmock, kind)

        if stream:
            with chat.responses.stream(model="auto", input="Where?", text_format=City) as events:
                made = events.get_final_response()
        else:
            made = chat.responses.parse(model="auto", input="Where?", text_format=City)

        assert made.output_parsed == PARIS
        self._schema_arrived(llmock, kind)

    @DIALECTS
    @STREAM
    def test_messages_parses_the_structured_answer(
        self, gateway: GatewayProcess, llmock: LLMock, messages: Any, kind: str, stream: bool
    ) -> None:
        self._vendor(gateway, llmock, kind)

        if stream:
            with messages.messages.stream(model="auto", max_tokens=50, messages=asked(), output_format=City) as events:
                made = events.get_final_message()
        else:
            made = messages.messages.parse(model="auto", max_tokens=50, messages=asked(), output_format=City)

        assert made.parsed_output == PARIS
        self._schema_arrived(llmock, kind)

    @staticmethod
    def _vendor(gateway: GatewayProcess, llmock: LLMock, kind: str) -> None:
        configure(gateway, llmock, kind)
        llmock.reply(PARIS.model_dump_json())

    @staticmethod
    def _schema_arrived(llmock: LLMock, kind: str) -> None:
        [call] = llmock.requests
        assert '"people"' in json.dumps(call.body), kind


class TestPictures:
    """Images as data, translated from each protocol's format to each dialect's."""

    @DIALECTS
    def test_an_image_of_chat_completions_is_translated(
        self, gateway: GatewayProcess, llmock: LLMock, chat: Any, kind: str
    ) -> None:
        configure(gateway, llmock, kind)
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}

        chat.chat.completions.create(model="auto", messages=asked([{"type": "text", "text": "What?"}, part]))

        self._arrived(llmock, kind)

    @DIALECTS
    def test_an_image_of_responses_is_translated(
        self, gateway: GatewayProcess, llmock: LLMock, chat: Any, kind: str
    ) -> None:
        configure(gateway, llmock, kind)
        part = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"}

        chat.responses.create(model="auto", input=asked([{"type": "input_text", "text": "What?"}, part]))

        self._arrived(llmock, kind)

    @DIALECTS
    def test_an_image_of_messages_is_translated(
        self, gateway: GatewayProcess, llmock: LLMock, messages: Any, kind: str
    ) -> None:
        configure(gateway, llmock, kind)
        part = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}

        messages.messages.create(model="auto", max_tokens=50, messages=asked([part, {"type": "text", "text": "What?"}]))

        self._arrived(llmock, kind)

    @staticmethod
    def _arrived(llmock: LLMock, kind: str) -> None:
        [call] = llmock.requests
        shape = {
            "openai": '"url": "data:image/png;base64,',
            "anthropic": '"media_type": "image/png"',
            "gemini": '"mimeType": "image/png"',
        }[kind]
        sent = json.dumps(call.body)
        assert PIXEL in sent
        assert shape in sent or "input_image" in sent


class TestParallelTools:
    """Two tool calls in one answer, and both results in the next request."""

    @DIALECTS
    @STREAM
    def test_chat_completions_translates_both_calls_and_results(
        self, gateway: GatewayProcess, llmock: LLMock, chat: Any, kind: str, stream: bool
    ) -> None:
        self._vendor(gateway, llmock, kind)
        tools = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]

        if stream:
            with chat.chat.completions.stream(model="auto", messages=asked(), tools=tools) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = chat.chat.completions.create(model="auto", messages=asked(), tools=tools).choices[0].message
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": f"sunny in {json.loads(call.function.arguments)['city']}",
            }
            for call in message.tool_calls
        ]
        calls = [
            call.model_dump(include={"id": True, "type": True, "function": {"name", "arguments"}})
            for call in message.tool_calls
        ]
        said = {"role": "assistant", "content": None, "tool_calls": calls}
        made = chat.chat.completions.create(model="auto", messages=[*asked(), said, *results], tools=tools)

        assert made.choices[0].message.content == "Sunny."
        self._results_arrived(llmock)

    @DIALECTS
    @STREAM
    def test_responses_translates_both_calls_and_results(
        self, gateway: GatewayProcess, llmock: LLMock, chat: Any, kind: str, stream: bool
    ) -> None:
        self._vendor(gateway, llmock, kind)
        tools = [{"type": "function", "name": "weather", "parameters": PLACE, "strict": False}]

        if stream:
            with chat.responses.stream(model="auto", input=asked(), tools=tools) as events:
                made = events.get_final_response()
        else:
            made = chat.responses.create(model="auto", input=asked(), tools=tools)
        calls = [item for item in made.output if item.type == "function_call"]
        said = [
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
            for call in calls
        ]
        results = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": f"sunny in {json.loads(call.arguments)['city']}",
            }
            for call in calls
        ]
        made = chat.responses.create(model="auto", input=[*asked(), *said, *results], tools=tools)

        assert made.output_text == "Sunny."
        self._results_arrived(llmock)

    @DIALECTS
    @STREAM
    def test_messages_translates_both_calls_and_results(
        self, gateway: GatewayProcess, llmock: LLMock, messages: Any, kind: str, stream: bool
    ) -> None:
        self._vendor(gateway, llmock, kind)
        given = {"model": "auto", "max_tokens": 50, "tools": [{"name": "weather", "input_schema": PLACE}]}

        if stream:
            with messages.messages.stream(**given, messages=asked()) as events:
                made = events.get_final_message()
        else:
            made = messages.messages.create(**given, messages=asked())
        uses = [block for block in made.content if block.type == "tool_use"]
        said = [{"type": "tool_use", "id": use.id, "name": use.name, "input": use.input} for use in uses]
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": f"sunny in {use.input['city']}"} for use in uses
        ]
        turns = [*asked(), {"role": "assistant", "content": said}, {"role": "user", "content": results}]
        made = messages.messages.create(**given, messages=turns)

        assert made.content[0].text == "Sunny."
        self._results_arrived(llmock)

    @staticmethod
    def _vendor(gateway: GatewayProcess, llmock: LLMock, kind: str) -> None:
        configure(gateway, llmock, kind)
        llmock.add(Reply(tool_calls=CITIES, match=Match(provider=kind))).reply("Sunny.")

    @staticmethod
    def _results_arrived(llmock: LLMock) -> None:
        sent = json.dumps(llmock.requests[-1].body)
        assert sent.index("sunny in Paris") < sent.index("sunny in Rome")


@STREAM
def test_the_sdks_retry_as_the_gateways_headers_say(
    gateway: GatewayProcess, llmock: LLMock, chat: Any, messages: Any, stream: bool
) -> None:
    """The SDKs retry after the gateway's retry-after, and not at all if x-should-retry is false."""
    configure(gateway, llmock, "openai")
    given = {
        "model": "auto", "messages": asked(), "stream": stream, "max_tokens": 9,
        "extra_headers": {"cache-control": "no-store"},
    }  # fmt: skip
    retrying: list[Any] = [chat.with_options(max_retries=2).chat.completions]
    retrying.append(messages.with_options(max_retries=2).messages)
    for sdk in retrying:
        llmock.reset()
        llmock.rate_limit(retry_after=1, provider="openai")
        began = time.monotonic()
        made = sdk.create(**given)
        if stream:
            list(made)
        assert time.monotonic() - began >= 0.95
        assert [call.status for call in llmock.requests] == [429, 200]

    llmock.reset()
    for _ in range(3):
        llmock.context_overflow(provider="openai")
    with pytest.raises(openai.BadRequestError):
        chat.with_options(max_retries=2).chat.completions.create(model="auto", messages=asked("no use"), stream=stream)
    assert len(llmock.requests) == 1


def test_a_body_passes_through_untouched(gateway: GatewayProcess, llmock: LLMock) -> None:
    """A body for a vendor of the client's protocol passes with all fields, known to the gateway or not."""
    configure(gateway, llmock, "openai")
    body: dict[str, Any] = {
        "model": "auto",
        "messages": [{"role": "user", "content": "Where?", "name": "me", "x_part": 1}],
        "n": 2, "seed": 7, "logprobs": True, "top_logprobs": 3, "stop": ["END"], "logit_bias": {"50256": -100},
        "user": "customer", "metadata": {"a": "b"}, "x_future": {"deep": [1, None, 2.5]}, "temperature": 1e-3,
    }  # fmt: skip

    answer = gateway.call("POST", "/v1/chat/completions", body, cache_control="no-store")

    assert answer.status == 200
    assert answer.headers["x-gateway-provider"] == "my-openai"
    assert llmock.requests[-1].body == {**body, "model": "gpt-4o-mini"}
    customers = gateway.call("GET", "/api/v1/usage/by-customer?days=1").json
    assert "customer" in [row["user_id"] for row in customers]


def test_fields_that_a_vendor_does_not_support_are_named(gateway: GatewayProcess, llmock: LLMock, chat: Any) -> None:
    """Hints are dropped and listed in a header; fields that would change the answer are rejected by name."""
    configure(gateway, llmock, "anthropic")

    made = chat.chat.completions.with_raw_response.create(model="auto", messages=asked(), seed=7, max_tokens=9)
    assert "seed" in made.headers["x-gateway-dropped"]
    with pytest.raises(openai.BadRequestError) as refused:
        chat.chat.completions.create(model="auto", messages=asked(), n=2)
    assert refused.value.param == "n"
    with pytest.raises(openai.BadRequestError) as stored:
        chat.responses.create(model="auto", input="Where?", previous_response_id="resp_1")
    assert stored.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as logprobs:
        chat.responses.create(model="auto", input="Where?", top_logprobs=2)
    assert logprobs.value.param == "top_logprobs", "in the words of the protocol that was spoken"
    with pytest.raises(openai.BadRequestError) as stream:
        chat.chat.completions.create(model="auto", messages=asked(), extra_body={"stream": "true"})
    assert stream.value.param == "stream"
    unknown = {"temprature": 1, "next_months_field": {"a": 1}}
    made = chat.chat.completions.with_raw_response.create(model="auto", messages=asked(), extra_body=unknown)
    assert made.headers["x-gateway-dropped"] == "temprature, next_months_field"
    with pytest.raises(openai.BadRequestError) as decisive:
        chat.chat.completions.create(model="auto", messages=asked(), extra_body={"web_search_options": {"a": 1}})
    assert decisive.value.param == "web_search_options"
    assert len(llmock.requests) == 2
