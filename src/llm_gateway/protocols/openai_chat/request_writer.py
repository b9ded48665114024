"""Write a conversation as a chat completions request: https://platform.openai.com/docs/api-reference/chat/create."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from llm_gateway.domain.conversation import (
    Audio,
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
from llm_gateway.domain.reasoning_models import is_reasoning_model, reasons
from llm_gateway.protocols.contract import JsonObject, Unsupported, UpstreamBody
from llm_gateway.protocols.lenient_decoding import arguments_text
from llm_gateway.protocols.openai_chat.model_capabilities import (
    effort_for,
    keeps_thoughts,
    takes_signatures,
)
from llm_gateway.protocols.openai_chat.reasoning_details import is_returnable, returned_details
from llm_gateway.protocols.part_attributes import unsupported_attributes

JSON_INSTRUCTION = "Answer with a single JSON object."
"""Added if no message contains the word JSON: OpenAI rejects the response format `json_object` then."""
UNSUPPORTED_ATTRIBUTES = ("cache_control", "is_error", "thinking")
"""Attributes that chat completions cannot carry (`part_attributes.py`)."""
KEEPS_THOUGHTS = ("cache_control", "is_error")
"""The same for models that take back their own reasoning (`model_capabilities.keeps_thoughts`)."""
MEDIA_FOLLOW = "The result follows in the next message."
"""Text of a tool message whose result has none."""
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
"""Parameters that reasoning models reject: https://developers.openai.com/api/docs/guides/reasoning."""
MOST_STOPS = 4
"""Stop sequences in one request: https://platform.openai.com/docs/api-reference/chat/create#chat_create-stop."""
TIERS = {"standard_only": "default"}
"""OpenAI's service tiers, by Anthropic's names where these differ."""


def write_request(conversation: Conversation, model: str, *, stream: bool, has_json_mode: bool = True) -> UpstreamBody:
    """Build the body of a chat completions request. `has_json_mode`: the vendor supports `json_object`.

    Absent fields are skipped one by one rather than set to None and removed: most requests set few of them, and this
    runs for each request.

    Raises:
        Unsupported: the conversation needs a feature that chat completions lack.
    """
    lacking = KEEPS_THOUGHTS if keeps_thoughts(model) else UNSUPPORTED_ATTRIBUTES
    dropped = unsupported_attributes(conversation, lacking, keeps=partial(is_returnable, model=model))
    document: JsonObject = {"model": model, "messages": _messages(conversation, model)}
    if conversation.max_tokens is not None:
        document["max_completion_tokens" if is_reasoning_model(model) else "max_tokens"] = conversation.max_tokens
    if conversation.tools:
        _add_tools(conversation, document)
    if conversation.format is not None and (wanted := _format(conversation.format, has_json_mode=has_json_mode)):
        document["response_format"] = wanted
    if reasons(model):
        dropped += [name for name in SAMPLING if getattr(conversation, name) is not None]
    else:
        _add_sampling(conversation, document)
    if conversation.reasoning is not None:
        _add_effort(conversation.reasoning, model, document, dropped)
    _add_options(conversation, document)
    if conversation.top_k is not None:
        dropped.append("top_k")
    if conversation.metadata is not None:
        dropped.append("metadata")
    if conversation.cache_key is not None:  # most vendors of this protocol do not know it, and some refuse it
        dropped.append("cache_key")
    if stream:
        document["stream"] = True
        document["stream_options"] = {"include_usage": True}
    return UpstreamBody(document, tuple(dropped))


def _add_tools(conversation: Conversation, document: JsonObject) -> None:
    document["tools"] = [_tool(tool) for tool in conversation.tools]
    choice = conversation.tool_choice
    if choice is not None:
        document["tool_choice"] = _tool_choice(choice)
        if choice.parallel is not None:
            document["parallel_tool_calls"] = choice.parallel


def _add_sampling(conversation: Conversation, document: JsonObject) -> None:
    if conversation.temperature is not None:
        document["temperature"] = conversation.temperature
    if conversation.top_p is not None:
        document["top_p"] = conversation.top_p
    if conversation.presence_penalty is not None:
        document["presence_penalty"] = conversation.presence_penalty
    if conversation.frequency_penalty is not None:
        document["frequency_penalty"] = conversation.frequency_penalty


def _add_options(conversation: Conversation, document: JsonObject) -> None:
    if conversation.stop:
        document["stop"] = _stops(conversation.stop)
    if conversation.n > 1:
        document["n"] = conversation.n
    if conversation.seed is not None:
        document["seed"] = conversation.seed
    if conversation.logit_bias is not None:
        document["logit_bias"] = conversation.logit_bias
    if conversation.logprobs:
        document["logprobs"] = True
    if conversation.logprobs and conversation.top_logprobs is not None:
        document["top_logprobs"] = conversation.top_logprobs
    if conversation.verbosity is not None:
        document["verbosity"] = conversation.verbosity
    if conversation.user is not None:
        document["user"] = conversation.user
    if conversation.service_tier is not None:
        document["service_tier"] = TIERS.get(conversation.service_tier, conversation.service_tier)


def _add_effort(reasoning: Reasoning, model: str, document: JsonObject, dropped: list[str]) -> None:
    effort, is_exact = effort_for(reasoning, model)
    if effort is not None:
        document["reasoning_effort"] = effort
    if not is_exact:
        dropped.append("reasoning")


def _stops(stops: list[str]) -> list[str]:
    if len(stops) > MOST_STOPS:
        raise Unsupported("stop", f"OpenAI's protocol accepts at most {MOST_STOPS} stop sequences")
    return stops


def _messages(conversation: Conversation, model: str) -> list[JsonObject]:
    messages: list[JsonObject] = []
    for turn in conversation.turns:
        role, parts = turn.role, turn.parts
        if role == "tool":
            messages += _tool_messages([part for part in parts if isinstance(part, ToolResult)])
        elif role == "assistant":
            messages.append(_assistant(turn, model))
        else:
            content = _content(parts)
            if role == "user" or _has_text(content):  # providers reject an empty system message
                message: JsonObject = {"role": role, "content": content}
                if turn.name is not None:
                    message["name"] = turn.name
                messages.append(message)
    if conversation.format is not None and conversation.format.schema is None and not _says_json(messages):
        _instruct(messages)
    return messages


def _has_text(content: str | list[JsonObject]) -> bool:
    return bool(content) if isinstance(content, str) else any(part.get("text") for part in content)


def _says_json(messages: list[JsonObject]) -> bool:
    return any("json" in str(message.get("content")).lower() for message in messages)


def _instruct(messages: list[JsonObject]) -> None:
    """Add `JSON_INSTRUCTION` to the first message: some models' chat templates allow only one system message."""
    if messages and messages[0]["role"] == "system" and isinstance(messages[0]["content"], str):
        messages[0]["content"] += f"\n{JSON_INSTRUCTION}"
    else:
        messages.insert(0, {"role": "system", "content": JSON_INSTRUCTION})


def _assistant(turn: Turn, model: str) -> JsonObject:
    content = [part for part in turn.parts if not isinstance(part, ToolCall | Thinking | Refusal)]
    message: JsonObject = {"role": "assistant", "content": _content(content) if content else None}
    calls = [_call(part, model) for part in turn.parts if isinstance(part, ToolCall)]
    if calls:
        message["tool_calls"] = calls
    refusals = [part.text for part in turn.parts if isinstance(part, Refusal)]
    if refusals:
        message["refusal"] = "".join(refusals)
    if message["content"] is None and not calls and not refusals:  # null is valid only beside one of these
        message["content"] = ""
    thought = "".join([part.text for part in turn.parts if isinstance(part, Thinking)])
    if thought and keeps_thoughts(model):
        message["reasoning_content"] = thought
    if details := returned_details(turn.parts, model):
        message["reasoning_details"] = details
    if turn.name is not None:
        message["name"] = turn.name
    return message


def _call(part: ToolCall, model: str) -> JsonObject:
    call: JsonObject = {
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": arguments_text(part.arguments)},
    }
    if part.signature is not None and takes_signatures(
        model
    ):  # https://ai.google.dev/gemini-api/docs/thought-signatures
        call["extra_content"] = {"google": {"thought_signature": part.signature}}
    return call


def _tool_messages(results: list[ToolResult]) -> list[JsonObject]:
    """Write results of tools; their images and files follow in a user message, since tool messages take only text."""
    messages: list[JsonObject] = []
    media: list[JsonObject] = []
    for result in results:
        texts = [part.text for part in result.content if isinstance(part, Text)]
        others = [_part(part) for part in result.content if not isinstance(part, Text)]
        if others:
            media += [{"type": "text", "text": f"Result of the tool call {result.call_id}:"}, *others]
            texts = texts or [MEDIA_FOLLOW]
        messages.append({"role": "tool", "tool_call_id": result.call_id, "content": "\n".join(texts)})
    return [*messages, {"role": "user", "content": media}] if media else messages


def _content(parts: Sequence[Part]) -> str | list[JsonObject]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_part(part) for part in parts]


def _part(part: Part) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        if part.file_id is not None:
            raise Unsupported(
                "image", "an image stored at another vendor cannot be passed on; send its content or a URL"
            )
        picture: JsonObject = {"url": part.url or f"data:{part.media_type};base64,{part.data}"}
        return {"type": "image_url", "image_url": picture | ({"detail": part.detail} if part.detail else {})}
    if isinstance(part, File):
        if part.data is None:
            # URLs: https://developers.openai.com/api/docs/guides/file-inputs ("Not supported", 2026-11-27)
            raise Unsupported("file", "OpenAI's chat protocol accepts only files sent with their content (base64)")
        data = f"data:{part.media_type or 'application/pdf'};base64,{part.data}"
        return {"type": "file", "file": {"filename": part.name or "file", "file_data": data}}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    raise Unsupported(str(type(part).__name__).lower(), "a message of this role cannot contain it")


def _tool(tool: Tool) -> JsonObject:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _tool_choice(choice: ToolChoice) -> str | JsonObject:
    if choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _format(wanted: ResponseFormat, *, has_json_mode: bool) -> JsonObject | None:
    if wanted.schema is None:
        return {"type": "json_object"} if has_json_mode else None
    schema = {
        "name": wanted.name or "answer",
        "schema": wanted.schema,
        "description": wanted.description,
        "strict": wanted.strict,
    }
    return {"type": "json_schema", "json_schema": {key: value for key, value in schema.items() if value is not None}}
