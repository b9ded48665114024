"""Read a client's chat completions request into a conversation, to send it to a provider of another protocol.

https://platform.openai.com/docs/api-reference/chat/create. Fields are handled by kind: `TRANSLATED_FIELDS`
become fields of the conversation, `OPTIONAL_FIELDS` and unknown fields are dropped and reported, and `DECISIVE` fields
are left to providers of this protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    ToolCall,
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
    string_map,
    strings,
    text,
    texts_only,
    unknown_value,
)
from llm_gateway.protocols.contract import JsonObject, ParsedRequest, Unreadable, Unsupported
from llm_gateway.protocols.known_fields import unknown_inside
from llm_gateway.protocols.openai_chat.reasoning_details import read_details
from llm_gateway.protocols.openai_chat.request_fields import INSIDE
from llm_gateway.protocols.openai_chat.tools import read_tools

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ENDPOINT_FIELDS = frozenset({"model", "messages", "stream", "stream_options"})
"""Fields handled by the endpoint or, `messages`, on its own."""
OPTIONAL_FIELDS = (
    "store",
    "prediction",
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
        "thinking", "reasoning", "functions", "function_call", "prompt_cache_key",
    }
)  # fmt: skip
"""Fields that a `Conversation` expresses. `thinking` is DeepSeek's word for reasoning, `reasoning` OpenRouter's."""
DECISIVE = frozenset(
    {
        "moderation", "web_search_options",  # OpenAI
        "search_parameters",  # xAI
        "plugins",  # OpenRouter
        "documents",  # Cohere, vLLM
        "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",  # vLLM
        "grammar", "json_schema",  # llama.cpp
        "continue_final_message",  # vLLM
    }
)  # fmt: skip
"""Fields that change the meaning of an answer, so that other protocols cannot go without them.

https://developers.openai.com/api/reference/resources/chat, https://docs.x.ai/docs/guides/live-search,
https://openrouter.ai/docs/guides/features/plugins, https://docs.vllm.ai/en/latest/features/structured_outputs.html,
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
"""
KNOWN = ENDPOINT_FIELDS | TRANSLATED_FIELDS | frozenset(OPTIONAL_FIELDS)


def read_request(document: JsonObject) -> ParsedRequest:
    """Parse the conversation in a request.

    Raises:
        Unreadable: the document is not a valid request of this protocol.
        Unsupported: the request needs a feature that only providers of this protocol have.
    """
    unknown = droppable_fields(document, KNOWN, DECISIVE)
    if strings(document, "modalities") not in ([], ["text"]):
        raise Unsupported("modalities", "only text output is supported")
    messages = list_field(document, "messages")
    if not messages:
        raise Unreadable("messages", "messages is required and needs at least one message.")
    optional = (name for name in OPTIONAL_FIELDS if document.get(name))
    conversation = _conversation(document, _turns(messages))
    return ParsedRequest(conversation, (*unknown, *optional, *unknown_inside(document, INSIDE)))


def _conversation(document: JsonObject, turns: list[Turn]) -> Conversation:
    tools, choice = read_tools(document)
    limit = integer(document, "max_completion_tokens", 1) or integer(document, "max_tokens", 1)
    return Conversation(
        turns=turns,
        tools=tools,
        tool_choice=choice,
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
        reasoning=_reasoning(document),
        verbosity=text(document, "verbosity"),
        user=text(document, "user"),
        metadata=string_map(document, "metadata"),
        service_tier=text(document, "service_tier"),
        cache_key=text(document, "prompt_cache_key"),
    )


def _turns(messages: list[Any]) -> list[Turn]:
    turns: list[Turn] = []
    calls: dict[str, str] = {}  # name of a function -> id of its last call
    for message, place in objects(messages, "messages"):
        role = required_text(message, "role", place)
        if role not in ROLES:
            raise unknown_value(f"{place}.role", role, ROLES)
        if role in ("tool", "function"):  # a canonical tool turn holds the results of all parallel calls
            result = _tool_result(message, place) if role == "tool" else _function_result(message, calls, place)
            if turns and turns[-1].role == "tool":
                turns[-1].parts.append(result)
            else:
                turns.append(Turn(role="tool", parts=[result]))
            continue
        parts = _assistant_parts(message, place, len(turns)) if role == "assistant" else _content(message, place)
        if role in ("system", "developer"):
            texts_only(parts, f"{place}.content")
        elif role == "assistant":
            calls.update([(part.name, part.id) for part in parts if isinstance(part, ToolCall)])
        turns.append(Turn(role=cast(Role, role), parts=parts, name=text(message, "name", place)))
    return turns


def _assistant_parts(message: JsonObject, place: str, number: int) -> list[Part]:
    """Read an assistant's message. `number` of the message makes the id of a legacy `function_call`, which has none."""
    thoughts, signatures = _reasoning_of(message, place)
    parts: list[Part] = [*thoughts]
    if message.get("content") is not None:
        parts += _content(message, place)
    refusal = text(message, "refusal", place)
    if refusal:
        parts.append(Refusal(text=refusal))
    for call, where in objects(list_field(message, "tool_calls", place), f"{place}.tool_calls"):
        called = _tool_call(call, where)
        called.signature = called.signature or signatures.get(called.id)
        parts.append(called)
    function = object_field(message, "function_call", place)
    if function is not None:
        name = required_text(function, "name", f"{place}.function_call")
        arguments = text(function, "arguments", f"{place}.function_call") or ""
        parts.append(ToolCall(id=f"call_{number}", name=name, arguments=arguments))
    if message.get("audio") is not None:
        raise Unsupported(f"{place}", "only OpenAI can read audio of earlier answers")
    return parts


def _reasoning_of(message: JsonObject, place: str) -> tuple[list[Thinking], dict[str, str]]:
    """Read a message's reasoning, and signatures by the ids of tool calls (`reasoning_details.py`)."""
    thoughts, signatures = read_details(message.get("reasoning_details"))
    if not thoughts and (thought := text(message, "reasoning_content", place) or text(message, "reasoning", place)):
        thoughts = [Thinking(text=thought)]
    return thoughts, signatures


def _function_result(message: JsonObject, calls: Mapping[str, str], place: str) -> ToolResult:
    """Read a message of the legacy role `function`: the result of the last call of the function of that name.

    `calls` holds the ids of the last calls by name.
    """
    name = required_text(message, "name", place)
    call_id = calls.get(name)
    if call_id is None:
        raise Unreadable(f"{place}.name", f"{place}.name must be that of an earlier function_call.")
    return ToolResult(call_id=call_id, content=result_parts(_content(message, place), place), name=name)


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
    cache = cache_ttl(part, place)
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
    content = required_text(given, "file_data", f"{place}.file")
    if content.startswith(
        ("https://", "http://")
    ):  # OpenRouter: https://openrouter.ai/docs/guides/overview/multimodal/pdfs
        return File(name=name, url=content, cache=cache)
    media_type, data = from_data_url(content)
    if data is None:
        raise Unreadable(
            f"{place}.file.file_data", f"{place}.file.file_data must be a URL, or a data: URL with base64."
        )
    return File(name=name, media_type=media_type, data=data, cache=cache)


def from_data_url(url: str) -> tuple[str | None, str | None]:
    """Split a base64 `data:` URL (RFC 2397) into media type and base64 text; (None, None) for any other URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None, None
    return head[5:-7].partition(";")[0] or "text/plain", data  # the default of RFC 2397, section 2


def _format(given: JsonObject | None) -> ResponseFormat | None:
    kind = required_text(given, "type", "response_format") if given is not None else "text"
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat()
    schema = object_field(given, "json_schema", "response_format") if kind == "json_schema" else None
    if kind == "json_schema" and schema is None:
        raise Unreadable("response_format.json_schema", "response_format.json_schema is required.")
    if schema is None:
        raise unknown_value("response_format.type", kind, ("text", "json_object", "json_schema"))
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


def _reasoning(document: JsonObject) -> Reasoning | None:
    """Read `reasoning_effort`, and the words of other vendors: DeepSeek's `thinking`, OpenRouter's `reasoning`.

    https://api-docs.deepseek.com/guides/thinking_mode,
    https://openrouter.ai/docs/guides/best-practices/reasoning-tokens.
    """
    effort = known_effort(text(document, "reasoning_effort"), "reasoning_effort")
    thinking, wanted = object_field(document, "thinking"), object_field(document, "reasoning") or {}
    kind = None if thinking is None else text(thinking, "type", "thinking")
    if kind not in (None, "enabled", "disabled", "adaptive"):
        raise unknown_value("thinking.type", kind, ("enabled", "disabled", "adaptive"))
    effort = effort or known_effort(text(wanted, "effort", "reasoning"), "reasoning.effort")
    if kind == "disabled" or boolean(wanted, "enabled", "reasoning") is False:
        return Reasoning(effort="none")
    budget = integer(wanted, "max_tokens", 1, where="reasoning") or integer(
        thinking or {}, "budget_tokens", 1, where="thinking"
    )
    if effort is None and budget is None and thinking is None and not wanted:
        return None
    excluded = boolean(wanted, "exclude", "reasoning")
    return Reasoning(effort=effort, budget_tokens=budget, show=None if excluded is None else not excluded)
