"""Read a client's generateContent request into a conversation, to send it to a provider of another protocol.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/api/caching#Tool.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import Conversation, Reasoning, ResponseFormat, Text, Tool, ToolChoice, Turn
from llm_gateway.protocols.accessors import (
    boolean,
    droppable_fields,
    integer,
    list_field,
    number,
    object_field,
    objects,
    required_text,
    strings,
    text,
    texts_only,
    unknown_value,
)
from llm_gateway.protocols.contract import JsonObject, ParsedRequest, Unreadable, Unsupported
from llm_gateway.protocols.gemini.contents import ContentsReader
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.schema import json_schema

CONFIG = "generationConfig"
CALLING = "toolConfig.functionCallingConfig"
OPTIONAL_FIELDS = ("safetySettings", "labels", "store")
"""Fields that only Google knows. Dropped by name in a translation, since they do not change the answer."""
KNOWN = frozenset(
    {
        "model",
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        CONFIG,
        "serviceTier",
        "cachedContent",
        *OPTIONAL_FIELDS,
    }
)
OPTIONAL_CONFIG_FIELDS = ("mediaResolution", "audioTimestamp", "enableEnhancedCivicAnswers", "routingConfig")
CONFIG_KNOWN = frozenset(
    {
        "maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "candidateCount", "seed", "presencePenalty",
        "frequencyPenalty", "responseMimeType", "responseSchema", "responseJsonSchema", "_responseJsonSchema",
        "responseModalities", "responseLogprobs", "logprobs", "thinkingConfig", *OPTIONAL_CONFIG_FIELDS,
    }
)  # fmt: skip
DECISIVE_CONFIG_FIELDS = frozenset(
    {"audioTranscriptionConfig", "imageConfig", "responseFormat", "speechConfig", "translationConfig"}
)
"""Fields that change what an answer is, so that other protocols cannot go without them."""
DECLARATION = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
THINKING = frozenset({"thinkingBudget", "thinkingLevel", "includeThoughts"})
FUNCTION_CALLING = frozenset({"mode", "allowedFunctionNames"})
LEVELS = ("minimal", "low", "medium", "high", "xhigh")
DYNAMIC = -1
"""The `thinkingBudget` that lets the model choose: https://ai.google.dev/gemini-api/docs/thinking#set-budget."""
TIERS = {"standard": "default", "unspecified": None}
"""`serviceTier` → canonical (OpenAI's) tier. `flex` and `priority` have the same name."""


def read_request(document: JsonObject) -> ParsedRequest:
    """Read the conversation in a request document. Field names can be camelCase or snake_case, as at Google.

    Raises:
        Unreadable: the document does not conform to generateContent.
        Unsupported: the request needs a feature that only a provider of the Gemini API has.
    """
    document = camel_names(document)
    unknown = droppable_fields(document, KNOWN)
    if document.get("cachedContent"):
        raise Unsupported("cachedContent", "only Google can read content cached at Google")
    config = camel_names(object_field(document, CONFIG) or {})
    unknown += droppable_fields(config, CONFIG_KNOWN, DECISIVE_CONFIG_FIELDS, CONFIG)
    if [modality.upper() for modality in strings(config, "responseModalities", CONFIG)] not in ([], ["TEXT"]):
        raise Unsupported(f"{CONFIG}.responseModalities", "only text answers are supported")
    reader = ContentsReader()
    turns = reader.turns(list_field(document, "contents"))
    if not turns:
        raise Unreadable("contents", "contents is required and must have at least one part that is not empty.")
    tools, dropped = _tools(document)
    choice, tools, ignored = _tool_choice(document, tools)
    tier = text(document, "serviceTier")
    tier = None if tier is None else tier.lower()
    conversation = _with_settings(
        Conversation(
            turns=[*_system(document, reader), *turns],
            tools=tools,
            tool_choice=choice,
            service_tier=TIERS.get(tier, tier) if tier else None,
        ),
        config,
    )
    optional = [name for name in OPTIONAL_FIELDS if document.get(name)]
    optional += [f"{CONFIG}.{name}" for name in OPTIONAL_CONFIG_FIELDS if config.get(name)]
    thinking = camel_names(object_field(config, "thinkingConfig", CONFIG) or {})
    unknown += droppable_fields(thinking, THINKING, where=f"{CONFIG}.thinkingConfig")
    return ParsedRequest(conversation, (*unknown, *optional, *reader.dropped, *dropped, *ignored))


def _system(document: JsonObject, reader: ContentsReader) -> list[Turn]:
    given = document.get("systemInstruction")
    if not given:
        return []
    if isinstance(given, str):
        return [Turn(role="system", parts=[Text(text=given)])]
    parts = reader.parts(camel_names(object_field(document, "systemInstruction") or {}), "systemInstruction")
    texts_only(parts, "systemInstruction")
    return [Turn(role="system", parts=parts)]


def _with_settings(conversation: Conversation, config: JsonObject) -> Conversation:
    conversation.format = _format(config)
    conversation.max_tokens = integer(config, "maxOutputTokens", 1, where=CONFIG)
    conversation.temperature = number(config, "temperature", 0, 2, CONFIG)
    conversation.top_p = number(config, "topP", 0, 1, CONFIG)
    conversation.top_k = integer(config, "topK", where=CONFIG)
    conversation.stop = strings(config, "stopSequences", CONFIG)
    conversation.n = integer(config, "candidateCount", 1, 128, CONFIG) or 1
    conversation.seed = integer(config, "seed", -(2**63), where=CONFIG)
    conversation.presence_penalty = number(config, "presencePenalty", -2, 2, CONFIG)
    conversation.frequency_penalty = number(config, "frequencyPenalty", -2, 2, CONFIG)
    conversation.logprobs = boolean(config, "responseLogprobs", CONFIG) or False
    conversation.top_logprobs = integer(config, "logprobs", 0, 20, CONFIG)
    conversation.reasoning = _reasoning(config)
    return conversation


def _format(config: JsonObject) -> ResponseFormat | None:
    place = f"{CONFIG}.responseMimeType"
    kind = text(config, "responseMimeType", CONFIG)
    schema: Any = None
    for name in ("responseJsonSchema", "_responseJsonSchema"):
        schema = object_field(config, name, CONFIG) if schema is None else schema
    if schema is None and object_field(config, "responseSchema", CONFIG) is not None:
        schema = json_schema(config["responseSchema"])
    if kind not in (None, "text/plain", "application/json"):
        raise unknown_value(place, kind, ("text/plain", "application/json"))
    if schema is not None and kind == "text/plain":
        raise Unreadable(place, f"{place} must be application/json if there is a schema.")
    return ResponseFormat(schema=schema) if kind == "application/json" or schema is not None else None


def _reasoning(config: JsonObject) -> Reasoning | None:
    place = f"{CONFIG}.thinkingConfig"
    given = camel_names(object_field(config, "thinkingConfig", CONFIG) or {})
    shows = boolean(given, "includeThoughts", place) or False
    budget = integer(given, "thinkingBudget", DYNAMIC, where=place)
    level = text(given, "thinkingLevel", place)
    level = None if level is None or level == "THINKING_LEVEL_UNSPECIFIED" else level.lower()
    if level is not None and level not in LEVELS:
        raise unknown_value(f"{place}.thinkingLevel", level, LEVELS)
    if budget == 0:
        return Reasoning(effort="none", show=shows)
    if level is None and budget is None and not shows:
        return None
    return Reasoning(
        effort=level,
        budget_tokens=None if budget == DYNAMIC else budget,
        show=shows,
    )


def _tools(document: JsonObject) -> tuple[list[Tool], list[str]]:
    """Return the tools, and the paths of their fields that only Google knows."""
    tools: list[Tool] = []
    dropped: dict[str, None] = {}
    for given, place in objects(list_field(document, "tools"), "tools"):
        group = camel_names(given)
        for name, value in group.items():
            if name != "functionDeclarations" and value is not None:
                raise Unsupported(f"{place}.{name}", "only Google can run its server-side tools")
        where = f"{place}.functionDeclarations"
        for function, spot in objects(list_field(group, "functionDeclarations", place), where):
            declaration = camel_names(function)
            dropped |= dict.fromkeys(droppable_fields(declaration, DECLARATION, where="tools"))
            tools.append(_tool(declaration, spot))
    return tools, list(dropped)


def _tool(declaration: JsonObject, place: str) -> Tool:
    parameters = object_field(declaration, "parametersJsonSchema", place)
    if parameters is None and object_field(declaration, "parameters", place) is not None:
        parameters = json_schema(declaration["parameters"])
    return Tool(
        name=required_text(declaration, "name", place),
        description=text(declaration, "description", place),
        parameters=parameters,
    )


def _tool_choice(document: JsonObject, tools: list[Tool]) -> tuple[ToolChoice | None, list[Tool], list[str]]:
    """Return the tool choice, the tools that can be called, and the paths of dropped fields.

    Other protocols have no list of allowed functions, so the other functions are removed from the tools.
    """
    config = camel_names(object_field(document, "toolConfig") or {})
    dropped = droppable_fields(config, frozenset({"functionCallingConfig"}), where="toolConfig")
    given = object_field(config, "functionCallingConfig", "toolConfig")
    if given is None:
        return None, tools, dropped
    calling = camel_names(given)
    dropped += droppable_fields(calling, FUNCTION_CALLING, where=CALLING)
    mode = (text(calling, "mode", CALLING) or "AUTO").upper()
    allowed = set(strings(calling, "allowedFunctionNames", CALLING))
    if not allowed.issubset([tool.name for tool in tools]):
        place = f"{CALLING}.allowedFunctionNames"
        raise Unreadable(place, f"{place} must name functions that are declared in tools.")
    if mode == "NONE":
        return ToolChoice(mode="none"), tools, dropped
    if mode == "ANY" and len(allowed) == 1:
        return ToolChoice(mode="required", name=allowed.pop()), tools, dropped
    if allowed:
        tools = [tool for tool in tools if tool.name in allowed]
    if mode == "ANY":
        return ToolChoice(mode="required"), tools, dropped
    if mode == "VALIDATED":
        return ToolChoice(), tools, [*dropped, f"{CALLING}.mode"]
    if mode in ("AUTO", "MODE_UNSPECIFIED"):
        return ToolChoice(), tools, dropped
    raise unknown_value(f"{CALLING}.mode", mode, ("AUTO", "ANY", "NONE", "VALIDATED"))
