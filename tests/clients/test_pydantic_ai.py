"""Pydantic AI's agents against the gateway: its models for three protocols, over vendors of each dialect."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles import ModelProfile

SURFACES = pytest.mark.parametrize("surface", [OpenAIChatModel, OpenAIResponsesModel, AnthropicModel])
Surface = Callable[..., Model]
TEXT = "The capital is Paris. It is a large town."


class Capital(BaseModel):
    """A town."""

    city: str
    people: int


PARIS = Capital(city="Paris", people=2_000_000)


@SURFACES
@pytest.mark.usefixtures("vendor")
async def test_an_answer_has_text_and_usage(llmock: LLMock, surface: Surface) -> None:
    llmock.reply(TEXT)

    made = await Agent(surface("auto"), instructions="Be brief").run("Where?")

    assert made.output == TEXT
    assert made.usage.input_tokens > 0
    assert made.usage.output_tokens == 10
    llmock.assert_resilient(strict=True)


@SURFACES
@pytest.mark.usefixtures("vendor")
async def test_a_stream_has_text_and_usage(llmock: LLMock, surface: Surface) -> None:
    llmock.reply(TEXT)

    async with Agent(surface("auto")).run_stream("Where?") as made:
        texts = [text async for text in made.stream_text(delta=True, debounce_by=None)]
        usage = made.usage

    assert len(texts) > 1
    assert "".join(texts) == TEXT
    assert usage.output_tokens == 10


@SURFACES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.usefixtures("vendor")
async def test_a_tool_round_trip(llmock: LLMock, surface: Surface, stream: bool) -> None:
    llmock.call_tool("weather", {"city": "Paris"}).reply(TEXT)
    agent = Agent(surface("auto"))

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"sunny in {city}"

    if stream:
        async with agent.run_stream("Where?") as made:
            text = await made.get_output()
    else:
        text = (await agent.run("Where?")).output

    assert text == TEXT
    assert len(llmock.requests) == 2
    assert "sunny in Paris" in json.dumps(llmock.last_request.body)


@SURFACES
@pytest.mark.usefixtures("vendor")
async def test_a_native_schema_reaches_the_vendor(llmock: LLMock, surface: Surface) -> None:
    llmock.reply(PARIS.model_dump_json())

    model = surface(
        "auto", profile=ModelProfile(supports_json_schema_output=True)
    )  # Pydantic AI derives that from model names, which "auto" is not
    made = await Agent(model, output_type=NativeOutput(Capital)).run("Where?")

    assert made.output == PARIS
    assert '"people"' in json.dumps(llmock.last_request.body), "the vendor was told the schema"


@SURFACES
@pytest.mark.usefixtures("vendor")
async def test_a_schema_as_a_tool(llmock: LLMock, surface: Surface) -> None:
    llmock.call_tool("told", PARIS.model_dump())

    made = await Agent(surface("auto"), output_type=ToolOutput(Capital, name="told")).run("Where?")

    assert made.output == PARIS


@SURFACES
@pytest.mark.usefixtures("vendor")
async def test_a_schema_beside_tools(llmock: LLMock, surface: Surface) -> None:
    llmock.call_tool("weather", {"city": "Paris"}).reply(PARIS.model_dump_json())
    model = surface("auto", profile=ModelProfile(supports_json_schema_output=True))
    agent = Agent(model, output_type=NativeOutput(Capital))

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"sunny in {city}"

    assert (await agent.run("Where?")).output == PARIS


@SURFACES
@pytest.mark.usefixtures("vendor")
async def test_errors_raise_the_librarys_own_exceptions(llmock: LLMock, surface: Surface) -> None:
    llmock.fail(400, message="too odd", times=None)

    with pytest.raises(ModelHTTPError, match="too odd") as refused:
        await Agent(surface("auto")).run("Where?")
    with pytest.raises(ModelHTTPError, match="Available models: auto") as unknown:
        await Agent(surface("no-such-model")).run("Where?")

    assert (refused.value.status_code, unknown.value.status_code) == (400, 404)
