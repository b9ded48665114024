"""Rules of vendors beyond the types of their SDKs: order of tool calls and results, names, ids. Pure.

Every function returns the vendor's complaint, None without one. Messages are the vendors' own, shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

CHAT_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""https://platform.openai.com/docs/api-reference/chat/create, tools.function.name (2026-11-27)."""
MOST_CHAT_TOOLS = 128
"""https://platform.openai.com/docs/api-reference/chat/create, tools (2026-11-27)."""
MOST_CHAT_ID = 40
"""https://github.com/agno-agi/agno/issues/5382 (2025-11-11)."""
MESSAGES_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
MESSAGES_ID = re.compile(r"[a-zA-Z0-9_-]+")
"""https://platform.claude.com/docs/en/api/messages, tools.name and tool_use.id (2026-11-27)."""
MOST_BREAKPOINTS = 4
"""https://github.com/tghamm/Anthropic.SDK/issues/50 (2024-09-26)."""
LEAST_BUDGET = 1024
"""https://platform.claude.com/docs/en/build-with-claude/extended-thinking (2026-11-27)."""
GEMINI_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
"""https://github.com/kaitranntt/ccs/issues/25 (2025-11-30); google-genai 3.4.0 documents 128 characters."""
NOT_GEMINI_API = {
    "generationConfig": ("routingConfig", "modelSelectionConfig", "audioTimestamp"),
    "tools": ("retrieval", "enterpriseWebSearch", "parallelAiSearch", "exaAiSearch"),
}
"""Fields of Google's other API only: google-genai 3.4.0, `models._GenerateContentConfig_to_mldev`, `_Tool_to_mldev`."""
GEMINI_DATA = (
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
)  # fmt: skip
"""Fields of a part of which it has exactly one: https://ai.google.dev/api/caching#Part (2026-11-27)."""


def _first(complaints: Iterable[str | None]) -> str | None:
    return next((each for each in complaints if each is not None), None)


def _names(names: list[str], pattern: re.Pattern[str]) -> str | None:
    for number, name in enumerate(names):
        if pattern.fullmatch(name) is None:
            return f"tools.{number}.name: '{name}' does not match '{pattern.pattern}'"
    # https://github.com/anthropics/claude-code/issues/10687 (2025-10-31); no vendor could tell two such tools apart
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"Tool names must be unique: {twice}" if twice else None


# OpenAI chat completions


def chat(body: Json) -> str | None:
    """Judge a request to chat completions whose fields are of the right types."""
    tools = body.get("tools") or []
    if "tools" in body and not 1 <= len(tools) <= MOST_CHAT_TOOLS:
        return f"Invalid 'tools': {len(tools)} of them, 1 to {MOST_CHAT_TOOLS} allowed"
    functions = [tool["function"] for tool in tools if tool["type"] == "function"]
    schemas = (each.get("parameters") for each in functions)
    return _first(
        (
            _names([each["name"] for each in functions], CHAT_NAME),
            "object schema missing properties" if any(_lacks_properties(each) for each in schemas) else None,
            _chat_order(body["messages"]),
        )
    )


def _lacks_properties(schema: Json | None) -> bool:
    """https://github.com/spring-projects/spring-ai/issues/4776 (2025)."""
    return schema is not None and schema.get("type") == "object" and "properties" not in schema


def _chat_order(messages: list[Json]) -> str | None:
    """Check that each call is answered before the next message of another role, and each answer has its call.

    https://github.com/simonw/llm/issues/937 (2025-05-12), https://github.com/agno-agi/agno/issues/4345 (2025-08-28)
    """
    if not messages:
        return "Invalid 'messages': empty array"
    awaited: set[str] = set()
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in awaited:
                return f"messages[{number}] with role 'tool' must be a response to a message with 'tool_calls'"
            awaited.remove(message["tool_call_id"])
            continue
        if awaited:
            return (
                f"'tool_calls' must be followed by tool messages responding to each 'tool_call_id': {sorted(awaited)}"
            )
        problem = _chat_calls(message, f"messages[{number}]")
        if problem is not None:
            return problem
        awaited = {call["id"] for call in message.get("tool_calls") or []}
    return f"'tool_calls' must be followed by tool messages: {sorted(awaited)}" if awaited else None


def _chat_calls(message: Json, place: str) -> str | None:
    calls = message.get("tool_calls")
    if message["role"] == "assistant" and not calls and message.get("content") is None:
        return f"Invalid value for '{place}.content': expected a string, got null"
    if calls == []:
        return f"Invalid '{place}.tool_calls': empty array"
    ids = [call["id"] for call in calls or []]
    if any(len(each) > MOST_CHAT_ID for each in ids):
        return f"Invalid '{place}.tool_calls.id': string too long, maximum {MOST_CHAT_ID}"
    return f"Invalid '{place}.tool_calls': ids are not unique" if len(set(ids)) < len(ids) else None


# Anthropic Messages


def messages(body: Json) -> str | None:
    """Judge a request to the Messages API whose fields are of the right types."""
    thinking, limit = body.get("thinking") or {}, body["max_tokens"]
    if thinking.get("type") == "enabled" and not LEAST_BUDGET <= thinking["budget_tokens"] < limit:
        return f"thinking.budget_tokens: at least {LEAST_BUDGET} and less than max_tokens"
    if "temperature" in body and "top_p" in body:
        # https://github.com/browseros-ai/BrowserOS/issues/208, of Claude 4.5
        return "temperature and top_p cannot both be specified for this model"
    blocks = [block for message in body["messages"] for block in _blocks(message)]
    system = body.get("system")
    marked = [*blocks, *(body.get("tools") or []), *(system if isinstance(system, list) else [])]
    marked += [inner for block in blocks for inner in _blocks(block)]
    if sum(block.get("cache_control") is not None for block in marked) > MOST_BREAKPOINTS:
        return f"A maximum of {MOST_BREAKPOINTS} blocks with cache_control may be provided"
    return _first(
        (
            _names([tool["name"] for tool in body.get("tools") or [] if "name" in tool], MESSAGES_NAME),
            _empty_text([*blocks, *(system if isinstance(system, list) else [])]),
            _messages_order([message for message in body["messages"] if message["role"] != "system"]),
        )
    )


def _blocks(holder: Json) -> list[Json]:
    content = holder.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content or [] if isinstance(block, dict)]


def _empty_text(blocks: list[Json]) -> str | None:
    """https://github.com/anthropics/claude-code/issues/59812 (2026-05-16)."""
    blank = any(block["type"] == "text" and not block["text"].strip() for block in blocks)
    return "messages: text content blocks must be non-empty" if blank else None


def _messages_order(turns: list[Json]) -> str | None:
    """Check that the results of all calls come first in the next message.

    https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use (2026-11-27),
    https://github.com/anthropics/claude-code/issues/18947 (2026-01-18), …/issues/28515 (2026-02-25)
    """
    if not turns or turns[0]["role"] != "user":
        return 'messages: first message must use the "user" role'
    awaited: set[str] = set()
    seen: set[str] = set()
    for number, turn in enumerate(turns):
        blocks = _blocks(turn)
        if not blocks:
            return f"messages.{number}: all messages must have non-empty content"
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        unexpected, missing = set(results) - awaited, awaited - set(results)
        if unexpected:
            return f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks: {sorted(unexpected)}"
        if missing:
            return f"messages.{number - 1}: `tool_use` ids were found without `tool_result`: {sorted(missing)}"
        if len(set(results)) < len(results):
            return f"messages.{number}: each tool_use must have a single result"
        if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            return f"messages.{number}: tool_result blocks must come first"
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if any(MESSAGES_ID.fullmatch(call) is None for call in calls):
            return f"messages.{number}: tool_use.id should match '{MESSAGES_ID.pattern}'"
        awaited = set(calls)
        if len(awaited) < len(calls) or not seen.isdisjoint(awaited):
            return f"messages.{number}: `tool_use` ids must be unique"
        seen |= awaited
    return f"`tool_use` ids were found without `tool_result`: {sorted(awaited)}" if awaited else None


# Google's generateContent


def gemini(body: Json, model: str) -> str | None:
    """Judge a request to generateContent whose fields are of the right types."""
    config = body.get("generationConfig") or {}
    functions = [each for tool in body.get("tools") or [] for each in tool.get("functionDeclarations") or []]
    holders = (("generationConfig", [config]), ("tools", body.get("tools") or []))
    for name, objects in holders:
        for field in NOT_GEMINI_API[name]:
            if any(field in each for each in objects):
                return f"Invalid JSON payload received. Unknown name \"{field}\" at '{name}': Cannot find field."
    if functions and config.get("responseMimeType") == "application/json" and "gemini-2" in model:
        # https://github.com/googleapis/python-genai/issues/867 (2025-05-27)
        return "Function calling with a response mime type: 'application/json' is unsupported"
    return _first(
        (
            _names([each.get("name", "") for each in functions], GEMINI_NAME),
            _first(_declaration(each) for each in functions),
            _first(_content(each, model) for each in body["contents"]),
            _contents_order(body["contents"]),
        )
    )


def _declaration(function: Json) -> str | None:
    """https://github.com/agno-agi/agno/issues/2112 (2025-02-13); google-genai 3.4.0, `types.FunctionDeclaration`."""
    if "parameters" in function and "parametersJsonSchema" in function:
        return "parameters and parametersJsonSchema are mutually exclusive"
    schema = function.get("parameters") or {}
    if str(schema.get("type")).upper() == "OBJECT" and not schema.get("properties"):
        return "parameters.properties: should be non-empty for OBJECT type"
    return None


def _content(content: Json, model: str) -> str | None:
    if content.get("role", "user") not in ("user", "model"):  # google-genai 3.4.0, `types.Content.role`
        return "Please use a valid role: user, model."
    parts = content.get("parts") or []
    if not parts:
        return "GenerateContentRequest.contents.parts: contents.parts must not be empty."
    for part in parts:
        if sum(name in part for name in GEMINI_DATA) != 1:
            return f"Part must have exactly one data field, not {sorted(part)}"
        if "parts" in part.get("functionResponse", {}) and "gemini-2" in model:
            # https://github.com/google-gemini/gemini-cli/issues/19436 (2026-02-18)
            return "`function_response.parts` is not supported for this model"
    return None


def _contents_order(contents: list[Json]) -> str | None:
    """Check that a model's calls follow a user's turn, and are answered, all at once, by the next one.

    https://ai.google.dev/gemini-api/docs/function-calling, https://github.com/google-gemini/gemini-cli/issues/16984
    """
    if not contents:
        return "GenerateContentRequest.contents: contents is not specified"
    calls: list[str] = []
    for number, content in enumerate(contents):
        parts = content["parts"]
        responses = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
        if responses and not calls:
            return "Please ensure that function response turn comes immediately after a function call turn."
        if sorted(responses) != sorted(calls):
            return "Please ensure that the number of function response parts is equal to that of function call parts."
        calls = [part["functionCall"]["name"] for part in parts if "functionCall" in part]
        if calls and (number == 0 or contents[number - 1].get("role") == "model"):
            return "Please ensure that function call turn comes immediately after a user turn."
    if contents[-1].get("role", "user") != "user":
        return "Please ensure that single turn requests end with a user role or the role field is empty."
    return None
