"""Read a client's Messages API request into a conversation, to send it to a provider of another protocol."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from llm_gateway.domain.agent_user import parse_agent_user
from llm_gateway.domain.conversation import (
    CacheTtl,
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    ResponseFormat,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from llm_gateway.protocols.accessors import (
    boolean,
    cache_ttl,
    droppable_fields,
    integer,
    known_effort,
    list_field,
    number,
    object_field,
    objects,
    required_text,
    result_parts,
    strings,
    text,
    texts_only,
    unknown_value,
)
from llm_gateway.protocols.anthropic_messages.request_fields import INSIDE
from llm_gateway.protocols.contract import JsonObject, ParsedRequest, Unreadable, Unsupported
from llm_gateway.protocols.encrypted_reasoning import is_marked
from llm_gateway.protocols.known_fields import unknown_inside

ENDPOINT_FIELDS = frozenset({"model", "messages", "stream"})
OPTIONAL_FIELDS = ("cache_control", "diagnostics", "inference_geo", "speed", "user_profile_id", "workspace_id")
"""Fields that only Anthropic knows. Dropped by name in a translation, since they do not change the answer."""
TRANSLATED_FIELDS = frozenset(
    {
        "system", "max_tokens", "tools", "tool_choice", "thinking", "stop_sequences", "temperature", "top_p", "top_k",
        "metadata", "service_tier", "output_config",
    }
)  # fmt: skip
KNOWN = ENDPOINT_FIELDS | TRANSLATED_FIELDS | frozenset(OPTIONAL_FIELDS)
DECISIVE = frozenset({"container", "mcp_servers"})
"""Fields that change what an answer can contain, so that other protocols cannot go without them."""
ROLES = ("user", "assistant", "system", "developer")
"""Anthropic documents the first two; Claude Code also sends `system` messages amid a conversation."""
THINKING_TYPES = ("enabled", "disabled", "adaptive")


def read_request(document: JsonObject) -> ParsedRequest:
    """Read the conversation in a request document.

    Raises:
        Unreadable: the document does not conform to the Messages API.
        Unsupported: the request needs a feature that only a provider of the Messages API has.
    """
    unknown = droppable_fields(document, KNOWN, DECISIVE)
    messages = list_field(document, "messages")
    if not messages:
        raise Unreadable("messages", "messages is required and must have at least one message.")
    limit = integer(document, "max_tokens")
    if limit is None:
        raise Unreadable("max_tokens", "max_tokens is required.")
    if limit == 0:
        raise Unsupported("max_tokens", "only Anthropic accepts 0, which fills its prompt cache")
    config = object_field(document, "output_config") or {}
    metadata = object_field(document, "metadata") or {}
    user = text(metadata, "user_id", "metadata")
    if user is not None and parse_agent_user(user) is not None:
        user = None  # it names a device, an account and a session, which are no other vendor's business
    conversation = Conversation(
        turns=[*_system(document), *_turns(messages)],
        tools=[_tool(tool, place) for tool, place in objects(list_field(document, "tools"), "tools")],
        tool_choice=_tool_choice(object_field(document, "tool_choice")),
        format=_format(object_field(config, "format", "output_config")),
        max_tokens=limit,
        temperature=number(document, "temperature", 0, 1),
        top_p=number(document, "top_p", 0, 1),
        top_k=integer(document, "top_k"),
        stop=strings(document, "stop_sequences"),
        reasoning=_reasoning(
            object_field(document, "thinking"),
            known_effort(text(config, "effort", "output_config"), "output_config.effort"),
        ),
        user=user,
        service_tier=text(document, "service_tier"),
    )
    dropped = [*unknown, *(name for name in OPTIONAL_FIELDS if document.get(name))]
    if user is None and metadata.get("user_id") is not None:
        dropped.append("metadata.user_id")
    return ParsedRequest(conversation, (*dropped, *unknown_inside(document, INSIDE)))


def _system(document: JsonObject) -> list[Turn]:
    given = document.get("system")
    if not given:
        return []
    if isinstance(given, str):
        return [Turn(role="system", parts=[Text(text=given)])]
    parts: list[Part] = []
    for part, place in objects(list_field(document, "system"), "system"):
        if part.get("type") != "text":
            raise Unreadable(f"{place}.type", f"{place}.type must be text.")
        parts.append(Text(text=required_text(part, "text", place), cache=cache_ttl(part, place)))
    return [Turn(role="system", parts=parts)]


def _turns(messages: list[Any]) -> list[Turn]:
    """Read messages. A user message with tool results becomes a `tool` turn, and a `user` turn for its other blocks."""
    turns: list[Turn] = []
    for message, place in objects(messages, "messages"):
        role = required_text(message, "role", place)
        if role not in ROLES:
            raise unknown_value(f"{place}.role", role, ROLES)
        parts = _content(message, place)
        if role in ("system", "developer"):
            texts_only(parts, f"{place}.content")
        if role != "user":
            turns.append(Turn(role=cast(Role, role), parts=parts))
            continue
        results = [part for part in parts if isinstance(part, ToolResult)]
        others: list[Part] = [part for part in parts if not isinstance(part, ToolResult)]
        if results:
            turns.append(Turn(role="tool", parts=list(results)))
        if others or not results:
            turns.append(Turn(role="user", parts=others))
    return turns


def _content(message: JsonObject, place: str) -> list[Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [Text(text=content)]
    if not isinstance(content, list):
        raise Unreadable(f"{place}.content", f"{place}.content must be text or a list of blocks.")
    return [_block(block, where) for block, where in objects(content, f"{place}.content")]


def _block(block: JsonObject, place: str) -> Part:
    kind = required_text(block, "type", place)
    cache = cache_ttl(block, place)
    if kind == "text":
        return Text(text=required_text(block, "text", place), cache=cache)
    if kind == "image":
        return Image(**_source(block, place), cache=cache)
    if kind == "document":
        return _document(block, place, cache)
    if kind == "tool_use":
        given = object_field(block, "input", place) or {}
        return ToolCall(
            id=required_text(block, "id", place),
            name=required_text(block, "name", place),
            arguments=msgspec.json.encode(given).decode(),
            cache=cache,
        )
    if kind == "tool_result":
        return _tool_result(block, place, cache)
    if kind == "thinking":
        thought, signature = text(block, "thinking", place) or "", text(block, "signature", place)
        if is_marked(signature):  # by a provider of the Responses API
            return Thinking(text=thought, redacted=signature)
        return Thinking(text=thought, signature=signature)
    if kind == "redacted_thinking":
        return Thinking(redacted=required_text(block, "data", place))
    if kind == "search_result":
        texts = [
            required_text(item, "text", where) for item, where in objects(list_field(block, "content", place), place)
        ]
        return Text(text="\n".join([text(block, "title", place) or "", *texts]).strip(), cache=cache)
    raise Unsupported(f"{place}.type", f"other protocols have no blocks of type {kind[:40]!r}")


def _source(block: JsonObject, place: str) -> dict[str, Any]:
    source = object_field(block, "source", place) or {}
    kind = text(source, "type", f"{place}.source")
    if kind == "base64":
        media_type = required_text(source, "media_type", f"{place}.source")
        return {"media_type": media_type, "data": required_text(source, "data", f"{place}.source")}
    if kind == "url":
        return {"url": required_text(source, "url", f"{place}.source")}
    if kind == "file":
        return {"file_id": required_text(source, "file_id", f"{place}.source")}
    raise Unsupported(f"{place}.source.type", "only base64, url and file are supported")


def _document(block: JsonObject, place: str, cache: CacheTtl | None) -> Part:
    source = object_field(block, "source", place) or {}
    citations = object_field(block, "citations", place)
    if citations is not None and citations.get("enabled"):
        raise Unsupported(f"{place}.citations", "other protocols have no citations")
    if source.get("type") == "text":
        return Text(text=required_text(source, "data", f"{place}.source"), cache=cache)
    return File(name=text(block, "title", place), **_source(block, place), cache=cache)


def _tool_result(block: JsonObject, place: str, cache: CacheTtl | None) -> ToolResult:
    parts = [] if block.get("content") is None else _content(block, place)
    return ToolResult(
        call_id=required_text(block, "tool_use_id", place),
        content=result_parts(parts, place),
        is_error=boolean(block, "is_error", place) or False,
        cache=cache,
    )


def _tool(tool: JsonObject, place: str) -> Tool:
    if tool.get("type") not in (None, "custom"):
        raise Unsupported(f"{place}.type", "only Anthropic can run its server-side tools")
    return Tool(
        name=required_text(tool, "name", place),
        description=text(tool, "description", place),
        parameters=object_field(tool, "input_schema", place),
        strict=boolean(tool, "strict", place),
        cache=cache_ttl(tool, place),
    )


def _tool_choice(choice: JsonObject | None) -> ToolChoice | None:
    if choice is None:
        return None
    serial = boolean(choice, "disable_parallel_tool_use", "tool_choice")
    parallel = None if serial is None else not serial
    kind = required_text(choice, "type", "tool_choice")
    if kind == "tool":
        return ToolChoice(mode="required", name=required_text(choice, "name", "tool_choice"), parallel=parallel)
    if kind == "auto":
        return ToolChoice(mode="auto", parallel=parallel)
    if kind == "any":
        return ToolChoice(mode="required", parallel=parallel)
    if kind == "none":
        return ToolChoice(mode="none")
    raise unknown_value("tool_choice.type", kind, ("auto", "any", "tool", "none"))


def _format(given: JsonObject | None) -> ResponseFormat | None:
    if given is None:
        return None
    return ResponseFormat(schema=object_field(given, "schema", "output_config.format") or {})


def _reasoning(thinking: JsonObject | None, effort: str | None) -> Reasoning | None:
    kind = None if thinking is None else required_text(thinking, "type", "thinking")
    if kind is not None and kind not in THINKING_TYPES:
        raise unknown_value("thinking.type", kind, THINKING_TYPES)
    if thinking is None or kind == "disabled":
        if effort is None and kind is None:
            return None
        return Reasoning(effort=effort or "none")
    show = None if thinking.get("display") is None else thinking.get("display") == "summarized"
    if kind == "enabled":
        budget = integer(thinking, "budget_tokens", 1, where="thinking")
        return Reasoning(effort=effort, budget_tokens=budget, show=show)
    return Reasoning(effort=effort, show=show)
