"""Write a conversation as a Responses API request: https://platform.openai.com/docs/api-reference/responses/create.

Nothing is stored (`store: false`), so reasoning is requested in encrypted form and sent back with the next request:
https://developers.openai.com/api/docs/guides/reasoning#encrypted-reasoning-items.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from llm_gateway.domain.conversation import (
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
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
from llm_gateway.domain.reasoning_models import reasons
from llm_gateway.protocols.contract import JsonObject, Unsupported, UpstreamBody
from llm_gateway.protocols.encrypted_reasoning import is_from_responses, unmark_content
from llm_gateway.protocols.lenient_decoding import arguments_text
from llm_gateway.protocols.openai_chat.model_capabilities import effort_for
from llm_gateway.protocols.openai_chat.request_writer import JSON_INSTRUCTION, TIERS
from llm_gateway.protocols.part_attributes import unsupported_attributes

UNSUPPORTED_FIELDS = ("seed", "presence_penalty", "frequency_penalty", "top_k", "metadata")
"""Fields of `Conversation` that are dropped by name: the API lacks them; `metadata` labels stored responses only."""
UNSUPPORTED_ATTRIBUTES = ("cache_control", "is_error", "name", "thinking")
"""Attributes of parts (`part_attributes.py`) that the API lacks."""
SAMPLING = ("temperature", "top_p")
"""Parameters that reasoning models reject: https://developers.openai.com/api/docs/guides/reasoning."""
LEAST_MAX_TOKENS = 16
"""Smallest `max_output_tokens`: "integer below minimum value. Expected a value >= 16",
https://github.com/vectorize-io/hindsight/issues/58 (2025-12-19)."""
MOST_ID_CHARACTERS = 64
"""Length of a `call_id` ("string too long. Expected a string with maximum length 64",
https://github.com/AnswerDotAI/fastllm/issues/45, 2026-06-08) and of a `prompt_cache_key`
(https://github.com/theopenco/llmgateway/pull/3110, 2026-07-17), and half of that of a `safety_identifier`."""
ENCRYPTED_REASONING, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
"""Values of `include`. Models that do not reason reject the first, "Encrypted content is not supported with this
model": https://github.com/NousResearch/hermes-agent/pull/24234 (2026-05-12)."""


def write_request(conversation: Conversation, model: str, *, stream: bool, has_json_mode: bool = True) -> UpstreamBody:
    """Build the body of a request. `has_json_mode`: the vendor supports the text format `json_object`.

    Raises:
        Unsupported: the conversation needs a feature that the Responses API lacks.
    """
    for field, is_requested, why in (
        ("n", conversation.n > 1, "OpenAI's Responses API returns one answer per request"),
        ("stop", bool(conversation.stop), "OpenAI's Responses API has no stop sequences"),
        ("logit_bias", conversation.logit_bias is not None, "OpenAI's Responses API has no logit_bias"),
    ):
        if is_requested:
            raise Unsupported(field, why)
    dropped = [name for name in UNSUPPORTED_FIELDS if getattr(conversation, name) is not None]
    dropped += unsupported_attributes(conversation, UNSUPPORTED_ATTRIBUTES, keeps=is_from_responses)
    document: JsonObject = {"model": model, "store": False}
    _add_input(conversation, document)
    _add_limits(conversation, model, document, dropped)
    _add_reasoning(conversation, model, document, dropped)
    if conversation.tools:
        _add_tools(conversation, document)
    if text := _text_settings(conversation, has_json_mode=has_json_mode):
        document["text"] = text
    if conversation.user is not None:
        document["safety_identifier"] = _short_id(conversation.user)
    if conversation.service_tier is not None:
        document["service_tier"] = TIERS.get(conversation.service_tier, conversation.service_tier)
    if conversation.cache_key is not None:
        document["prompt_cache_key"] = _short_id(conversation.cache_key)
    if stream:
        document["stream"] = True
    return UpstreamBody(document, tuple(dropped))


def _add_limits(conversation: Conversation, model: str, document: JsonObject, dropped: list[str]) -> None:
    """Set the output limit and the sampling parameters; add the names of those that had to change to `dropped`."""
    limit = conversation.max_tokens
    if limit is not None:
        document["max_output_tokens"] = max(limit, LEAST_MAX_TOKENS)
        if limit < LEAST_MAX_TOKENS:
            dropped.append("max_tokens")
    for name in SAMPLING:
        value = getattr(conversation, name)
        if value is not None and reasons(model):
            dropped.append(name)
        elif value is not None:
            document[name] = value
    if conversation.logprobs and conversation.top_logprobs is not None:
        document["top_logprobs"] = conversation.top_logprobs


def _add_reasoning(conversation: Conversation, model: str, document: JsonObject, dropped: list[str]) -> None:
    """Set `reasoning` as requested, and `include`, so that the next request can send the reasoning back."""
    include = [ENCRYPTED_REASONING] if reasons(model) else []
    if conversation.logprobs:
        include.append(LOGPROBS)
    if include:
        document["include"] = include
    reasoning = conversation.reasoning
    if reasoning is None:
        return
    if not reasons(model):
        dropped.append("reasoning")
        return
    effort, is_exact = effort_for(reasoning, model)
    settings: JsonObject = {} if effort is None else {"effort": effort}
    summary = _summary(reasoning)
    if summary is not None and effort != "none":
        settings["summary"] = summary
    if settings:
        document["reasoning"] = settings
    if not is_exact:
        dropped.append("reasoning")


def _summary(reasoning: Reasoning) -> str | None:
    """Return the summary to request. Only on request: unverified organisations are refused one, with status 400.

    https://github.com/openai/openai-cookbook/issues/2271 (2025-12-03)
    """
    return reasoning.summary or ("auto" if reasoning.show else None)


def _add_tools(conversation: Conversation, document: JsonObject) -> None:
    document["tools"] = [_tool(tool) for tool in conversation.tools]
    choice = conversation.tool_choice
    if choice is not None:
        document["tool_choice"] = _tool_choice(choice)
        if choice.parallel is not None:
            document["parallel_tool_calls"] = choice.parallel


def _tool(tool: Tool) -> JsonObject:
    """Write a function. Without `strict` the API would apply strict mode; an object without `properties` is refused."""
    schema = tool.parameters or {"type": "object"}
    if schema.get("type") == "object" and "properties" not in schema:
        schema = {**schema, "properties": {}}
    function: JsonObject = {
        "type": "function",
        "name": tool.name,
        "parameters": schema,
        "strict": tool.strict or False,
    }
    if tool.description is not None:
        function["description"] = tool.description
    return function


def _tool_choice(choice: ToolChoice) -> str | JsonObject:
    return choice.mode if choice.name is None else {"type": "function", "name": choice.name}


def _text_settings(conversation: Conversation, *, has_json_mode: bool) -> JsonObject:
    settings: JsonObject = {}
    if conversation.format is not None and (wanted := _format(conversation.format, has_json_mode=has_json_mode)):
        settings["format"] = wanted
    if conversation.verbosity is not None:
        settings["verbosity"] = conversation.verbosity
    return settings


def _format(wanted: ResponseFormat, *, has_json_mode: bool) -> JsonObject | None:
    if wanted.schema is None:
        return {"type": "json_object"} if has_json_mode else None
    schema = {
        "type": "json_schema",
        "name": wanted.name or "answer",
        "schema": wanted.schema,
        "description": wanted.description,
        "strict": wanted.strict,
    }
    return {key: value for key, value in schema.items() if value is not None}


def _add_input(conversation: Conversation, document: JsonObject) -> None:
    """Set `instructions`, the leading system texts, and `input`, the rest; the API refuses an empty input.

    For JSON without a schema the input has to contain the word JSON, and `instructions` may not count:
    https://github.com/miracodeai/mira/pull/267 (2026-08-24).
    """
    turns = conversation.turns
    start = next((n for n, turn in enumerate(turns) if turn.role not in ("system", "developer")), 0)
    system = [part.text for turn in turns[:start] for part in turn.parts if isinstance(part, Text) and part.text]
    if system:
        document["instructions"] = "\n\n".join(system)
    items = [item for turn in turns[start:] for item in _items(turn)]
    wants_json = conversation.format is not None and conversation.format.schema is None
    if wants_json and "json" not in str(items).lower():
        items.insert(0, {"type": "message", "role": "developer", "content": JSON_INSTRUCTION})
    document["input"] = items


def _items(turn: Turn) -> list[JsonObject]:
    if turn.role == "tool":
        return [_result(part) for part in turn.parts if isinstance(part, ToolResult)]
    if turn.role == "assistant":
        return _assistant_items(turn.parts)
    content = _content(turn.parts)
    if turn.role != "user" and not content:
        return []
    return [{"type": "message", "role": turn.role, "content": content}]


def _assistant_items(parts: Sequence[Part]) -> list[JsonObject]:
    """Write an answer of the model: reasoning, texts and calls in their order.

    Items have no `id`, which would name a stored item; OpenAI's own client leaves it out, too:
    https://github.com/openai/codex/blob/main/codex-rs/protocol/src/models.rs.
    """
    items: list[JsonObject] = []
    for part in parts:
        if isinstance(part, Text):
            if part.text:
                items.append({"type": "message", "role": "assistant", "content": part.text})
        elif isinstance(part, Refusal):
            content = [{"type": "refusal", "refusal": part.text}]
            items.append({"type": "message", "role": "assistant", "content": content})
        elif isinstance(part, ToolCall):
            call = {
                "call_id": _short_id(part.id),
                "name": part.name,
                "arguments": arguments_text(part.arguments),
            }
            items.append({"type": "function_call", **call})
        elif is_from_responses(part):
            items.append(_reasoning(part))
        elif not isinstance(part, Thinking):
            raise Unsupported(str(type(part).__name__).lower(), "an answer of the model cannot contain it")
    while items and items[-1]["type"] == "reasoning":  # refused "without its required following item"
        items.pop()
    return items


def _reasoning(part: Part) -> JsonObject:
    """Write a reasoning item; its `summary` is required, its text must be left out."""
    redacted, text = (part.redacted or "", part.text) if isinstance(part, Thinking) else ("", "")
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"type": "reasoning", "summary": summary, "encrypted_content": unmark_content(redacted)}


def _result(result: ToolResult) -> JsonObject:
    return {
        "type": "function_call_output",
        "call_id": _short_id(result.call_id),
        "output": _content(result.content),
    }


def _content(parts: Sequence[Part]) -> str | list[JsonObject]:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_part(part) for part in parts]


def _part(part: Part) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, Image):
        if part.file_id is not None:
            raise Unsupported(
                "image", "an image stored at another vendor cannot be passed on; send its content or a URL"
            )
        url = part.url or f"data:{part.media_type};base64,{part.data}"
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if isinstance(part, File):
        return _file(part)
    raise Unsupported(str(type(part).__name__).lower(), "OpenAI's Responses API accepts text, images and files only")


def _file(part: File) -> JsonObject:
    if part.url is not None:
        return {"type": "input_file", "file_url": part.url}
    if part.data is None:
        raise Unsupported("file", "a file stored at another vendor cannot be passed on; send its content or a URL")
    data = f"data:{part.media_type or 'application/pdf'};base64,{part.data}"
    return {"type": "input_file", "filename": part.name or "file", "file_data": data}


def _short_id(given: str) -> str:
    """Return an id within the API's limit: a hash for a longer one, so that equal ids stay equal."""
    return given if len(given) <= MOST_ID_CHARACTERS else sha256(given.encode()).hexdigest()[:32]
