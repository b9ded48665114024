"""Google's SDK `google-genai` against the gateway, over vendors of each dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Match, Reply, StreamFault
from pydantic import BaseModel

from tests.clients.conftest import MODELS
from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.streaming_vendor import StreamingVendor

TEXT = "The capital is Paris. It is a large town."
IMAGE = b"\x89PNG\r\n\x1a\n"
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Capital(BaseModel):
    """A town."""

    city: str
    people: int | None


PARIS = Capital(city="Paris", people=2_000_000)


@pytest.fixture
def client(gateway: GatewayProcess) -> genai.Client:
    """Provide the SDK, which reads the gateway's address and key from its variables."""
    return genai.Client()


def said(client: genai.Client, *, stream: bool, **fields: Any) -> tuple[str, types.GenerateContentResponse]:
    """Send a request. Returns the text of the answer, and its last chunk."""
    asked = {"model": "auto", "contents": "Where?", **fields}
    made = list(client.models.generate_content_stream(**asked)) if stream else [client.models.generate_content(**asked)]
    return "".join(one.text or "" for one in made), made[-1]


@STREAM
def test_text_is_returned_whole_and_streamed(client: genai.Client, llmock: LLMock, vendor: str, stream: bool) -> None:
    llmock.reply(TEXT)

    text, last = said(client, stream=stream)

    assert text == TEXT
    assert last.usage_metadata is not None
    assert (last.usage_metadata.candidates_token_count or 0) > 0
    assert last.candidates is not None
    assert last.candidates[0].finish_reason is types.FinishReason.STOP
    assert [call.model for call in llmock.requests] == [MODELS[vendor]]
    llmock.assert_resilient(strict=True)


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # the SDK's own
@pytest.mark.usefixtures("vendor")
async def test_text_is_returned_by_the_asynchronous_client(client: genai.Client, llmock: LLMock) -> None:
    llmock.reply(TEXT, times=2)

    async with client.aio as asking:
        whole = await asking.models.generate_content(model="auto", contents="Where?")
        events = await asking.models.generate_content_stream(model="auto", contents="Where is it?")
        streamed = "".join([one.text or "" async for one in events])

    assert (whole.text, streamed) == (TEXT, TEXT)


def test_a_model_can_be_requested_by_its_provider(client: genai.Client, llmock: LLMock, vendor: str) -> None:
    llmock.reply(TEXT)
    assert said(client, stream=False, model=f"my-{vendor}/{MODELS[vendor]}", contents="By name")[0] == TEXT


@STREAM
def test_functions_are_called_by_the_sdk_itself(
    client: genai.Client, llmock: LLMock, vendor: str, stream: bool
) -> None:
    """Automatic function calling: the SDK declares a Python function, calls it, and sends the result."""
    asked = []

    def weather(city: str) -> dict[str, str]:
        """Tell the weather of a city."""
        asked.append(city)
        return {"weather": "sunny"}

    llmock.call_tool("weather", {"city": "Paris"}).reply("It is sunny.")
    config = types.GenerateContentConfig(tools=[weather])

    assert said(client, stream=stream, config=config)[0] == "It is sunny."

    assert asked == ["Paris"]
    assert "sunny" in json.dumps(llmock.last_request.body), vendor


@STREAM
@pytest.mark.usefixtures("vendor")
def test_a_chat_keeps_its_tool_calls(client: genai.Client, llmock: LLMock, stream: bool) -> None:
    place = {"type": "object", "properties": {"city": {"type": "string"}}}
    declared = types.FunctionDeclaration(name="weather", description="Weather", parameters_json_schema=place)
    calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
    chat = client.chats.create(model="auto")
    llmock.call_tool("weather", {"city": "Paris"}).reply("It is sunny.").reply("Paris.")

    def send(message: Any, config: Any = None) -> list[types.GenerateContentResponse]:
        return list(chat.send_message_stream(message, config)) if stream else [chat.send_message(message, config)]

    tools = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    made = send("Where?", tools.model_copy(update={"tool_config": types.ToolConfig(function_calling_config=calling)}))
    [call] = [call for one in made for call in one.function_calls or ()]
    assert (call.name, call.args) == ("weather", {"city": "Paris"})
    result = types.Part.from_function_response(name="weather", response={"output": "sunny"})
    assert "".join(one.text or "" for one in send(result, tools)) == "It is sunny."
    assert "".join(one.text or "" for one in send("Of which town?", tools)) == "Paris."

    assert [content.role for content in chat.get_history(curated=True)].count("user") == 3, "none is thrown away"
    assert len(llmock.requests) == 3


@STREAM
@pytest.mark.parametrize("spelling", ["response_schema", "response_json_schema"])
def test_structured_output_is_parsed_by_the_sdk(
    client: genai.Client, llmock: LLMock, vendor: str, stream: bool, spelling: str
) -> None:
    llmock.reply(PARIS.model_dump_json())
    schema: Any = Capital if spelling == "response_schema" else Capital.model_json_schema()
    config = types.GenerateContentConfig(response_mime_type="application/json", **{spelling: schema})

    text, last = said(client, stream=stream, config=config, contents=f"{spelling} {stream}")

    assert Capital.model_validate_json(text).model_dump() == PARIS.model_dump()
    if not stream and spelling == "response_schema":
        assert isinstance(last.parsed, Capital)
    assert '"people"' in json.dumps(llmock.last_request.body), vendor


@pytest.mark.usefixtures("vendor")
def test_generation_settings_and_an_image_are_translated(client: genai.Client, llmock: LLMock) -> None:
    llmock.reply(TEXT)
    config = types.GenerateContentConfig(
        system_instruction="Be brief", temperature=0.5, max_output_tokens=77, stop_sequences=["END"]
    )
    picture = types.Part.from_bytes(data=IMAGE, mime_type="image/png")

    assert said(client, stream=False, config=config, contents=["What is this?", picture])[0] == TEXT

    sent = json.dumps(llmock.last_request.body)
    for part in ("Be brief", "0.5", "77", "END", "iVBORw0KGgo"):
        assert part in sent


@pytest.mark.usefixtures("vendor")
def test_tokens_are_counted_without_an_upstream_call(client: genai.Client, llmock: LLMock) -> None:
    counted = client.models.count_tokens(model="auto", contents="x" * 400).total_tokens
    assert counted is not None
    assert counted > 90
    assert llmock.requests == []


def test_models_are_listed_and_found_by_name(client: genai.Client, vendor: str) -> None:
    names = ["models/auto", f"models/{MODELS[vendor]}", f"models/my-{vendor}/{MODELS[vendor]}"]
    assert [model.name for model in client.models.list()] == names
    for name in names:
        assert client.models.get(model=name).name == name
    with pytest.raises(errors.ClientError, match="No enabled provider has the model"):
        client.models.get(model="no-such-model")


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


def test_embeddings_are_translated_or_passed_through(
    gateway: GatewayProcess, client: genai.Client, streamer: StreamingVendor
) -> None:
    config = types.EmbedContentConfig(output_dimensionality=1)
    for kind, answer in (
        ("openai", {"data": [{"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [0.25]}]}),
        ("gemini", {"embeddings": [{"values": [0.5]}, {"values": [0.25]}]}),
    ):
        streamer.answer = answer
        gateway.provider(kind, streamer.url, "embedder", kind=kind)
        made = client.models.embed_content(model=f"{kind}/embedder", contents=["one", "two"], config=config)
        assert [one.values for one in made.embeddings or ()] == [[0.5], [0.25]]
    assert [path.rpartition("/")[2] for path in streamer.paths] == ["embeddings", "embedder:batchEmbedContents"]
    gateway.provider("anthropic", streamer.url, "embedder", kind="anthropic")
    with pytest.raises(errors.ClientError, match="embeddings"):
        client.models.embed_content(model="anthropic/embedder", contents=["one"])


@STREAM
@pytest.mark.usefixtures("vendor")
def test_errors_raise_the_sdks_own_exceptions(client: genai.Client, llmock: LLMock, stream: bool) -> None:
    llmock.fail(400, message="too odd").outage(status=500)

    with pytest.raises(errors.ClientError, match="too odd") as refused:
        said(client, stream=stream)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    with pytest.raises(errors.ServerError, match="Internal server error") as failed:
        said(client, stream=stream)
    assert (failed.value.code, failed.value.status) == (502, "INTERNAL")
    with pytest.raises(errors.ClientError, match="Available models: auto") as unknown:
        said(client, stream=stream, model="no-such-model")
    assert unknown.value.code == 404
    with pytest.raises(errors.ClientError) as nobody:
        said(genai.Client(api_key="wrong"), stream=stream)
    assert nobody.value.code == 401


def test_an_error_in_the_middle_of_a_stream_raises(client: genai.Client, llmock: LLMock, vendor: str) -> None:
    llmock.add(StreamFault("disconnect", after_chunks=4, match=Match(provider=vendor, stream=True)))
    llmock.add(Reply(text=TEXT * 5))

    with pytest.raises(errors.ServerError, match=f"Provider my-{vendor}: ") as broken:
        said(client, stream=True, contents="A long story")

    assert broken.value.status == "UNAVAILABLE"


def test_a_rate_limit_error_has_a_retry_delay(gateway: GatewayProcess, client: genai.Client, llmock: LLMock) -> None:
    gateway.provider("my-openai", llmock.base_url("openai"), MODELS["openai"], kind="openai", rate_limit_rpm=1)
    llmock.reply(TEXT)
    said(client, stream=False, contents="The first")

    with pytest.raises(errors.ClientError) as limited:
        said(client, stream=False, contents="The second")

    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    [wait] = [one["retryDelay"] for one in limited.value.details["error"]["details"] if "retryDelay" in one]
    assert 50 < float(wait.removesuffix("s")) <= 61


def test_another_version_of_the_api_is_served_too(client: genai.Client, llmock: LLMock, vendor: str) -> None:
    llmock.reply(TEXT)
    with genai.Client(http_options=types.HttpOptions(api_version="v1")) as other:
        assert said(other, stream=True, contents="v1")[0] == TEXT
        assert next(iter(other.models.list())).name == "models/auto"
    assert KEY not in json.dumps(llmock.last_request.body), vendor
