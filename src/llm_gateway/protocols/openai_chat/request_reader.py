"""Read a client's chat completions request into a conversation, to send it to a provider of another protocol.

https://platform.openai.com/docs/api-reference/chat/create. Fields are handled by kind: `TRANSLATED_FIELDS`
become fields of the conversation, `OPTIONAL_FIELDS` are dropped and reported, and unknown fields are rejected.
"""

from __future__ import annotations

from typing import Any, cast

from llm_gateway.domain.conversation import (
    Audio,
    CacheTtl,
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    Refusal,
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
    checked_effort,
    integer,
    list_field,
    number,
    object_field,
    objects,
    reject_unknown_fields,
    required_text,
    result_parts,
    string_map,
    strings,
    text,
    texts_only,
)
from llm_gateway.protocols.contract import JsonObject, ParsedRequest, Unreadable, Unsupported

ROLES = ("system", "developer", "user", "assistant", "tool")
ENDPOINT_FIELDS = frozenset({"model", "messages", "stream", "stream_options"})
"""Fields handled by the endpoint or, `messages`, on its own."""
OPTIONAL_FIELDS = (
    "store",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
)
"""Optional fields that only OpenAI supports: dropped for other providers, and reported as dropped."""
TRANSLATED_FIELDS = frozenset(
    {
        "tools", "tool_choice", "parallel_tool_calls", "response_format", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "stop", "n", "seed", "presence_penalty", "frequency_penalty", "logit_bias",
        "logprobs", "top_logprobs", "reasoning_effort", "verbosity", "user", "metadata", "service_tier", "modalities",
    }
)  # fmt: skip
"""Fields that a `Conversation` expresses."""
KNOWN = ENDPOINT_FIELDS | TRANSLATED_FIELDS | frozenset(OPTIONAL_FIELDS)


def read_request(document: JsonObject) -> ParsedRequest:
    """Parse the conversation in a request.

    Raises:
        Unreadable: the document is not a valid request of this protocol.
        Unsupported: the request needs a feature that only providers of this protocol have.
    """
    reject_unknown_fields(document, KNOWN)
    if strings(document, "modalities") not in ([], ["text"]):
        raise Unsupported("modalities", "only text output is supported")
    messages = list_field(document, "messages")
    if not messages:
        raise Unreadable("messages", "messages is required and needs at least one message.")
    return ParsedRequest(
        _conversation(document, _turns(messages)), tuple(name for name in OPTIONAL_FIELDS if document.get(name))
    )


def _conversation(document: JsonObject, turns: list[Turn]) -> Conversation:
    effort = checked_effort(text(document, "reasoning_effort"), "reasoning_effort")
    limit = integer(document, "max_completion_tokens", 1) or integer(document, "max_tokens", 1)
    return Conversation(
        turns=turns,
        tools=[_tool(tool, place) for tool, place in objects(list_field(document, "tools"), "tools")],
        tool_choice=_tool_choice(document),
        format=_format(object_field(document, "response_format")),
        max_tokens=limit,
        temperature=number(document, "temperature", 0, 2),
        top_p=number(document, "top_p", 0, 1),
        top_k=integer(document, "top_k"),
        stop=strings(document, "stop"),
        n=integer(document, "n", 1, 128) or 1,
        seed=integer(document, "seed", -(2**63)),
        presence_penalty=number(document, "presence_penalty", -2, 2),
        frequency_penalty=number(document, "frequency_penalty", -2, 2),
        logit_bias=_logit_bias(document),
        logprobs=boolean(document, "logprobs") or False,
        top_logprobs=integer(document, "top_logprobs", 0, 20),
        reasoning=None if effort is None else Reasoning(effort=effort),
        verbosity=text(document, "verbosity"),
        user=text(document, "user"),
        metadata=string_map(document, "metadata"),
        service_tier=text(document, "service_tier"),
    )


def _turns(messages: list[Any]) -> list[Turn]:
    turns: list[Turn] = []
    for message, place in objects(messages, "messages"):
        role = required_text(message, "role", place)
        if role not in ROLES:
            raise Unreadable(f"{place}.role", f"{place}.role must be one of {', '.join(ROLES)}.")
        if role == "tool":  # a canonical tool turn holds the results of all parallel calls
            result = _tool_result(message, place)
            if turns and turns[-1].role == "tool":
                turns[-1].parts.append(result)
            else:
                turns.append(Turn(role="tool", parts=[result]))
            continue
        parts = _assistant_parts(message, place) if role == "assistant" else _content(message, place)
        if role in ("system", "developer"):
            texts_only(parts, f"{place}.content")
        turns.append(Turn(role=cast(Role, role), parts=parts, name=text(message, "name", place)))
    return turns


def _assistant_parts(message: JsonObject, place: str) -> list[Part]:
    parts: list[Part] = []
    thought = text(message, "reasoning_content", place)
    if thought:
        parts.append(Thinking(text=thought))
    if message.get("content") is not None:
        parts += _content(message, place)
    refusal = text(message, "refusal", place)
    if refusal:
        parts.append(Refusal(text=refusal))
    for call, where in objects(list_field(message, "tool_calls", place), f"{place}.tool_calls"):
        parts.append(_tool_call(call, where))
    if message.get("function_call") is not None or message.get("audio") is not None:
        raise Unsupported(f"{place}", "only OpenAI can read function_call and audio of earlier answers")
    return parts


def _tool_call(call: JsonObject, place: str) -> ToolCall:
    function = object_field(call, "function", place)
    if call.get("type", "function") != "function" or function is None:
        raise Unsupported(f"{place}.type", "other protocols support only tool calls of type 'function'")
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return ToolCall(
        id=required_text(call, "id", place),
        name=required_text(function, "name", f"{place}.function"),
        arguments=text(function, "arguments", f"{place}.function") or "",
        signature=signature if isinstance(signature, str) else None,
    )


def _tool_result(message: JsonObject, place: str) -> ToolResult:
    content = result_parts(_content(message, place), place)
    return ToolResult(call_id=required_text(message, "tool_call_id", place), content=content)


def _content(message: JsonObject, place: str) -> list[Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [Text(text=content)]
    if not isinstance(content, list):
        raise Unreadable(f"{place}.content", f"{place}.content must be text or a list of parts.")
    return [_part(part, where) for part, where in objects(content, f"{place}.content")]


def _part(part: JsonObject, place: str) -> Part:
    kind = required_text(part, "type", place)
    cache = _cache(part, place)
    if kind == "text":
        return Text(text=required_text(part, "text", place), cache=cache)
    if kind == "refusal":
        return Refusal(text=required_text(part, "refusal", place))
    if kind == "image_url":
        return _image(part, place, cache)
    if kind == "input_audio":
        audio = object_field(part, "input_audio", place) or {}
        return Audio(data=required_text(audio, "data", place), format=required_text(audio, "format", place))
    if kind == "file":
        return _file(object_field(part, "file", place) or {}, place, cache)
    raise Unsupported(f"{place}.type", f"other protocols do not support parts of type {kind[:40]!r}")


def _image(part: JsonObject, place: str, cache: CacheTtl | None) -> Image:
    given = part.get("image_url")
    picture = {"url": given} if isinstance(given, str) else object_field(part, "image_url", place) or {}
    url = required_text(picture, "url", f"{place}.image_url")
    detail = text(picture, "detail", f"{place}.image_url")
    media_type, data = from_data_url(url)
    if data is None:
        return Image(url=url, detail=detail, cache=cache)
    return Image(media_type=media_type, data=data, detail=detail, cache=cache)


def _file(given: JsonObject, place: str, cache: CacheTtl | None) -> File:
    name, file_id = text(given, "filename", f"{place}.file"), text(given, "file_id", f"{place}.file")
    if file_id is not None:
        return File(name=name, file_id=file_id, cache=cache)
    media_type, data = from_data_url(required_text(given, "file_data", f"{place}.file"))
    if data is None:
        raise Unreadable(f"{place}.file.file_data", f"{place}.file.file_data must be a data: URL with base64.")
    return File(name=name, media_type=media_type, data=data, cache=cache)


def from_data_url(url: str) -> tuple[str | None, str | None]:
    """Split a base64 `data:` URL (RFC 2397) into media type and base64 text; (None, None) for any other URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None, None
    return head[5:-7].partition(";")[0] or "text/plain", data  # the default of RFC 2397, section 2


def _cache(part: JsonObject, place: str) -> CacheTtl | None:
    """Read `cache_control`, Anthropic's extension that OpenRouter and others accept on parts of this protocol."""
    mark = object_field(part, "cache_control", place)
    if mark is None:
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"


def _tool(tool: JsonObject, place: str) -> Tool:
    function = object_field(tool, "function", place)
    if tool.get("type") != "function" or function is None:
        raise Unsupported(f"{place}.type", "other protocols support only tools of type 'function'")
    return Tool(
        name=required_text(function, "name", f"{place}.function"),
        description=text(function, "description", f"{place}.function"),
        parameters=object_field(function, "parameters", f"{place}.function"),
        strict=boolean(function, "strict", f"{place}.function"),
        cache=_cache(tool, place),
    )


def _tool_choice(document: JsonObject) -> ToolChoice | None:
    choice, parallel = document.get("tool_choice"), boolean(document, "parallel_tool_calls")
    if choice is None:
        return None if parallel is None else ToolChoice(parallel=parallel)
    if choice in ("auto", "none", "required"):
        return ToolChoice(mode=choice, parallel=parallel)
    function = object_field(choice, "function", "tool_choice") if isinstance(choice, dict) else None
    if function is None:
        raise Unsupported("tool_choice", "it must be auto, none, required, or name a function")
    return ToolChoice(mode="required", name=required_text(function, "name", "tool_choice.function"), parallel=parallel)


def _format(given: JsonObject | None) -> ResponseFormat | None:
    kind = given.get("type") if given is not None else "text"
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat()
    schema = object_field(given, "json_schema", "response_format") if kind == "json_schema" else None
    if schema is None:
        raise Unreadable("response_format", "response_format must be of type text, json_object or json_schema.")
    return ResponseFormat(
        name=text(schema, "name", "response_format.json_schema"),
        schema=object_field(schema, "schema", "response_format.json_schema") or {},
        description=text(schema, "description", "response_format.json_schema"),
        strict=boolean(schema, "strict", "response_format.json_schema"),
    )


def _logit_bias(document: JsonObject) -> dict[str, float] | None:
    bias = object_field(document, "logit_bias")
    if bias is None:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in bias.values()):
        raise Unreadable("logit_bias", "the values of logit_bias must be numbers.")
    return bias or None
