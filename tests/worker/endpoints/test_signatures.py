"""Reasoning that a vendor cannot verify, through the whole gateway, to a mock that verifies it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.application.driver import Client
from tests.upstream import MockUpstream

ASKED: dict[str, Any] = {
    "model": "gpt-5.2",
    "input": [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAof another account"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And now?"},
    ],
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_on_without_the_reasoning_of_another_account(
    client: Client, mock: MockUpstream, stream: bool
) -> None:
    account = {"name": "openai", "display_name": "OpenAI", "api_key": "key-0123456789", "models": ["gpt-5.2"]}
    await client.call("POST", "/api/v1/providers", {**account, "base_url": mock.base_url})

    answer = await client.call("POST", "/v1/responses", {**ASKED, "stream": stream})

    assert answer.status == 200, answer.body
    assert answer.headers["x-gateway-dropped"] == "reasoning"
    [served] = mock.calls
    assert [item.get("type", "message") for item in served.json["input"]] == ["message"] * 3
