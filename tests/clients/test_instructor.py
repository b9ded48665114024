"""Instructor against the gateway: each of its modes for structured output, over vendors of each dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import instructor
import openai
import pytest
from instructor.core.exceptions import InstructorRetryException
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel

SDKS: dict[str, Callable[..., Any]] = {"openai": openai.OpenAI, "anthropic": anthropic.Anthropic}
Way = tuple[str, instructor.Mode]
WAYS: list[Way] = [
    ("openai", instructor.Mode.TOOLS),
    ("openai", instructor.Mode.JSON),
    ("openai", instructor.Mode.MD_JSON),
    ("openai", instructor.Mode.JSON_SCHEMA),
    ("openai", instructor.Mode.RESPONSES_TOOLS),
    ("anthropic", instructor.Mode.TOOLS),
    ("anthropic", instructor.Mode.JSON),
]
EVERY_WAY = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}-{way[1].name}")
ASKED: dict[str, Any] = {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "Where?"}]}


class Capital(BaseModel):
    """A town."""

    city: str
    people: int


PARIS = Capital(city="Paris", people=2_000_000)


def client(way: Way) -> instructor.Instructor:
    """Wrap the SDK, which reads the gateway's address and key from its variables."""
    sdk, mode = way
    wrap: Callable[..., instructor.Instructor] = getattr(instructor, f"from_{sdk}")
    return wrap(SDKS[sdk](max_retries=0), mode=mode)


def script(llmock: LLMock, way: Way, vendor: str, told: dict[str, Any]) -> None:
    """Set the mock's next answer in the format of the mode."""
    if "TOOLS" in way[1].name:
        llmock.call_tool("Capital", told)
    elif (*way, vendor) == (
        "openai",
        instructor.Mode.JSON,
        "anthropic",
    ):  # JSON mode without a schema becomes the argument of a tool
        llmock.call_tool("json_answer", told)
    else:
        llmock.reply(json.dumps(told))


@EVERY_WAY
def test_an_answer_matches_the_schema(llmock: LLMock, vendor: str, way: Way) -> None:
    script(llmock, way, vendor, PARIS.model_dump())

    made, completion = client(way).create_with_completion(response_model=Capital, **ASKED)

    assert made.model_dump() == PARIS.model_dump()
    used = completion.usage
    assert getattr(used, "completion_tokens", None) or used.output_tokens > 0
    llmock.assert_resilient(strict=True)


@EVERY_WAY
def test_a_streamed_answer_matches_the_schema(llmock: LLMock, vendor: str, way: Way) -> None:
    script(llmock, way, vendor, PARIS.model_dump())

    made = list(client(way).create_partial(response_model=Capital, **ASKED))

    assert made[-1].model_dump() == PARIS.model_dump()


@EVERY_WAY
def test_an_invalid_answer_is_requested_again(llmock: LLMock, vendor: str, way: Way) -> None:
    """Instructor sends the invalid answer back with the validation error, as a tool result or a user message."""
    script(llmock, way, vendor, {"city": "Paris", "people": "many"})
    script(llmock, way, vendor, PARIS.model_dump())

    made = client(way).create(response_model=Capital, max_retries=2, **ASKED)

    assert made.model_dump() == PARIS.model_dump()
    assert len(llmock.requests) == 2
    assert "many" in json.dumps(llmock.last_request.body)


@EVERY_WAY
@pytest.mark.usefixtures("vendor")
def test_errors_raise_the_sdks_own_exceptions(llmock: LLMock, way: Way) -> None:
    error = {"openai": openai, "anthropic": anthropic}[way[0]].BadRequestError
    llmock.fail(400, message="too odd", times=None)

    with pytest.raises(InstructorRetryException, match="too odd") as refused:
        client(way).create(response_model=Capital, max_retries=1, **ASKED)

    assert any(isinstance(cause, error) for cause in causes(refused.value))


def causes(error: BaseException | None) -> list[BaseException]:
    """Return the exception and all its causes."""
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found
