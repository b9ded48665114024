"""LangChain's chat models in LangChain's own standard integration tests, over vendors of each dialect."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models
from llmock.pytest_plugin import LLMock

from tests.clients.conftest import MODELS

pytestmark = [
    # OpenAI's SDK stores the parsed answer in a field that is None by its types.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    # The standard tests omit a file's name.
    pytest.mark.filterwarnings("ignore:OpenAI may require a filename:UserWarning"),
    # One standard test uses this on purpose.
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning"),
]

JOKE = {"setup": "Why do cats purr?", "punchline": "They are idling."}
CUSTOMERS = ("你好啊集团", "こんにちは株式会社")
IMAGE = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
"""A PNG image of one pixel."""


class Standard(ChatModelIntegrationTests):
    """Settings of the standard tests that all endpoints share."""

    kind = ""

    @pytest.fixture(autouse=True)
    def script(
        self, request: pytest.FixtureRequest, vendor: str, llmock: LLMock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Script answers that a real model derives from the prompt, and replace files that tests fetch from the web."""
        self.kind = vendor
        monkeypatch.setattr(chat_models.httpx, "get", lambda *_, **__: SimpleNamespace(content=IMAGE))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "tests")
        match request.function.__name__:
            case "test_tool_calling" | "test_tool_calling_async":
                llmock.call_tool("magic_function", {"input": 3}, times=None)
            case "test_unicode_tool_call_integration":
                for name in CUSTOMERS:
                    llmock.call_tool("unicode_customer", {"customer_name": name, "description": "A company"})
            case "test_json_mode" if vendor == "anthropic":
                llmock.call_tool("json_answer", JOKE, times=None)
            case "test_json_mode":
                llmock.reply(json.dumps(JOKE), times=None)

    @pytest.fixture
    def vcr_config(self) -> dict[str, Any]:
        """Disable the recording of HTTP calls."""
        return {"ignore_localhost": True}

    @property
    def model_override_value(self) -> str:
        return MODELS[self.kind]

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return (
            self.kind == "anthropic"
        )  # the other protocols accept only text as a tool's result: the gateway answers 400

    @property
    def supports_pdf_tool_message(self) -> bool:
        return self.kind == "anthropic"


class TestChat(Standard):
    """Standard tests over chat completions."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "auto", "stream_usage": True}  # LangChain omits stream_options if the base URL is not OpenAI's

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return self.kind != "anthropic"


class TestResponses(TestChat):
    """Standard tests over the Responses API."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "auto", "use_responses_api": True}


class TestMessages(Standard):
    """Standard tests over the Messages API."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "auto"}

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


ERRORS = pytest.mark.parametrize(
    ("make", "sdk"),
    [
        (ChatOpenAI, openai),
        (partial(ChatOpenAI, use_responses_api=True), openai),
        (ChatAnthropic, anthropic),
    ],
    ids=["chat", "responses", "messages"],
)


@ERRORS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.usefixtures("vendor")
def test_errors_raise_the_sdks_own_exceptions(
    llmock: LLMock, make: Callable[..., BaseChatModel], sdk: Any, stream: bool
) -> None:
    llmock.fail(400, message="too odd").outage(status=500)

    def ask(**fields: Any) -> None:
        model = make(**{"model": "auto", "max_retries": 0, **fields})
        list(model.stream("Where?")) if stream else model.invoke("Where?")

    with pytest.raises(sdk.BadRequestError, match="too odd"):
        ask()
    with pytest.raises(sdk.InternalServerError, match="Internal server error"):
        ask()
    with pytest.raises(sdk.NotFoundError, match="Available models: auto"):
        ask(model="no-such-model")
    with pytest.raises(sdk.AuthenticationError):
        ask(api_key="wrong")
