"""POST /api/v1/routing/explain on the whole gateway: bodies of every path, callers, and what is refused."""

from __future__ import annotations

from typing import Any

from tests.application.driver import Client, assert_problem
from tests.upstream import MockUpstream

PATH = "/api/v1/routing/explain"
MESSAGES = [{"role": "user", "content": "Hello"}]
GENERATE = {"user_id": "customer", "service": "shop", "prompt": "Hello"}
EXPLAINED: list[dict[str, Any]] = [
    {"body": GENERATE},
    {"body": {"prompt": "Hello"}, "user_id": "customer", "service": "shop", "session": "s1", "key": "dev"},
    {"path": "/v1/chat/completions", "body": {"model": "ok", "messages": MESSAGES}},
    {
        "path": "/v1/messages?beta=true",
        "body": {"model": "auto", "messages": MESSAGES, "max_tokens": 10},
        "session": "s1",
    },
    {"path": "/v1beta/models/ok:generateContent", "body": {"contents": [{"parts": [{"text": "Hello"}]}]}},
]
REFUSED: list[tuple[object, int, str]] = [
    ({"body": {"prompt": "Hello"}}, 422, "validation_error"),
    ({"body": GENERATE | {"model": "none-such"}}, 404, "model_not_found"),
    ({"path": "/api/v1/providers", "body": {}}, 422, "validation_error"),
    ({"path": PATH, "body": {}}, 422, "validation_error"),
    ({"path": "no path", "body": {}}, 422, "validation_error"),
    ({"path": "/v1/chat/completions", "body": {"messages": MESSAGES}}, 422, "validation_error"),
    ({"body": GENERATE, "key": "other"}, 422, "validation_error"),
    ({"body": "text"}, 422, "validation_error"),
    ({}, 422, "validation_error"),
    ({"body": GENERATE, "unknown": 1}, 422, "validation_error"),
    ([], 422, "validation_error"),
]


async def test_a_request_of_every_path_is_explained_and_none_is_sent(client: Client, mock: MockUpstream) -> None:
    fields = {"name": "first", "display_name": "First", "models": ["ok"], "base_url": mock.base_url, "kind": "openai"}
    created = await client.call("POST", "/api/v1/providers", fields | {"api_key": "sk-0123456789"})
    assert created.status == 201, created.body
    for asked in EXPLAINED:
        explained = await client.call("POST", PATH, asked)
        assert explained.status == 200, (asked, explained.body)
        assert explained.json["candidates"] == [
            {"rank": 1, "provider": "first", "model": "ok", "verdict": "serves", "reasons": []}
        ]
        assert explained.json["session"] == asked.get("session")
        assert explained.json["cache"] == "miss"
    for refused, status, code in REFUSED:
        assert_problem(await client.call("POST", PATH, refused), status, code)
    assert mock.calls == []
    summary = await client.call("GET", "/api/v1/usage/summary")
    assert summary.json["total_requests"] == 0
