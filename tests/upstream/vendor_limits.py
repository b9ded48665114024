"""Refusals of single vendors, for the mock vendor: unknown fields, words and limits, by the vendors' own documents.

It is written apart from the product's table (`providers/vendor_rules`), so that a mistake there shows. Sources, read
2026-11-27: the types of the installed SDKs (openai, anthropic, google-genai), https://console.groq.com/docs/openai,
https://api-docs.deepseek.com, https://docs.x.ai/docs/guides/reasoning, Cerebras by https://hexdocs.pm/req_llm, and
reports that quote the vendors' errors (the table has their addresses).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from anthropic.types.message_create_params import MessageCreateParamsBase as MessageParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as CompletionParams

from tests.upstream import responses_limits

Body = dict[str, Any]
OPENAI_FIELDS = frozenset(get_type_hints(CompletionParams)) | {"stream"}
ANTHROPIC_FIELDS = frozenset(get_type_hints(MessageParams)) | {"stream", "temperature", "top_p", "top_k"}
"""The last three are unknown from version 2026-10-21 of the API on; the gateway asks for 2023-06-01."""
MISTRAL_FIELDS = frozenset(
    {
        "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stream_options", "stop", "random_seed",
        "metadata", "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "n",
        "prediction", "parallel_tool_calls", "prompt_mode", "safe_prompt", "reasoning_effort",
    }
)  # fmt: skip
ALL_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
CLAUDE_OUTPUT = {
    "claude-opus-4-1": 32_000,
    "claude-haiku-4-5": 64_000,
    "claude-opus-4-8": 128_000,
    "claude-fable-5": 128_000,
}
CLAUDE_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
OPENAI_EFFORTS = {
    r"o\d": ("low", "medium", "high"),
    r"gpt-5(-mini|-nano)?$": ("minimal", "low", "medium", "high"),
    r"gpt-5-pro": ("high",),
    r"gpt-5\.\d-pro": ("medium", "high", "xhigh"),
    r"gpt-5\.1-codex-max|gpt-5\.[2-9]-codex": ("low", "medium", "high", "xhigh"),
    r"gpt-5(\.1)?-codex(?!-max)": ("low", "medium", "high"),
    r"gpt-5\.1$": ("none", "low", "medium", "high"),
    r"gpt-5\.2-chat": ("medium",),
    r"gpt-5\.[2-5](?!-chat)": ("none", "low", "medium", "high", "xhigh"),
    r"gpt-5\.6": ("none", "low", "medium", "high", "xhigh", "max"),
}


def refusal_of(vendor: str, model: str, body: Body) -> str | None:
    """Return the message of the vendor's 400 for a body, None if it takes it. Without a vendor it takes everything."""
    check = VENDORS.get(vendor)
    return None if check is None else next(check(model.rpartition("/")[2], body), None)


def _between(body: Body, field: str, least: float, most: float) -> Iterator[str]:
    value = body.get(field)
    if value is not None and not least <= value <= most:
        yield f"Invalid '{field}': {value} is not from {least} to {most}."


def _tools(body: Body) -> Iterator[Body]:
    for tool in body.get("tools") or ():
        yield tool.get("function", tool)


def _names(body: Body, pattern: str) -> Iterator[str]:
    names = [tool["name"] for tool in _tools(body)]
    for message in body.get("messages", ()):
        names += [call["function"]["name"] for call in message.get("tool_calls") or ()]
        content = message["content"] if isinstance(message.get("content"), list) else ()
        names += [block["name"] for block in content if block.get("type") == "tool_use"]
    yield from (f"Invalid function name {name!r}" for name in names if not re.fullmatch(pattern, name))


def _ids(body: Body, pattern: str) -> Iterator[str]:
    for message in body.get("messages", ()):
        ids = [call["id"] for call in message.get("tool_calls") or ()] + [message.get("tool_call_id")]
        content = message["content"] if isinstance(message.get("content"), list) else ()
        ids += [block.get("id", block.get("tool_use_id")) for block in content if "tool" in block.get("type", "")]
        for each in ids:
            if each is not None and not re.fullmatch(pattern, each):
                yield f"Tool call id was {each} but must match {pattern}"


def _words(body: Body, known: tuple[str, ...]) -> Iterator[str]:
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in known:
        yield f"Unsupported value: 'reasoning_effort' does not support {effort!r} with this model."


def _message_fields(body: Body, refused: tuple[str, ...]) -> Iterator[str]:
    for index, message in enumerate(body.get("messages", ())):
        calls = message.get("tool_calls") or ()
        for field in refused:
            if field in message or any(field in call for call in calls):
                yield f"'messages.{index}': property '{field}' is unsupported"


def _present(body: Body, fields: tuple[str, ...]) -> Iterator[str]:
    yield from (f"property '{field}' is unsupported" for field in fields if body.get(field) not in (None, [], ""))


def _strict_is_closed(schema: Any) -> bool:
    """Return whether all objects forbid other properties; OpenAI also requires that each property is required."""
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties", {})
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return False
    return all(map(_strict_is_closed, properties.values())) and _strict_is_closed(schema.get("items"))


def openai(model: str, body: Body) -> Iterator[str]:
    """Yield what OpenAI refuses."""
    if "input" in body:
        yield from responses_limits.refusals(model, body)
        return
    yield from (f"Unrecognized request argument supplied: {name}" for name in body.keys() - OPENAI_FIELDS)
    yield from _openai_reasoning(model, body)
    if re.match("gpt-[34]", model):
        yield from _present(body, ("reasoning_effort",))
    yield from _openai_numbers(body)
    labels = body.get("metadata") or {}
    if len(labels) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in labels.items()):
        yield "Invalid 'metadata'"
    for field, longest in (("user", 64), ("safety_identifier", 128), ("prompt_cache_key", 64)):
        if len(body.get(field) or "") > longest:
            yield f"Invalid '{field}': string too long. Expected a string with maximum length {longest}"
    yield from _names(body, "[a-zA-Z0-9_-]{1,64}")
    yield from _ids(body, ".{1,40}")
    yield from _message_fields(body, ("extra_content",))
    yield from _objects_without_properties(body)
    for tool in _tools(body):
        if tool.get("strict") and not _strict_is_closed(tool.get("parameters")):
            yield "Invalid schema for function: 'additionalProperties' is required to be supplied and to be false."


def _openai_reasoning(model: str, body: Body) -> Iterator[str]:
    if re.match(r"o\d|gpt-[5-9](?!-chat)", model):
        yield from _present(body, ("max_tokens",))
        is_later = model.startswith("gpt-5.")
        if not is_later or body.get("reasoning_effort") not in (None, "none"):
            yield from (*_between(body, "temperature", 1, 1), *_between(body, "top_p", 1, 1))
        if not is_later:
            yield from (*_between(body, "presence_penalty", 0, 0), *_between(body, "frequency_penalty", 0, 0))
    if model.startswith("gpt-5-chat"):
        yield from _present(body, ("reasoning_effort",))
    if re.match(r"o3|o4-mini", model):
        yield from _present(body, ("stop",))
    if re.match(r"o\d", model) and body.get("logprobs"):
        yield "You are not allowed to request logprobs from this model"
    for pattern, known in OPENAI_EFFORTS.items():
        if re.match(pattern, model):
            yield from _words(body, known)


def _openai_numbers(body: Body) -> Iterator[str]:
    if isinstance(body.get("stop"), list) and len(body["stop"]) > 4:
        yield "Invalid 'stop': array too long."
    for field, least, most in (("temperature", 0, 2), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2)):
        yield from _between(body, field, least, most)
    yield from _between(body, "top_logprobs", 0, 20)
    yield from (f"logit_bias {bias}" for bias in (body.get("logit_bias") or {}).values() if not -100 <= bias <= 100)


def _objects_without_properties(body: Body) -> Iterator[str]:
    for tool in _tools(body):
        schema = tool.get("parameters")
        if schema is not None and schema.get("type") == "object" and "properties" not in schema:
            yield f"Invalid schema for function '{tool['name']}': In context=(), object schema missing properties."


def groq(model: str, body: Body) -> Iterator[str]:
    """Yield what Groq refuses."""
    yield from _present(body, ("logit_bias", "top_logprobs"))
    if body.get("logprobs") is not None:
        yield "logprobs is not supported with this model"
    if body.get("n") not in (None, 1):
        yield "'n' : number must be at most 1"
    yield from _message_fields(body, ("name", "reasoning_content", "reasoning_details", "extra_content"))
    if not model.startswith(("gpt-oss", "qwen")):
        yield from _message_fields(body, ("reasoning",))
    yield from _gpt_oss(model, body)
    yield from _objects_without_properties(body)


def mistral(model: str, body: Body) -> Iterator[str]:
    """Yield what Mistral refuses."""
    yield from (f"extra_forbidden: {name}" for name in body.keys() - MISTRAL_FIELDS)
    yield from _message_fields(body, ("reasoning_content", "reasoning_details", "reasoning", "extra_content"))
    yield from _roles(body)
    yield from _ids(body, "[a-zA-Z0-9]{9}")


def _roles(body: Body) -> Iterator[str]:
    for message in body["messages"]:
        if message["role"] not in ("system", "user", "assistant", "tool"):
            yield f"role: unknown variant `{message['role']}`, expected one of `system`, `user`, `assistant`, `tool`"


def deepseek(model: str, body: Body) -> Iterator[str]:
    """Yield what DeepSeek refuses, and a limit by a name that it does not know."""
    yield from _roles(body)
    yield from _present(body, ("max_completion_tokens",))
    if body.get("reasoning_effort") == "none":
        yield "unknown variant `none`"
    for field in ("presence_penalty", "frequency_penalty"):
        yield from _between(body, field, -2, 2)
    yield from _names(body, "[a-zA-Z0-9_-]{1,64}")
    if (body.get("thinking") or {}).get("type") != "disabled":
        for message in body["messages"]:
            if message.get("tool_calls") and not message.get("reasoning_content"):
                yield "The `reasoning_content` in the thinking mode must be passed back to the API."


def xai(model: str, body: Body) -> Iterator[str]:
    """Yield what xAI refuses."""
    if "non-reasoning" not in model and re.match("grok-(3-mini|4|code)", model):
        for field in ("presence_penalty", "frequency_penalty"):
            if body.get(field):
                yield f"Model {model} does not support parameter {field}."
        yield from _present(body, ("stop",))
    known = {"grok-3-mini": ("low", "high"), "grok-4.3": ("none", "low", "medium", "high"),
             "grok-4.5": ("low", "medium", "high"), "grok-code-fast-1": ALL_EFFORTS}  # fmt: skip
    yield from _words(body, known.get(model, ()))


def cerebras(model: str, body: Body) -> Iterator[str]:
    """Yield what Cerebras refuses."""
    refused = ("frequency_penalty", "presence_penalty", "parallel_tool_calls", "service_tier", "logit_bias")
    yield from (f"{field} is not supported" for field in refused if body.get(field) is not None)
    # https://github.com/anomalyco/opencode/issues/33413: it refuses every property that it does not know
    yield from _present(body, ("reasoning", "thinking"))
    yield from _message_fields(body, ("reasoning_content", "reasoning_details", "extra_content"))
    if model.startswith("gpt-oss"):
        yield from _words(body, ("low", "medium", "high"))


def fireworks(model: str, body: Body) -> Iterator[str]:
    """Yield what Fireworks refuses."""
    yield from _message_fields(body, ("extra_content",))
    yield from _gpt_oss(model, body)


def openrouter(model: str, body: Body) -> Iterator[str]:
    """Yield what OpenRouter refuses."""
    if len(body.get("user") or "") > 128:
        yield "user: String must contain at most 128 character(s)"
    yield from _gpt_oss(model, body)


def anthropic(model: str, body: Body) -> Iterator[str]:
    """Yield what Anthropic refuses."""
    yield from (f"{name}: Extra inputs are not permitted" for name in body.keys() - ANTHROPIC_FIELDS)
    yield from _between(body, "temperature", 0, 1)
    if re.search(r"claude-[a-z]+-(4-[7-9]|5)", model):
        yield from _present(body, ("temperature", "top_p", "top_k"))
    for pattern, most in CLAUDE_OUTPUT.items():
        if re.match(pattern, model):
            yield from _between(body, "max_tokens", 0, most)
    for message in body["messages"]:
        content = message["content"] if isinstance(message["content"], list) else ()
        for block in content:
            if block["type"] == "image" and block["source"].get("media_type") not in CLAUDE_IMAGES:
                yield "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png'"
    yield from _names(body, "[a-zA-Z0-9_-]{1,128}")
    yield from _ids(body, "[a-zA-Z0-9_-]+")
    for tool in _tools(body):
        schema = tool["input_schema"]
        limited = any("minimum" in each for each in schema.get("properties", {}).values())
        if tool.get("strict") and (limited or not _strict_is_closed(schema)):
            yield "tools.0.custom: For 'integer' type, property 'minimum' is not supported"


def gemini(model: str, body: Body) -> Iterator[str]:
    """Yield what Google refuses."""
    config = body.get("generationConfig", {})
    yield from _between(config, "temperature", 0, 2)
    for field in ("presencePenalty", "frequencyPenalty"):
        yield from _between(config, field, -2, 2)
    if len(config.get("stopSequences", ())) > 5:
        yield "stopSequences: at most 5"
    names = [each["name"] for tool in body.get("tools", ()) for each in tool.get("functionDeclarations", ())]
    for content in body["contents"]:
        for part in content["parts"]:
            names += [part[kind]["name"] for kind in ("functionCall", "functionResponse") if kind in part]
    for name in names:
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}", name):
            yield "Invalid function name. Must start with a letter or an underscore."


def _gpt_oss(model: str, body: Body) -> Iterator[str]:
    if model.startswith("gpt-oss"):
        yield from _words(body, ("low", "medium", "high"))


def _unknown(model: str, body: Body) -> Iterator[str]:
    """Yield what models refuse wherever they run."""
    if "input" in body:
        yield from responses_limits.reasoning_refusals(model, body)
        return
    if re.match(r"o\d|gpt-\d", model):
        yield from _openai_reasoning(model, body)
    elif model.startswith("kimi"):
        for message in body["messages"]:
            if message.get("tool_calls") and not message.get("reasoning_content"):
                yield "thinking is enabled but reasoning_content is missing in assistant tool call message"
    yield from _gpt_oss(model, body)


VENDORS: dict[str, Callable[[str, Body], Iterator[str]]] = {
    "openai": openai, "groq": groq, "mistral": mistral, "deepseek": deepseek, "xai": xai, "cerebras": cerebras,
    "openrouter": openrouter, "anthropic": anthropic, "gemini": gemini, "": _unknown,
    "fireworks": fireworks, **dict.fromkeys(("together", "vllm", "ollama", "lmstudio"), _gpt_oss),
}  # fmt: skip
