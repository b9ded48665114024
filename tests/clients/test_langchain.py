"""LangChain's chat models through LangChain's own standard integration tests, over vendors of every dialect."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


@pytest.mark.usefixtures("vendor")
class TestChat(ChatModelIntegrationTests):
    """Over chat completions."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "auto"}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestResponses(TestChat):
    """Over responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "auto", "use_responses_api": True}


@pytest.mark.usefixtures("vendor")
class TestMessages(ChatModelIntegrationTests):
    """Over messages."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "auto"}
