"""Suggestion of the path that was probably meant."""

from __future__ import annotations

import time

import pytest

from llm_gateway.error_format.paths import closest_path, nothing_at


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/generate", "/api/v1/generate"),
        ("/v1/generate", "/api/v1/generate"),
        ("/api/generate", "/api/v1/generate"),
        ("/api/v1/generate/", "/api/v1/generate"),
        ("//api/v1/health", "/api/v1/health"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/messages", "/v1/messages"),
        ("/V1/Messages", "/v1/messages"),
        ("/v1/providers", "/api/v1/providers"),
        ("/api/v1/provider/abc", "/api/v1/providers/abc"),
        ("/api/v1/providers/abc/tests", "/api/v1/providers/abc/test"),
        ("/api/v1/usage/by-costumer", "/api/v1/usage/by-customer"),
        ("/v1beta/models/gemini-2.5:generatecontent", "/v1beta/models/gemini-2.5:generateContent"),
        ("/v1beta/models/auto:foo", None),
        ("/v1beta/tunedModels/x:generateContent", "/v1beta/models/x:generateContent"),
        ("/v1/completions", None),
        ("/api/v1/providers/abc/more", None),
        ("/v1/messages", None),
        ("/foo", None),
        ("/", None),
        ("/v1/images/generations", None),
        ("/" + "x" * 10_000, None),
    ],
)
def test_the_path_that_was_meant_is_found(path: str, meant: str | None) -> None:
    assert closest_path(path) == meant
    assert (meant or "docs/API.md lists the paths") in nothing_at(path)
    assert len(nothing_at(path)) < 500


def test_the_search_is_short_whatever_the_path_is() -> None:
    hostile = [
        f"/v1beta/models/{'ab' * 95}:x",
        "/a" * 99,
        f"/v1beta/models/{'a' * 44}:a",
        "/api/v1/providers/" + "a" * 46,
    ]
    started = time.process_time()
    for path in hostile:
        nothing_at(path)
    assert time.process_time() - started < 0.5
