"""Official SDKs with the gateway as base URL, over vendors of each dialect, in all pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types
from llmock.pytest_plugin import LLMock

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.sdk_clients import closed_later
from tests.e2e.test_dialects import DIALECTS, MODELS, OTHERS, configure

TEXT = "The capital is Paris. It is a large town."
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASKED = {"city": "Paris"}
FRESH = {"cache-control": "no-cache"}
DUMMIES = {"Authorization": "Bearer unused", "x-api-key": "unused", "x-goog-api-key": "unused"}
"""What the SDKs send if somebody gives them no key of the gateway, since they cannot be made without one."""


class Chat:
    """OpenAI's SDK, chat completions."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.client = closed_later(
            openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0)
        )
        self.messages: list[Any] = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Where?"}]
        self.tools: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]

    def text(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        made = self.client.chat.completions.create(model=model, messages=self.messages, max_tokens=50, **more)
        assert made.usage is not None
        assert made.choices[0].finish_reason == "stop"
        return made.choices[0].message.content or "", made.usage.prompt_tokens, made.usage.completion_tokens

    def stream(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        texts, used, reasons = [], (0, 0), []
        options: Any = {"include_usage": True}
        for chunk in self.client.chat.completions.create(
            model=model, messages=self.messages, stream=True, stream_options=options, **more
        ):
            texts += [choice.delta.content or "" for choice in chunk.choices]
            reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            if chunk.usage is not None:
                used = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        assert reasons == ["stop"]
        return "".join(texts), *used

    def tool(self, *, stream: bool) -> str:
        """Let the model call a tool, send the result, and return the final text."""
        if stream:
            with self.client.chat.completions.stream(model="auto", messages=self.messages, tools=self.tools) as events:
                message: Any = events.get_final_completion().choices[0].message
        else:
            message = (
                self.client.chat.completions.create(model="auto", messages=self.messages, tools=self.tools)
                .choices[0]
                .message
            )
        [call] = message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ASKED)
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        function = {"name": call.function.name, "arguments": call.function.arguments}
        answered: Any = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        }
        made = self.client.chat.completions.create(
            model="auto",
            messages=[*self.messages, answered, result],
            tools=self.tools,
        )
        return made.choices[0].message.content or ""


class Responses:
    """OpenAI's SDK, responses."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.client = closed_later(
            openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0)
        )
        self.tools: list[Any] = [{"type": "function", "name": "weather", "parameters": PLACE, "strict": False}]

    def text(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        made = self.client.responses.create(model=model, instructions="Be brief", input="Where?", **more)
        assert made.usage is not None
        assert made.status == "completed"
        return made.output_text, made.usage.input_tokens, made.usage.output_tokens

    def stream(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        with self.client.responses.stream(model=model, instructions="Be brief", input="Where?", **more) as events:
            numbers = [event.sequence_number for event in events]
            made = events.get_final_response()
        assert numbers == list(range(len(numbers)))
        assert made.usage is not None
        return made.output_text, made.usage.input_tokens, made.usage.output_tokens

    def tool(self, *, stream: bool) -> str:
        asked: list[Any] = [{"role": "user", "content": "Where?"}]
        if stream:
            with self.client.responses.stream(model="auto", input=asked, tools=self.tools) as events:
                for _ in events:
                    pass
                made: Any = events.get_final_response()
        else:
            made = self.client.responses.create(model="auto", input=asked, tools=self.tools)
        [call] = [item for item in made.output if item.type == "function_call"]
        assert (call.name, json.loads(call.arguments)) == ("weather", ASKED)
        asked += [
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ]
        return self.client.responses.create(model="auto", input=asked, tools=self.tools).output_text


class Messages:
    """Anthropic's SDK."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.client = closed_later(
            anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=KEY, max_retries=0)
        )
        self.asked: dict[str, Any] = {
            "system": "Be brief",
            "messages": [{"role": "user", "content": "Where?"}],
            "max_tokens": 50,
        }
        self.tools: list[Any] = [{"name": "weather", "input_schema": PLACE}]

    def text(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        return self._told(self.client.messages.create(model=model, **self.asked, **more))

    def stream(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        with self.client.messages.stream(model=model, **self.asked, **more) as events:
            texts = "".join(events.text_stream)
            made = events.get_final_message()
        text, asked, answered = self._told(made)
        assert texts == text
        return text, asked, answered

    @staticmethod
    def _told(made: Any) -> tuple[str, int, int]:
        assert made.stop_reason == "end_turn"
        return "".join(block.text for block in made.content), made.usage.input_tokens, made.usage.output_tokens

    def tool(self, *, stream: bool) -> str:
        if stream:
            with self.client.messages.stream(model="auto", **self.asked, tools=self.tools) as events:
                made: Any = events.get_final_message()
        else:
            made = self.client.messages.create(model="auto", **self.asked, tools=self.tools)
        assert made.stop_reason == "tool_use"
        [use] = [block for block in made.content if block.type == "tool_use"]
        assert (use.name, use.input) == ("weather", ASKED)
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        use_block = {"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}
        asked = {
            **self.asked,
            "messages": [
                *self.asked["messages"],
                {"role": "assistant", "content": [use_block]},
                {"role": "user", "content": [result]},
            ],
        }
        then: Any = self.client.messages.create(model="auto", **asked, tools=self.tools)
        return "".join(block.text for block in then.content)


class Content:
    """Google's SDK."""

    def __init__(self, gateway: GatewayProcess) -> None:
        options = types.HttpOptions(base_url=f"http://127.0.0.1:{gateway.port}")
        self.client = closed_later(genai.Client(api_key=KEY, http_options=options))
        self.weather = types.FunctionDeclaration(name="weather", parameters_json_schema=PLACE)

    def config(self, extra_headers: dict[str, str] | None = None, **more: Any) -> types.GenerateContentConfig:
        options = types.HttpOptions(headers=extra_headers)
        return types.GenerateContentConfig(
            system_instruction="Be brief", max_output_tokens=50, http_options=options, **more
        )

    def text(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        config = self.config(**more)
        return self._told([self.client.models.generate_content(model=model, contents="Where?", config=config)])

    def stream(self, model: str = "auto", **more: Any) -> tuple[str, int, int]:
        config = self.config(**more)
        return self._told(
            list(self.client.models.generate_content_stream(model=model, contents="Where?", config=config))
        )

    @staticmethod
    def _told(made: list[types.GenerateContentResponse]) -> tuple[str, int, int]:
        reasons = [one.candidates[0].finish_reason for one in made if one.candidates]
        assert [reason for reason in reasons if reason] == [types.FinishReason.STOP]
        used = made[-1].usage_metadata
        assert used is not None
        texts = "".join(one.text or "" for one in made)
        return texts, used.prompt_token_count or 0, used.candidates_token_count or 0

    def tool(self, *, stream: bool) -> str:
        config = self.config(tools=[types.Tool(function_declarations=[self.weather])])
        chat = self.client.chats.create(model="auto", config=config)
        said = list(chat.send_message_stream("Where?")) if stream else [chat.send_message("Where?")]
        [call] = [call for one in said for call in one.function_calls or ()]
        assert (call.name, call.args) == ("weather", ASKED)
        result = types.Part.from_function_response(name="weather", response={"result": "sunny"})
        return chat.send_message(result).text or ""


def booked(gateway: GatewayProcess, provider: str) -> tuple[int, int]:
    """Return a provider's requests and tokens in the usage report."""
    rows = gateway.call("GET", "/api/v1/usage/by-provider?days=1").json
    return next(((r["request_count"], r["total_tokens"]) for r in rows if r["provider_name"] == provider), (0, 0))


SURFACES = pytest.mark.parametrize("surface", [Chat, Responses, Messages, Content])
Client = Chat | Responses | Messages | Content


@SURFACES
@DIALECTS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_is_returned_and_its_usage_counted(
    gateway: GatewayProcess, llmock: LLMock, kind: str, surface: Callable[[GatewayProcess], Client], stream: bool
) -> None:
    name = configure(gateway, llmock, kind)
    llmock.reply(TEXT)
    client, before = surface(gateway), booked(gateway, name)

    told = client.stream() if stream else client.text()

    assert told == (TEXT, told[1], 10)
    assert told[1] > 0
    [call] = llmock.requests
    assert (call.provider, call.status, call.model) == (kind, 200, MODELS[kind])
    after = booked(gateway, name)
    assert (after[0] - before[0], after[1] - before[1]) == (1, told[1] + told[2])
    llmock.assert_resilient(strict=True)


@SURFACES
@DIALECTS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_call_and_its_result_are_translated(
    gateway: GatewayProcess, llmock: LLMock, kind: str, surface: Callable[[GatewayProcess], Client], stream: bool
) -> None:
    configure(gateway, llmock, kind)
    llmock.call_tool("weather", ASKED).reply("It is sunny.")

    assert surface(gateway).tool(stream=stream) == "It is sunny."
    assert len(llmock.requests) == 2


@SURFACES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_another_vendor_answers_when_others_fail(
    gateway: GatewayProcess, llmock: LLMock, surface: Callable[[GatewayProcess], Client], stream: bool
) -> None:
    for kind in MODELS:
        configure(gateway, llmock, kind, priority={"openai": 30, "anthropic": 20, "gemini": 10}[kind])
    llmock.fail(503, provider="openai").fail(529, provider="anthropic").reply(TEXT, provider="gemini")
    client = surface(gateway)

    assert (client.stream() if stream else client.text())[0] == TEXT
    assert [call.provider for call in llmock.requests] == ["openai", "anthropic", "gemini"]


@SURFACES
def test_a_model_is_requested_by_its_name_or_provider(
    gateway: GatewayProcess, llmock: LLMock, surface: Callable[[GatewayProcess], Client]
) -> None:
    for kind in MODELS:
        configure(gateway, llmock, kind)
    client = surface(gateway)
    for kind, model in MODELS.items():
        llmock.reply(kind, provider=kind)
        assert client.text(model, extra_headers=FRESH)[0] == kind
        llmock.reply("pinned", provider=OTHERS[kind])
        assert client.text(f"my-{OTHERS[kind]}/{MODELS[OTHERS[kind]]}", extra_headers=FRESH)[0] == "pinned"

    with pytest.raises(
        (openai.NotFoundError, anthropic.NotFoundError, errors.ClientError),
        match="Available models: auto, claude-haiku",
    ):
        client.text("no-such-model")


@SURFACES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_headers_name_the_key_and_the_billed_customer_and_service(
    gateway: GatewayProcess, llmock: LLMock, surface: Callable[[GatewayProcess], Client], stream: bool
) -> None:
    configure(gateway, llmock, "openai")
    llmock.reply(TEXT)
    client = surface(gateway)
    who = f"{surface.__name__}-{stream}"
    headers = {"x-user-id": f"customer-{who}", "x-service-name": f"shop-{who}", "x-task-type": "summary"}
    headers |= DUMMIES | {"X-Service-Key": KEY}

    (client.stream if stream else client.text)(extra_headers=headers)

    customers = gateway.call("GET", "/api/v1/usage/by-customer?days=1").json
    services = gateway.call("GET", "/api/v1/usage/by-service?days=1").json
    assert f"customer-{who}" in [row["user_id"] for row in customers]
    assert f"shop-{who}" in [row["service_name"] for row in services]


ERRORS = [
    (400, "Bad request", (openai.BadRequestError, anthropic.BadRequestError, errors.ClientError)),
    (500, "Internal server error", (openai.InternalServerError, anthropic.InternalServerError, errors.ServerError)),
]


@SURFACES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("status", "words", "own"), ERRORS)
def test_errors_raise_the_sdks_own_exceptions(
    gateway: GatewayProcess,
    llmock: LLMock,
    surface: Callable[[GatewayProcess], Client],
    stream: bool,
    status: int,
    words: str,
    own: tuple[type[Exception], ...],
) -> None:
    configure(gateway, llmock, "openai")
    for _ in range(3):  # a lone provider is tried three times
        llmock.fail(status, provider="openai")
    client = surface(gateway)

    with pytest.raises(own, match=words):
        (client.stream if stream else client.text)()
    bad: Any = closed_later(
        openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="wrong", max_retries=0)
    )
    with pytest.raises(openai.AuthenticationError):
        bad.models.list()


def test_models_are_listed_and_a_wrong_key_is_rejected(gateway: GatewayProcess, llmock: LLMock) -> None:
    configure(gateway, llmock, "anthropic")
    chat, messages = Chat(gateway).client, Messages(gateway).client

    named = ["auto", MODELS["anthropic"], f"my-anthropic/{MODELS['anthropic']}"]
    assert [model.id for model in chat.models.list()] == named
    assert [model.id for model in messages.models.list()] == named
    assert chat.models.retrieve(named[2]).owned_by == "my-anthropic"
    asked: Any = [{"role": "user", "content": "x" * 400}]
    assert messages.messages.count_tokens(model="auto", messages=asked).input_tokens > 90
    with pytest.raises(anthropic.AuthenticationError):
        messages.with_options(api_key="wrong").models.list()


def test_embeddings_are_returned_and_billed(gateway: GatewayProcess, llmock: LLMock) -> None:
    name = configure(gateway, llmock, "openai")
    before = booked(gateway, name)[1]

    made = Chat(gateway).client.embeddings.create(model="auto", input=["one", "two"])

    assert len(made.data) == 2
    assert booked(gateway, name)[1] > before, "the mock counts nothing, so they are estimated"
