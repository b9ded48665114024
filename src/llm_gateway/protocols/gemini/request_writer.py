"""Write a canonical conversation as a generateContent request.

Sources: https://ai.google.dev/api/caching#Content, https://ai.google.dev/gemini-api/docs/function-calling,
https://ai.google.dev/gemini-api/docs/thinking, https://ai.google.dev/gemini-api/docs/structured-output.
"""

from __future__ import annotations

import re

import msgspec

from llm_gateway.domain.conversation import (
    REASONING_EFFORTS,
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
from llm_gateway.protocols.contract import JsonObject, Unsupported, UpstreamBody
from llm_gateway.protocols.json_tool import JSON_DESCRIPTION, JSON_INSTRUCTION, JSON_TOOL
from llm_gateway.protocols.lenient_decoding import arguments_object
from llm_gateway.protocols.part_attributes import split_system, unsupported_attributes

MAX_TEMPERATURE = 2.0
PDF = "application/pdf"
MOST_STOPS = 5
"""Number of stop sequences that Gemini accepts."""
BY_LEVEL = re.compile(r".*gemini-(?:[3-9]|\d\d)")
"""Models that take a `thinkingLevel` instead of a budget in tokens:
https://ai.google.dev/gemini-api/docs/thinking#thinking-levels."""
ALWAYS_THINKS = re.compile(r".*gemini-2\.5-pro")
"""Models that take a thinking budget but cannot turn thinking off."""
LEAST_BUDGET = 128
"""Smallest thinking budget in tokens of a model that cannot turn thinking off:
https://ai.google.dev/gemini-api/docs/thinking#set-budget."""
LEVELS_BY_MODEL = (
    (re.compile(r".*gemini-3(?:\.[56])?-flash"), ("minimal", "low", "medium", "high")),
    (re.compile(r".*gemini-3\.[78]-flash"), ("low", "medium", "high")),
    (re.compile(r""), ("low", "high")),
)
"""Values of `thinkingLevel` by model; the first match decides. All models of Gemini 3 and later know low and high.

https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/thinking,
https://github.com/simonw/llm-gemini/releases/tag/0.34 (3.8 Flash).
"""
BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
"""Reasoning effort → `thinkingBudget` in tokens: https://ai.google.dev/gemini-api/docs/openai#thinking."""
NO_SIGNATURE = "skip_thought_signature_validator"
"""The `thoughtSignature` for tool calls that another vendor's model made:
https://ai.google.dev/gemini-api/docs/thought-signatures#faqs."""
TIERS = {"flex": "flex", "priority": "priority", "default": "standard", "standard_only": "standard"}
"""`service_tier` of OpenAI and Anthropic → Gemini's value, in lower case:
https://ai.google.dev/gemini-api/docs/flex-inference, …/priority-inference (2026-11-27)."""
UNSUPPORTED_FIELDS = ("verbosity", "metadata", "user", "cache_key")
"""Fields of `Conversation` that Gemini lacks. Dropped by name, since the answer stays valid."""
UNSUPPORTED_ATTRIBUTES = ("cache_control", "detail", "name", "strict", "thinking")
"""Attributes of parts (`part_attributes.py`) that Gemini lacks."""


def write_request(conversation: Conversation, model: str, *, stream: bool, has_json_mode: bool = True) -> UpstreamBody:
    """Write the document of a request. `stream` does not change it: streams have a path of their own.

    Raises:
        Unsupported: Gemini cannot express a field of the conversation that would change the answer.
    """
    if conversation.logit_bias is not None:
        raise Unsupported("logit_bias", "Gemini's API has no logit_bias")
    if len(conversation.stop) > MOST_STOPS:
        raise Unsupported("stop", f"Gemini's API accepts at most {MOST_STOPS} stop sequences")
    dropped = [name for name in UNSUPPORTED_FIELDS if getattr(conversation, name) is not None]
    dropped += unsupported_attributes(conversation, UNSUPPORTED_ATTRIBUTES)
    if conversation.reasoning is not None and _differs(conversation.reasoning.effort, model):
        dropped.append("reasoning")
    system, turns = split_system(conversation.turns)
    document: JsonObject = {
        "contents": _contents(turns, model),
        "generationConfig": _generation(conversation, model),
    }
    texts = [{"text": part.text} for part in system if isinstance(part, Text) and part.text]
    if texts:
        document["systemInstruction"] = {"parts": texts}
    if (tier := conversation.service_tier) is not None:
        if tier in TIERS:
            document["serviceTier"] = TIERS[tier]
        else:
            dropped.append("service_tier")
    if conversation.tools:
        _add_tools(conversation, document, dropped)
        if conversation.format is not None and not BY_LEVEL.match(model):
            _answer_by_tool(conversation.format, document)
    return UpstreamBody(document, tuple(dropped))


def _add_tools(conversation: Conversation, document: JsonObject, dropped: list[str]) -> None:
    document["tools"] = [{"functionDeclarations": [_tool(tool) for tool in conversation.tools]}]
    choice = conversation.tool_choice
    if choice is not None:
        document["toolConfig"] = {"functionCallingConfig": _calling(choice)}
        if choice.parallel is not None:
            dropped.append("parallel_tool_calls")


def _answer_by_tool(wanted: ResponseFormat, document: JsonObject) -> None:
    """Ask for JSON by one more tool: before Gemini 3, tools and a response format are refused together.

    https://github.com/googleapis/python-genai/issues/867. A forced call has the schema of its tool, so the format does
    not apply then; tools that must not be called are left out.
    """
    calling = document.get("toolConfig", {}).get("functionCallingConfig", {})
    if calling.get("mode") == "NONE":
        del document["tools"], document["toolConfig"]
        return
    config = document["generationConfig"]
    config.pop("responseMimeType", None)
    config.pop("responseJsonSchema", None)
    if calling.get("mode") == "ANY":
        return
    declaration = {"name": JSON_TOOL, "description": wanted.description or JSON_DESCRIPTION}
    document["tools"][0]["functionDeclarations"].append(
        {**declaration, "parametersJsonSchema": {"type": "object", **(wanted.schema or {})}}
    )
    document["toolConfig"] = {"functionCallingConfig": {"mode": "ANY"}}
    parts = document.setdefault("systemInstruction", {"parts": []})["parts"]
    parts.append({"text": JSON_INSTRUCTION})


def _generation(conversation: Conversation, model: str) -> JsonObject:
    temperature = conversation.temperature
    config: JsonObject = {
        "maxOutputTokens": conversation.max_tokens,
        "temperature": None if temperature is None else min(temperature, MAX_TEMPERATURE),
        "topP": conversation.top_p,
        "topK": conversation.top_k,
        "stopSequences": conversation.stop or None,
        "candidateCount": conversation.n if conversation.n > 1 else None,
        "seed": conversation.seed,
        "presencePenalty": conversation.presence_penalty,
        "frequencyPenalty": conversation.frequency_penalty,
        "responseLogprobs": True if conversation.logprobs else None,
        "logprobs": conversation.top_logprobs if conversation.logprobs else None,
        "thinkingConfig": _thinking(conversation.reasoning, model),
    }
    if conversation.format is not None:
        config["responseMimeType"] = "application/json"
        if conversation.format.schema:
            config["responseJsonSchema"] = conversation.format.schema
    return {name: value for name, value in config.items() if value is not None}


def _thinking(reasoning: Reasoning | None, model: str) -> JsonObject | None:
    """Return the `thinkingConfig`: a level for models in BY_LEVEL, a budget in tokens for others."""
    if reasoning is None:
        return None
    shows = reasoning.show if reasoning.show is not None else reasoning.budget_tokens is not None
    config: JsonObject = {"includeThoughts": True} if shows else {}
    effort = reasoning.effort
    if BY_LEVEL.match(model):
        if effort is None and reasoning.budget_tokens is not None:
            effort = "low" if reasoning.budget_tokens < BUDGETS["medium"] else "high"
        if effort in REASONING_EFFORTS:
            config["thinkingLevel"] = _level(effort, model)
    elif reasoning.budget_tokens is not None:
        config["thinkingBudget"] = reasoning.budget_tokens
    elif effort in BUDGETS:
        config["thinkingBudget"] = BUDGETS[effort]
    # A budget of 0 turns thinking off, which these models reject.
    if config.get("thinkingBudget") == 0 and ALWAYS_THINKS.match(model):
        config["thinkingBudget"] = LEAST_BUDGET
    return config or None


def _level(effort: str, model: str) -> str:
    """Return the level of the model that is nearest to the effort; of two equally near, the higher one."""
    known = next(levels for models, levels in LEVELS_BY_MODEL if models.match(model))
    place = REASONING_EFFORTS.index(effort)
    return min(reversed(known), key=lambda level: abs(REASONING_EFFORTS.index(level) - place))


def _differs(effort: str | None, model: str) -> bool:
    """Return whether the model does not know the effort, so that it gets another one."""
    if BY_LEVEL.match(model):
        return effort in REASONING_EFFORTS and _level(effort, model) != effort
    return effort == "none" and ALWAYS_THINKS.match(model) is not None


def _contents(turns: list[Turn], model: str) -> list[JsonObject]:
    """Write turns as contents with the roles user and model; merge adjacent turns of the same role."""
    contents: list[JsonObject] = []
    names: dict[str, str] = {}
    for turn in turns:
        role = "model" if turn.role == "assistant" else "user"
        parts: list[JsonObject] = []
        for part in turn.parts:
            if isinstance(part, ToolCall):
                names[part.id] = part.name
            parts += _parts(part, names, model)
        parts.sort(key=lambda part: "functionResponse" not in part)  # Gemini 2.5 takes media of results behind them
        if not parts:
            continue
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    if not contents:
        raise Unsupported("messages", "Gemini's API requires at least one non-empty message besides the system prompt")
    return contents


def _parts(part: Part, names: dict[str, str], model: str) -> list[JsonObject]:
    """Return the parts of a request: none for empty texts, and for thoughts, which only their own model can read."""
    if isinstance(part, Text | Refusal):
        if isinstance(part, Text) and part.signature is not None:
            return [{"text": part.text, "thoughtSignature": part.signature}]
        return [{"text": part.text}] if part.text else []
    if isinstance(part, ToolCall):
        return [_call(part, model)]
    if isinstance(part, ToolResult):
        return _result(part, names, model)
    if isinstance(part, Image | File):
        return [_media(part)]
    if isinstance(part, Audio):
        return [{"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}]
    if isinstance(part, Thinking):
        return []
    raise Unsupported("messages", f"Gemini's API does not support message parts of type {type(part).__name__.lower()}")


def _call(call: ToolCall, model: str) -> JsonObject:
    document: JsonObject = {"functionCall": {"name": call.name, "args": arguments_object(call.arguments)}}
    signature = call.signature or (NO_SIGNATURE if BY_LEVEL.match(model) else None)
    return document if signature is None else {**document, "thoughtSignature": signature}


def _result(result: ToolResult, names: dict[str, str], model: str) -> list[JsonObject]:
    """Return a tool's result. Its media are inside it from Gemini 3 on, and parts of their own for older models.

    https://ai.google.dev/gemini-api/docs/function-calling#multimodal
    """
    name = result.name or names.get(result.call_id)
    if name is None:
        raise Unsupported("messages", "Gemini's API requires that a tool result follows a tool call with the same id")
    texts = [part.text for part in result.content if isinstance(part, Text)]
    media = [_media(part) for part in result.content if not isinstance(part, Text)]
    response: JsonObject = {"name": name, "response": _response("\n".join(texts), is_error=result.is_error)}
    if media and BY_LEVEL.match(model):
        return [{"functionResponse": {**response, "parts": media}}]
    return [{"functionResponse": response}, *media]


def _response(text: str, *, is_error: bool) -> JsonObject:
    if is_error:
        return {"error": text}
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        given = None
    return given if isinstance(given, dict) else {"result": text}


def _media(part: Image | File) -> JsonObject:
    is_image = isinstance(part, Image)
    return _blob(part, "image" if is_image else "file", part.media_type or ("image/jpeg" if is_image else PDF))


def _blob(part: Image | File, field: str, media_type: str) -> JsonObject:
    if part.data is not None:
        return {"inlineData": {"mimeType": media_type, "data": part.data}}
    if part.url is not None:
        return {"fileData": {"mimeType": media_type, "fileUri": part.url}}
    raise Unsupported(field, "a file stored at another vendor cannot be sent")


def _tool(tool: Tool) -> JsonObject:
    document: JsonObject = {"name": tool.name}
    if tool.description:
        document["description"] = tool.description
    if tool.parameters:
        document["parametersJsonSchema"] = tool.parameters
    return document


def _calling(choice: ToolChoice) -> JsonObject:
    if choice.name is not None:
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice.mode]}
