"""Read a client's Responses API request into a conversation, to send it to a provider of another protocol.

https://platform.openai.com/docs/api-reference/responses/create. Fields are handled by kind:
`TRANSLATED_FIELDS` become fields of the conversation, `OPTIONAL_FIELDS` and unknown fields are dropped and reported,
`NEEDS_STATE` and `DECISIVE` fields are rejected.
"""

from __future__ import annotations

from typing import Any, cast

from llm_gateway.domain.conversation import (
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
    text,
    texts_only,
    unknown_value,
)
from llm_gateway.protocols.contract import JsonObject, ParsedRequest, Unreadable, Unsupported
from llm_gateway.protocols.encrypted_reasoning import GATEWAY_PREFIX, decode_reasoning, mark_content
from llm_gateway.protocols.known_fields import unknown_inside
from llm_gateway.protocols.openai_chat.request_reader import DECISIVE as CHAT_DECISIVE
from llm_gateway.protocols.openai_chat.request_reader import from_data_url
from llm_gateway.protocols.openai_responses.request_fields import INSIDE
from llm_gateway.protocols.openai_responses.tools import (
    CUSTOM_SCHEMA,
    custom_description,
    origins_of,
    write_custom_input,
)

STORED = "the gateway keeps no responses; send the whole conversation in input"
NEEDS_STATE = {
    "previous_response_id": STORED,
    "conversation": STORED,
    "background": "the gateway keeps no responses, so none can be fetched later; leave background out",
    "store": "the gateway keeps no responses; leave store out, or set it to false",
    "prompt": "the gateway keeps no prompts; send instructions and input",
}
"""Fields that need stored state, which the gateway does not keep, and the advice for the error message."""
ENDPOINT_FIELDS = frozenset({"model", "input", "stream", "stream_options", "truncation"})
"""Fields handled by the endpoint or on their own."""
OPTIONAL_FIELDS = (
    "include", "prompt_cache_options", "prompt_cache_retention", "max_tool_calls",
    "client_metadata",
)  # fmt: skip
"""Optional fields that only OpenAI supports: dropped for other providers, and reported as dropped."""
TRANSLATED_FIELDS = frozenset(
    {
        "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "max_output_tokens",
        "temperature", "top_p", "top_logprobs", "user", "safety_identifier", "metadata", "service_tier",
        "prompt_cache_key",
    }
)  # fmt: skip
"""Fields that a `Conversation` expresses."""
DECISIVE = CHAT_DECISIVE | {"n", "response_format", "stop"}
"""Fields that change the meaning of an answer. Servers take those of chat completions in both of their APIs.

https://ericlbuehler.github.io/mistral.rs/reference/http-api-generated/operations/create_response/ (2026-11-27),
https://openrouter.ai/docs/client-sdks/go/models/components/responsesrequestplugin (2026-11-27).
"""
KNOWN = ENDPOINT_FIELDS | TRANSLATED_FIELDS | frozenset(OPTIONAL_FIELDS) | frozenset(NEEDS_STATE)
DROPPED_ITEMS = ("web_search_call",)
"""Types of items that say only that OpenAI ran a tool: dropped and reported."""
ROLES = ("system", "developer", "user", "assistant")
FORMATS = ("text", "json_object", "json_schema")
TRUNCATIONS = ("auto", "disabled")


def refuse_state(document: JsonObject) -> None:
    """Reject a request that needs stored state, even for a provider of the same protocol.

    Raises:
        Unsupported: with the field and the alternative.
    """
    for field, why in NEEDS_STATE.items():
        if document.get(field):
            raise Unsupported(field, why)
    items = document.get("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and (field := _reference_in(item)):
            raise Unsupported(f"input[{index}].{field}", f"it refers to a stored item, and with store: false {STORED}")


def _reference_in(item: JsonObject) -> str:
    """Return the field by which an item refers to a stored one, "" if none: with only an `id`, no `type` is needed."""
    if item.get("type") == "item_reference":
        return "type"
    return "id" if "id" in item and item.keys() <= {"id", "type"} and item.get("type") is None else ""


class _Tools:
    """The request's tools, with the names that they get in other protocols (`tools.py`), and what had to be dropped."""

    def __init__(self, given: list[Any]) -> None:
        self.dropped: list[str] = []
        self._names: dict[tuple[str | None, str], str] = {}
        self._of_definition: dict[int, str] = {}
        for name, origin in origins_of(given).items():
            self._names.setdefault((origin.namespace, origin.name), name)
            self._of_definition[id(origin.definition)] = name
        self.functions = self._functions(given)

    def name(self, item: JsonObject, place: str) -> str:
        """Return the translated name of the tool that a call or a choice names."""
        name, namespace = required_text(item, "name", place), text(item, "namespace", place)
        return self._names.get((namespace, name), name)

    def _functions(self, given: list[Any]) -> list[Tool]:
        functions: list[Tool] = []
        others: list[tuple[str, str]] = []
        for tool, place in objects(given, "tools"):
            kind = tool.get("type")
            if kind in ("function", "custom"):
                functions.append(self._function(tool, place))
            elif kind == "namespace":
                members = objects(list_field(tool, "tools", place), f"{place}.tools")
                required_text(tool, "name", place)
                functions += [self._function(member, where) for member, where in members]
            else:
                others.append((str(kind), place))
        if others and not functions:
            raise Unsupported(f"{others[0][1]}.type", "other protocols do not support tools that OpenAI runs itself")
        self.dropped += [f"tools.{kind[:40]}" for kind, _ in others]
        return functions

    def _function(self, tool: JsonObject, place: str) -> Tool:
        """Read a function. `strict: false` switches strict mode off, which other protocols have off by default."""
        name = required_text(tool, "name", place)
        name = self._of_definition.get(id(tool), name)
        if tool.get("type") == "custom":
            return Tool(name=name, description=custom_description(tool), parameters=CUSTOM_SCHEMA)
        if tool.get("type") != "function":
            raise Unsupported(f"{place}.type", "a namespace may contain only functions and custom tools")
        return Tool(
            name=name,
            description=text(tool, "description", place),
            parameters=object_field(tool, "parameters", place),
            strict=boolean(tool, "strict", place) or None,
        )


def read_request(document: JsonObject) -> ParsedRequest:
    """Parse the conversation in a request.

    Raises:
        Unreadable: the document is not a valid request of this protocol.
        Unsupported: the request needs stored state, or a feature that only providers of this protocol have.
    """
    refuse_state(document)
    unknown = droppable_fields(document, KNOWN, DECISIVE)
    truncation = text(document, "truncation")
    if truncation is not None and truncation not in TRUNCATIONS:
        raise unknown_value("truncation", truncation, TRUNCATIONS)
    wanted = object_field(document, "text") or {}
    reasoning = object_field(document, "reasoning")
    logprobs = integer(document, "top_logprobs", 0, 20)
    tools = _Tools(list_field(document, "tools"))
    turns = _turns(document, tools)
    tool_choice, functions = _tool_choice(document, tools)
    conversation = Conversation(
        turns=turns,
        tools=functions,
        tool_choice=tool_choice,
        format=_format(object_field(wanted, "format", "text")),
        max_tokens=integer(document, "max_output_tokens", 1),
        temperature=number(document, "temperature", 0, 2),
        top_p=number(document, "top_p", 0, 1),
        logprobs=bool(logprobs),
        top_logprobs=logprobs,
        reasoning=_reasoning(reasoning),
        verbosity=text(wanted, "verbosity", "text"),
        user=_user(document),
        metadata=string_map(document, "metadata"),
        service_tier=text(document, "service_tier"),
        cache_key=text(document, "prompt_cache_key"),
    )
    dropped = [*unknown, *(name for name in OPTIONAL_FIELDS if document.get(name))]
    dropped += ["truncation"] if truncation == "auto" else []
    dropped += [*unknown_inside(document, INSIDE), *sorted(set(tools.dropped))]
    return ParsedRequest(conversation, tuple(dropped))


def _user(document: JsonObject) -> str | None:
    """Return the end user: `user`, or `safety_identifier`, which replaces it."""
    safety_identifier = text(document, "safety_identifier")
    return text(document, "user") or safety_identifier


def _turns(document: JsonObject, tools: _Tools) -> list[Turn]:
    turns: list[Turn] = []
    instructions = text(document, "instructions")
    if instructions:
        turns.append(Turn(role="system", parts=[Text(text=instructions)]))
    given = document.get("input")
    if isinstance(given, str):
        return [*turns, Turn(role="user", parts=[Text(text=given)])]
    if not isinstance(given, list) or not given:
        raise Unreadable("input", "input is required: text, or a list of items.")
    for item, place in objects(given, "input"):
        if item.get("type") in DROPPED_ITEMS:
            tools.dropped.append(f"input.{item['type']}")
            continue
        role, parts = _item(item, place, tools)
        if turns and turns[-1].role == role and role in ("assistant", "tool"):
            turns[-1].parts.extend(parts)  # one turn of the model is several items: reasoning, messages, calls
        else:
            turns.append(Turn(role=role, parts=parts))
    return turns


def _item(item: JsonObject, place: str, tools: _Tools) -> tuple[Role, list[Part]]:
    kind = item.get("type")
    if kind is None or kind == "message":
        role = required_text(item, "role", place)
        if role not in ROLES:
            raise unknown_value(f"{place}.role", role, ROLES)
        parts = _content(item, place)
        if role in ("system", "developer"):
            texts_only(parts, f"{place}.content")
        return cast(Role, role), parts
    if kind == "function_call":
        call = ToolCall(
            id=required_text(item, "call_id", place),
            name=tools.name(item, place),
            arguments=text(item, "arguments", place) or "",
        )
        return "assistant", [call]
    if kind == "custom_tool_call":
        arguments = write_custom_input(text(item, "input", place) or "")
        name = tools.name(item, place)
        return "assistant", [ToolCall(id=required_text(item, "call_id", place), name=name, arguments=arguments)]
    if kind in ("function_call_output", "custom_tool_call_output"):
        return "tool", [_output(item, place)]
    if kind == "reasoning":
        return "assistant", [_thought(item, place)]
    raise Unsupported(f"{place}.type", f"other protocols do not support items of type {str(kind)[:40]!r}")


def _thought(item: JsonObject, place: str) -> Thinking:
    """Read a reasoning item: what the gateway encoded (`encrypted_reasoning.py`), or the summary and the content.

    Only the vendor that encrypted the content can read it, also by way of OpenRouter: the writers leave it out for
    others.
    """
    encrypted = text(item, "encrypted_content", place)
    thought = None if encrypted is None else decode_reasoning(encrypted)
    if thought is not None:
        return thought
    parts = objects(list_field(item, "summary", place), f"{place}.summary")
    summary = "\n".join([text(part, "text", where) or "" for part, where in parts])
    if not encrypted or encrypted.startswith(GATEWAY_PREFIX):  # another gateway's, or damaged
        return Thinking(text=summary)
    return Thinking(text=summary, redacted=mark_content(encrypted))


def _output(item: JsonObject, place: str) -> ToolResult:
    output = item.get("output")
    if isinstance(output, str):
        content: list[Part] = [Text(text=output)]
    else:
        content = [_part(part, where) for part, where in objects(list_field(item, "output", place), f"{place}.output")]
    return ToolResult(
        call_id=required_text(item, "call_id", place),
        content=result_parts(content, place),
    )


def _content(item: JsonObject, place: str) -> list[Part]:
    content = item.get("content")
    if isinstance(content, str):
        return [Text(text=content)]
    return [_part(part, where) for part, where in objects(list_field(item, "content", place), f"{place}.content")]


def _part(part: JsonObject, place: str) -> Part:
    kind = required_text(part, "type", place)
    if kind in ("input_text", "output_text", "text"):
        return Text(text=required_text(part, "text", place))
    if kind == "refusal":
        return Refusal(text=required_text(part, "refusal", place))
    if kind == "input_image":
        return _image(part, place)
    if kind == "input_file":
        return _file(part, place)
    raise Unsupported(f"{place}.type", f"other protocols do not support parts of type {kind[:40]!r}")


def _image(part: JsonObject, place: str) -> Image:
    detail, file_id = text(part, "detail", place), text(part, "file_id", place)
    if file_id is not None:
        return Image(file_id=file_id, detail=detail)
    url = required_text(part, "image_url", place)
    media_type, data = from_data_url(url)
    return Image(url=url, detail=detail) if data is None else Image(media_type=media_type, data=data, detail=detail)


def _file(part: JsonObject, place: str) -> File:
    name, file_id, url = (text(part, field, place) for field in ("filename", "file_id", "file_url"))
    if file_id is not None or url is not None:
        return File(name=name, file_id=file_id, url=url)
    media_type, data = from_data_url(required_text(part, "file_data", place))
    if data is None:
        raise Unreadable(f"{place}.file_data", f"{place}.file_data must be a data: URL with base64.")
    return File(name=name, media_type=media_type, data=data)


def _tool_choice(document: JsonObject, tools: _Tools) -> tuple[ToolChoice | None, list[Tool]]:
    """Return the choice, and the tools that it allows."""
    choice, parallel = document.get("tool_choice"), boolean(document, "parallel_tool_calls")
    if choice is None:
        return (None if parallel is None else ToolChoice(parallel=parallel)), tools.functions
    if choice in ("auto", "none", "required"):
        return ToolChoice(mode=choice, parallel=parallel), tools.functions
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind in ("function", "custom"):
        name = tools.name(choice, "tool_choice")
        return ToolChoice(mode="required", name=name, parallel=parallel), tools.functions
    if kind != "allowed_tools":
        raise Unsupported("tool_choice", "it must be auto, none, required, allowed_tools, or name a function")
    given = objects(list_field(choice, "tools", "tool_choice"), "tool_choice.tools")
    names = {tools.name(tool, place) for tool, place in given if tool.get("type") in ("function", "custom")}
    allowed = [tool for tool in tools.functions if tool.name in names]
    if not allowed or choice.get("mode") not in ("auto", "required"):
        raise Unsupported("tool_choice", "it must allow a function or custom tool, with the mode auto or required")
    return ToolChoice(mode=choice["mode"], parallel=parallel), allowed


def _format(given: JsonObject | None) -> ResponseFormat | None:
    kind = required_text(given, "type", "text.format") if given is not None else "text"
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat()
    if kind != "json_schema":
        raise unknown_value("text.format.type", kind, FORMATS)
    return ResponseFormat(
        name=text(given, "name", "text.format"),
        schema=object_field(given, "schema", "text.format") or {},
        description=text(given, "description", "text.format"),
        strict=boolean(given, "strict", "text.format"),
    )


def _reasoning(given: JsonObject | None) -> Reasoning | None:
    if given is None:
        return None
    effort = known_effort(text(given, "effort", "reasoning"), "reasoning.effort")
    summary: Any = text(given, "summary", "reasoning") or text(given, "generate_summary", "reasoning")
    return Reasoning(effort=effort, summary=summary, show=True if summary else None)
