"""Compatibility with Google's SDK: it reads our responses, and we read its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    Image,
    Reasoning,
    ResponseFormat,
    Text,
    TextDelta,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.domain.usage import Usage
from llm_gateway.errors import Invalid, Overloaded
from llm_gateway.protocols import gemini, gemini_embeddings
from llm_gateway.protocols.descriptor import ListedModel
from llm_gateway.protocols.gemini.model_list import write_models
from llm_gateway.protocols.gemini.token_count import counted_request, write_count
from tests.protocols.gemini.replies import CONTEXT

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ANSWER = Completion(
    choices=[
        Choice(
            parts=[
                Thinking(text="Hm, a city", signature="c2ln+/=="),
                Text(text="Let me see", signature="dGV4dA=="),
                ToolCall(id="toolu_1", name="weather", arguments='{"city": "Paris"}', signature="Y2FsbA=="),
            ],
            finish_reason="tool_calls",
        )
    ],
    usage=Usage(input_tokens=10, output_tokens=9, cache_read_tokens=4, reasoning_tokens=2),
    model="claude-haiku-4-5",
)


class Server:
    """A server that records the paths and bodies of requests and answers each with the same bytes."""

    def __init__(self) -> None:
        self.status = 200
        self.content_type = "application/json"
        self.answer = b""
        self.path = ""
        self.documents: list[Any] = []
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.documents.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.do_GET()

            def do_GET(self) -> None:
                kept.path = self.path
                self.send_response(kept.status)
                self.send_header("content-type", kept.content_type)
                self.send_header("content-length", str(len(kept.answer)))
                self.end_headers()
                self.wfile.write(kept.answer)

            def log_message(self, *_: object) -> None:
                """Not to the terminal."""

        self.http = HTTPServer(("127.0.0.1", 0), Handler)

    def say(self, answer: bytes, status: int = 200, content_type: str = "application/json") -> None:
        """Answer so from now on."""
        self.answer, self.status, self.content_type = answer, status, content_type
        self.documents = []


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


@pytest.fixture
def client(running: Server) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{running.http.server_port}", api_version="v1beta")
    with genai.Client(api_key="key", http_options=options) as made:
        yield made


def stream_of(completion: Completion) -> bytes:
    """Return the events of a reply, with keep-alive bytes between them."""
    writer = gemini.StreamWriter(CONTEXT)
    pieces = [writer.write(chunk) for chunk in chunks_of(completion)]
    return writer.keep_alive.join([b"", *pieces, writer.end()])


def test_the_sdk_reads_a_complete_reply(running: Server, client: genai.Client) -> None:
    running.say(gemini.write_reply(ANSWER, CONTEXT))
    found = client.models.generate_content(model="m", contents="Hi")

    assert running.path == "/v1beta/models/m:generateContent"
    [call] = found.function_calls or []
    assert (call.id, call.name, call.args) == ("toolu_1", "weather", {"city": "Paris"})
    assert (found.candidates or [])[0].finish_reason is types.FinishReason.STOP
    assert (found.model_version, found.response_id) == ("claude-haiku-4-5", "request-1")
    usage = found.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (10, 7, 2)
    assert (usage.cached_content_token_count, usage.total_token_count) == (4, 19)


def test_the_sdk_reads_a_stream(running: Server, client: genai.Client) -> None:
    running.say(stream_of(ANSWER), content_type="text/event-stream")
    chunks = list(client.models.generate_content_stream(model="m", contents="Hi"))

    assert running.path == "/v1beta/models/m:streamGenerateContent?alt=sse"
    parts = [
        part for chunk in chunks for part in (chunk.candidates or [])[0].content.parts  # type: ignore[union-attr]
    ]  # fmt: skip
    assert [part.text for part in parts if part.thought] == ["Hm, a city"]
    assert "".join(part.text for part in parts if part.text and not part.thought) == "Let me see"
    assert [part.function_call.name for part in parts if part.function_call] == ["weather"]
    assert chunks[-1].usage_metadata is not None
    assert chunks[-1].usage_metadata.total_token_count == 19


@pytest.mark.parametrize("streams", [False, True])
def test_a_chat_of_the_sdk_returns_the_models_answer_unchanged(
    running: Server, client: genai.Client, streams: bool
) -> None:
    chat = client.chats.create(model="m")
    if streams:
        running.say(stream_of(ANSWER), content_type="text/event-stream")
        assert list(chat.send_message_stream("Hi"))
    else:
        running.say(gemini.write_reply(ANSWER, CONTEXT))
        chat.send_message("Hi")
    running.say(gemini.write_reply(ANSWER, CONTEXT))
    chat.send_message(
        [types.Part(function_response=types.FunctionResponse(id="toolu_1", name="weather", response={"result": "sun"}))]
    )

    turns = gemini.read_request(running.documents[0]).conversation.turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    thought, text, call = turns[1].parts
    assert thought == Thinking(text="Hm, a city", signature="c2ln+/==")
    assert text == Text(text="Let me see", signature="dGV4dA==")
    assert call == ToolCall(id="toolu_1", name="weather", arguments='{"city":"Paris"}', signature="Y2FsbA==")
    assert turns[2].parts == [ToolResult(call_id="toolu_1", name="weather", content=[Text(text="sun")])]


def test_the_sdk_raises_an_error_response(running: Server, client: genai.Client) -> None:
    running.say(gemini.write_error(Invalid("contents is required.", loc=("body", "contents")), "request-1"), 422)
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model="m", contents="Hi")

    assert (caught.value.code, caught.value.status) == (422, "INVALID_ARGUMENT")
    assert caught.value.message == "contents is required."


def test_the_sdk_raises_an_error_within_a_stream(running: Server, client: genai.Client) -> None:
    writer = gemini.StreamWriter(CONTEXT)
    body = writer.write(TextDelta(text="Hel")) + writer.error("It broke.", Overloaded.code)
    running.say(body, content_type="text/event-stream")
    came = []
    with pytest.raises(errors.ServerError) as caught:
        came += [chunk.text for chunk in client.models.generate_content_stream(model="m", contents="Hi")]

    assert (caught.value.code, caught.value.status, caught.value.message) == (503, "UNAVAILABLE", "It broke.")


def test_a_request_of_the_sdk_is_read(running: Server, client: genai.Client) -> None:
    def declared(name: str, **schema: Any) -> types.FunctionDeclaration:
        return types.FunctionDeclaration(name=name, description="d", **schema)

    running.say(gemini.write_reply(ANSWER, CONTEXT))
    string = types.Schema(type=types.Type.STRING)
    google = types.Schema(type=types.Type.OBJECT, properties={"city": string}, required=["city"])
    client.models.generate_content(
        model="m",
        contents=["What is this?", types.Part.from_bytes(data=b"\xff\xfe\xfb", mime_type="image/png")],
        config=types.GenerateContentConfig(
            system_instruction="Be brief",
            tools=[
                types.Tool(
                    function_declarations=[
                        declared("weather", parameters=google),
                        declared("time", parameters_json_schema=SCHEMA),
                    ]
                )
            ],
            tool_config=types.ToolConfig(
                function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
            ),
            response_mime_type="application/json",
            response_schema=google,
            max_output_tokens=50,
            temperature=0.5,
            top_k=40,
            stop_sequences=["END"],
            thinking_config=types.ThinkingConfig(thinking_budget=1024, include_thoughts=True),
            safety_settings=[
                types.SafetySetting(
                    category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                    threshold=types.HarmBlockThreshold.BLOCK_NONE,
                )
            ],
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        ),
    )

    read = gemini.read_request(running.documents[0])
    found = read.conversation
    assert read.dropped == ("safetySettings",)
    assert found.turns[0].parts == [Text(text="Be brief")]
    assert found.turns[1].parts == [Text(text="What is this?"), Image(media_type="image/png", data="//77")]
    assert [tool.parameters for tool in found.tools] == [SCHEMA, SCHEMA]
    assert (found.tool_choice, found.format) == (ToolChoice(mode="required"), ResponseFormat(schema=SCHEMA))
    assert (found.max_tokens, found.temperature, found.top_k, found.stop) == (50, 0.5, 40, ["END"])
    assert found.reasoning == Reasoning(budget_tokens=1024, show=True)


def test_the_sdk_reads_models_token_counts_and_embeddings(running: Server, client: genai.Client) -> None:
    running.say(write_models([ListedModel("gpt-4o", "openai", 0)], {}))
    assert [model.name for model in client.models.list()] == ["models/gpt-4o"]

    running.say(write_count(7))
    assert client.models.count_tokens(model="m", contents="Hi").total_tokens == 7
    assert gemini.read_request(counted_request(running.documents[0])).conversation.turns[0].parts == [Text(text="Hi")]

    openai = json.dumps({"data": [{"index": 0, "embedding": [0.5, 0.25]}]}).encode()
    running.say(gemini_embeddings.from_openai(openai, is_batch=True))
    config = types.EmbedContentConfig(output_dimensionality=2)
    [vector] = client.models.embed_content(model="m", contents="Hi", config=config).embeddings or []
    assert running.path == "/v1beta/models/m:batchEmbedContents"
    assert vector.values == [0.5, 0.25]
    assert gemini_embeddings.to_openai(running.documents[0], "m").document == {
        "model": "m",
        "input": ["Hi"],
        "dimensions": 2,
    }
