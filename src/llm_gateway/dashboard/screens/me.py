"""My key: what the key that signed in may do, what it spent, its last requests, and how programs use it here.

A key that may only make calls sees this screen and no other.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page
from llm_gateway.domain.agent_configurations import (
    ANY_MODEL,
    GEMINI_MODEL,
    PLACEHOLDER,
    aider_config,
    claude_config,
    codex_config,
    gemini_config,
    opencode_config,
    qwen_config,
)

LAST = 20
"""Requests that are shown."""
AGENTS = (
    ("claude", "Claude Code", claude_config, ANY_MODEL),
    ("codex", "Codex", codex_config, ANY_MODEL),
    ("gemini", "Gemini CLI", gemini_config, GEMINI_MODEL),
    ("opencode", "opencode", opencode_config, ANY_MODEL),
    ("qwen", "Qwen Code", qwen_config, ANY_MODEL),
    ("aider", "aider", aider_config, ANY_MODEL),
)


async def show(page: Page) -> Response:
    """Show the key of the session."""
    key = await _own_key(page)
    records = await _last_requests(page) if key is not None else []
    return page.render(
        "me.html",
        title="My key",
        key=key,
        records=records,
        sees_usage=page.may("own"),
        origin=page.origin,
        model=_model(key),
        agents=[
            (tab, name, config(page.origin, PLACEHOLDER, _model(key, default))) for tab, name, config, default in AGENTS
        ],
        gemini_model=_model(key, GEMINI_MODEL),
    )


async def _own_key(page: Page) -> dict[str, Any] | None:
    """Return the key, None if the person signed in without one."""
    try:
        found: dict[str, Any] = await page.api.get("/me")
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return found


async def _last_requests(page: Page) -> list[dict[str, Any]]:
    caller = page.signed_in.caller
    query: dict[str, str | int | None] = {"key": caller.key_id or caller.name, "limit": LAST}
    found: dict[str, Any] = await page.api.with_own_usage().get("/usage/records", query)
    records: list[dict[str, Any]] = found["records"]
    return records


def _model(key: dict[str, Any] | None, default: str = ANY_MODEL) -> str:
    """Return the model of the examples: the first that the key allows by its name."""
    if key is None:
        return default
    rights = key["in_force"]
    if rights["fixed_model"] is not None:
        return str(rights["fixed_model"])
    named = [globs[0] for globs in rights["models"] if "*" not in globs[0]]
    return str(named[0]) if named else default
