"""Write a canonical conversation as a Messages API request."""

from __future__ import annotations

import base64

from llm_gateway.domain.conversation import (
    CacheTtl,
    Conversation,
    File,
    Image,
    Part,
    Refusal,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from llm_gateway.protocols.anthropic_messages.model_capabilities import (
    MAX_TEMPERATURE,
    accepts_all_parameters,
    default_max_tokens,
    rejects_forced_tools,
    rejects_temperature_with_top_p,
)
from llm_gateway.protocols.anthropic_messages.thinking import forces_tool_call, set_thinking
from llm_gateway.protocols.contract import JsonObject, Unsupported, UpstreamBody
from llm_gateway.protocols.json_tool import JSON_DESCRIPTION, JSON_INSTRUCTION, JSON_TOOL
from llm_gateway.protocols.lenient_decoding import arguments_object
from llm_gateway.protocols.part_attributes import is_verifiable, split_system, unsupported_attributes

TIERS = {"auto": "auto", "standard_only": "standard_only", "default": "standard_only"}
"""`service_tier` of OpenAI and Anthropic → Anthropic's value: https://platform.claude.com/docs/en/api/service-tiers."""
UNSUPPORTED_FIELDS = ("seed", "presence_penalty", "frequency_penalty", "verbosity", "metadata", "cache_key")
"""Fields of `Conversation` that the Messages API lacks. Dropped by name, since the answer stays valid."""
UNSUPPORTED_ATTRIBUTES = ("detail", "name", "thinking")
"""Attributes of parts (`part_attributes.py`) that the Messages API lacks."""
SAMPLING = ("temperature", "top_p", "top_k")
LEAST_TOP_P = 0.95
"""Lowest `top_p` that the Messages API accepts together with thinking."""


def write_request(conversation: Conversation, model: str, *, stream: bool, has_json_mode: bool = True) -> UpstreamBody:
    """Write the document of a request.

    Raises:
        Unsupported: the Messages API cannot express a field of the conversation that would change the answer.
    """
    for field, is_requested, why in (
        ("n", conversation.n > 1, "Anthropic's API returns one answer per request"),
        ("logprobs", conversation.logprobs, "Anthropic's API returns no logprobs"),
        ("logit_bias", conversation.logit_bias is not None, "Anthropic's API has no logit_bias"),
        ("stop", not all(map(str.strip, conversation.stop)), "Anthropic's API accepts no blank stop sequences"),
    ):
        if is_requested:
            raise Unsupported(field, why)
    dropped = [name for name in UNSUPPORTED_FIELDS if getattr(conversation, name) is not None]
    dropped += unsupported_attributes(conversation, UNSUPPORTED_ATTRIBUTES, keeps=is_verifiable)
    system, turns = split_system(conversation.turns)
    document: JsonObject = {
        "model": model,
        "max_tokens": conversation.max_tokens or default_max_tokens(model),
        "messages": _messages(turns),
        "system": _system(system),
        "stop_sequences": conversation.stop or None,
        "metadata": {"user_id": conversation.user} if conversation.user else None,
        "stream": True if stream else None,
    }
    if conversation.service_tier is not None:
        document["service_tier"] = TIERS.get(conversation.service_tier)
        if document["service_tier"] is None:
            dropped.append("service_tier")
    _tools(conversation, model, document)
    dropped += set_thinking(conversation, model, document)
    _sample(conversation, model, document, dropped)
    # A forced call has the schema of its tool, so the response format does not apply.
    if conversation.format is not None and not forces_tool_call(conversation):
        _answer_in(conversation.format, model, document)
    return UpstreamBody({name: value for name, value in document.items() if value is not None}, tuple(dropped))


def _sample(conversation: Conversation, model: str, document: JsonObject, dropped: list[str]) -> None:
    """Set the sampling parameters that the model accepts; add the names of the others to `dropped`.

    With a thinking budget, models accept only `top_p`, from 0.95:
    https://platform.claude.com/docs/en/build-with-claude/extended-thinking#feature-compatibility
    """
    requested = {name: value for name in SAMPLING if (value := getattr(conversation, name)) is not None}
    refused = set() if accepts_all_parameters(model) else set(SAMPLING)
    if document.get("thinking", {}).get("type") == "enabled":
        refused |= {"temperature", "top_k"} | ({"top_p"} if requested.get("top_p", 1) < LEAST_TOP_P else set())
    elif "temperature" in requested and rejects_temperature_with_top_p(model):
        refused.add("top_p")
    dropped += [name for name in requested if name in refused]
    if requested.get("temperature", 0) > MAX_TEMPERATURE:
        requested["temperature"] = MAX_TEMPERATURE
        dropped += [] if "temperature" in refused else ["temperature"]
    document |= {name: value for name, value in requested.items() if name not in refused}


def _system(parts: list[Part]) -> str | list[JsonObject] | None:
    texts = [part for part in parts if isinstance(part, Text) and _is_sendable(part)]
    if len(texts) == 1 and texts[0].cache is None:
        return texts[0].text
    return [_block(part) for part in texts] or None


def _messages(turns: list[Turn]) -> list[JsonObject]:
    """Write turns as messages with the roles user and assistant; merge adjacent turns of the same role."""
    messages: list[JsonObject] = []
    for turn in turns:
        role = "assistant" if turn.role == "assistant" else "user"
        blocks = [_block(part) for part in turn.parts if _is_sendable(part)]
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    if not messages:
        raise Unsupported("messages", "Anthropic's API requires at least one non-empty message")
    for message in messages:
        # Tool results must precede other blocks:
        # https://platform.claude.com/docs/en/agents-and-tools/tool-use/handle-tool-calls
        message["content"].sort(key=lambda block: block["type"] != "tool_result")
        blocks = message["content"]
        if len(blocks) == 1 and set(blocks[0]) == {"type", "text"}:
            message["content"] = blocks[0]["text"]
    return messages


def _is_sendable(part: Part) -> bool:
    """Return False for parts that the API rejects: blank texts, and thinking without a signature."""
    if isinstance(part, Text | Refusal):
        return bool(part.text.strip())
    return not isinstance(part, Thinking) or is_verifiable(part)


def _block(part: Part) -> JsonObject:
    if isinstance(part, Text):
        return _marked({"type": "text", "text": part.text}, part.cache)
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolCall):
        use = {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part.arguments)}
        return _marked(use, part.cache)
    if isinstance(part, ToolResult):
        return _result(part)
    if isinstance(part, Thinking):
        if part.redacted is not None:
            return {"type": "redacted_thinking", "data": part.redacted}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if isinstance(part, Image):
        return _marked({"type": "image", "source": _source(part, "image")}, part.cache)
    if isinstance(part, File):
        return _file(part)
    raise Unsupported("audio", "Anthropic's API accepts no audio")


def _result(result: ToolResult) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": result.call_id}
    content = [_block(part) for part in result.content if _is_sendable(part)]
    if len(content) == 1 and set(content[0]) == {"type", "text"}:
        block["content"] = content[0]["text"]
    elif content:
        block["content"] = content
    if result.is_error:
        block["is_error"] = True
    return _marked(block, result.cache)


def _file(part: File) -> JsonObject:
    media_type = part.media_type or "application/pdf"
    if part.data is not None and media_type.startswith("text/"):
        source = _text_source(part.data)
    else:
        source = _source(File(media_type=media_type, data=part.data, url=part.url), "file")
    block: JsonObject = {"type": "document", "source": source}
    if part.name:
        block["title"] = part.name
    return _marked(block, part.cache)


def _text_source(data: str) -> JsonObject:
    """Return the source of a text file: https://platform.claude.com/docs/en/build-with-claude/files."""
    try:
        content = base64.b64decode(data).decode()
    except ValueError:
        raise Unsupported("file", "Anthropic's API accepts only text files in UTF-8") from None
    return {"type": "text", "media_type": "text/plain", "data": content}


def _source(part: Image | File, field: str) -> JsonObject:
    if part.data is not None:
        return {"type": "base64", "media_type": part.media_type, "data": part.data}
    if part.url is not None:
        return {"type": "url", "url": part.url}
    raise Unsupported(field, "a file stored at another vendor cannot be sent")


def _marked(block: JsonObject, cache: CacheTtl | None) -> JsonObject:
    if cache is None:
        return block
    return {**block, "cache_control": {"type": "ephemeral"} | ({"ttl": "1h"} if cache == "1h" else {})}


def _tools(conversation: Conversation, model: str, document: JsonObject) -> None:
    """Set `tools` and `tool_choice` in `document`."""
    if not conversation.tools:
        return
    if forces_tool_call(conversation) and rejects_forced_tools(model):
        raise Unsupported("tool_choice", f"model {model} does not support forced tool calls")
    document["tools"] = [_tool(tool) for tool in conversation.tools]
    if conversation.tool_choice is not None:
        document["tool_choice"] = _tool_choice(conversation.tool_choice)


def _tool(tool: Tool) -> JsonObject:
    schema = {"type": "object", **(tool.parameters or {"properties": {}})}
    document: JsonObject = {"name": tool.name, "input_schema": schema}
    if tool.description:
        document["description"] = tool.description
    if tool.strict is not None:
        document["strict"] = tool.strict
    return _marked(document, tool.cache)


def _tool_choice(choice: ToolChoice) -> JsonObject:
    if choice.mode == "none":
        return {"type": "none"}
    kind: JsonObject = {"type": "auto" if choice.mode == "auto" else "any"}
    if choice.name is not None:
        kind = {"type": "tool", "name": choice.name}
    if choice.parallel is not None:
        kind["disable_parallel_tool_use"] = not choice.parallel
    return kind


def _answer_in(wanted: ResponseFormat, model: str, document: JsonObject) -> None:
    """Request a JSON answer as the input of a tool (`JSON_TOOL`), forced if the model allows it, plus an instruction.

    If the client has tools of its own, the JSON tool is added to them and the model calls one at a time: to answer is
    to call the JSON tool. The API has no JSON mode without a schema, and its structured outputs require a schema
    with `additionalProperties: false`, which clients' schemas seldom have.
    """
    others = document.get("tools") or []
    may_choose = bool(others) and document.get("tool_choice", {}).get("type") != "none"
    is_forced = accepts_all_parameters(model) and document.get("thinking", {}).get("type") != "enabled"
    if not (may_choose or is_forced):
        others = []  # the choice of a tool cannot exclude single tools, so uncallable ones are left out
    schema = {"type": "object", **(wanted.schema or {})}
    description = wanted.description or JSON_DESCRIPTION
    document["tools"] = [*others, {"name": JSON_TOOL, "description": description, "input_schema": schema}]
    system = document.get("system")
    if system is None or isinstance(system, str):
        document["system"] = f"{system}\n{JSON_INSTRUCTION}" if system else JSON_INSTRUCTION
    else:
        document["system"] = [*system, {"type": "text", "text": JSON_INSTRUCTION}]
    if not is_forced:
        document["tool_choice"] = {"type": "auto"}
    elif may_choose:
        document["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    else:
        document["tool_choice"] = {"type": "tool", "name": JSON_TOOL}
