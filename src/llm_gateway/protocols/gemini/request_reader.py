"""What a client of generateContent asks for, in canonical form.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/api/caching#Tool.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import Conversation, Format, Reasoning, Text, Tool, ToolChoice, Turn
from llm_gateway.protocols.accessors import (
    Document,
    child,
    listed,
    number,
    objects,
    refuse_others,
    required_text,
    strings,
    text,
    texts_only,
    truth,
    whole,
)
from llm_gateway.protocols.contract import ParsedRequest, Unreadable, Unsupported
from llm_gateway.protocols.gemini.contents import ContentsReader
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.schema import json_schema

CONFIG = "generationConfig"
CALLING = "toolConfig.functionCallingConfig"
HINTS = ("safetySettings", "labels", "store")
"""Told to the vendor itself: no other has a place for them."""
KNOWN = frozenset(
    {"model", "contents", "systemInstruction", "tools", "toolConfig", CONFIG, "serviceTier", "cachedContent", *HINTS}
)
CONFIG_HINTS = ("mediaResolution", "audioTimestamp", "enableEnhancedCivicAnswers", "routingConfig")
CONFIG_KNOWN = frozenset(
    {
        "maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "candidateCount", "seed", "presencePenalty",
        "frequencyPenalty", "responseMimeType", "responseSchema", "responseJsonSchema", "_responseJsonSchema",
        "responseModalities", "responseLogprobs", "logprobs", "thinkingConfig", *CONFIG_HINTS,
    }
)  # fmt: skip
DECLARATION = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
DECLARATION_HINTS = frozenset({"response", "responseJsonSchema", "behavior"})
THINKING = frozenset({"thinkingBudget", "thinkingLevel", "includeThoughts"})
LEVELS = ("minimal", "low", "medium", "high", "xhigh")
DYNAMIC = -1
"""A `thinkingBudget` of which the model is the judge: https://ai.google.dev/gemini-api/docs/thinking#set-budget."""
TIERS = {"standard": "default", "unspecified": None}
"""`flex` and `priority` are the words of others, too."""


def read_request(document: Document) -> ParsedRequest:
    """Return the conversation in a request. Names are taken in camelCase and snake_case, as Google does.

    Raises:
        Unreadable: the document is no request.
        Unsupported: it asks for what only a provider of this protocol can do.
    """
    document = camel_names(document)
    refuse_others(document, KNOWN)
    if document.get("cachedContent"):
        raise Unsupported("cachedContent", "what is cached at Google can be read by Google only")
    config = camel_names(child(document, CONFIG) or {})
    refuse_others(config, CONFIG_KNOWN, CONFIG)
    if [one.upper() for one in strings(config, "responseModalities", CONFIG)] not in ([], ["TEXT"]):
        raise Unsupported(f"{CONFIG}.responseModalities", "answers are text only")
    reader = ContentsReader()
    turns = reader.turns(listed(document, "contents"))
    if not turns:
        raise Unreadable("contents", "contents is required, with at least one part that is not empty.")
    tools, dropped = _tools(document)
    choice, tools, ignored = _tool_choice(document, tools)
    tier = text(document, "serviceTier")
    tier = None if tier is None else tier.lower()
    conversation = _with_settings(
        Conversation(
            turns=[*_system(document), *turns],
            tools=tools,
            tool_choice=choice,
            service_tier=TIERS.get(tier, tier) if tier else None,
        ),
        config,
    )
    hints = [name for name in HINTS if document.get(name)]
    hints += [f"{CONFIG}.{name}" for name in CONFIG_HINTS if config.get(name)]
    return ParsedRequest(conversation, (*hints, *reader.dropped, *dropped, *ignored))


def _system(document: Document) -> list[Turn]:
    given = document.get("systemInstruction")
    if not given:
        return []
    if isinstance(given, str):
        return [Turn(role="system", parts=[Text(text=given)])]
    parts = ContentsReader().parts(camel_names(child(document, "systemInstruction") or {}), "systemInstruction")
    texts_only(parts, "systemInstruction")
    return [Turn(role="system", parts=parts)]


def _with_settings(conversation: Conversation, config: Document) -> Conversation:
    found = conversation
    found.format = _format(config)
    found.max_tokens = whole(config, "maxOutputTokens", 1, where=CONFIG)
    found.temperature = number(config, "temperature", 0, 2, CONFIG)
    found.top_p = number(config, "topP", 0, 1, CONFIG)
    found.top_k = whole(config, "topK", where=CONFIG)
    found.stop = strings(config, "stopSequences", CONFIG)
    found.n = whole(config, "candidateCount", 1, 128, CONFIG) or 1
    found.seed = whole(config, "seed", -(2**63), where=CONFIG)
    found.presence_penalty = number(config, "presencePenalty", -2, 2, CONFIG)
    found.frequency_penalty = number(config, "frequencyPenalty", -2, 2, CONFIG)
    found.logprobs = truth(config, "responseLogprobs", CONFIG) or False
    found.top_logprobs = whole(config, "logprobs", 0, 20, CONFIG)
    found.reasoning = _reasoning(config)
    return found


def _format(config: Document) -> Format | None:
    place = f"{CONFIG}.responseMimeType"
    kind = text(config, "responseMimeType", CONFIG)
    schema: Any = None
    for name in ("responseJsonSchema", "_responseJsonSchema"):
        schema = child(config, name, CONFIG) if schema is None else schema
    if schema is None and child(config, "responseSchema", CONFIG) is not None:
        schema = json_schema(config["responseSchema"])
    if kind not in (None, "text/plain", "application/json"):
        raise Unsupported(place, "answers of other types than text/plain and application/json are Google's own")
    if schema is not None and kind == "text/plain":
        raise Unreadable(place, f"{place} must be application/json where there is a schema.")
    return Format(schema=schema) if kind == "application/json" or schema is not None else None


def _reasoning(config: Document) -> Reasoning | None:
    place = f"{CONFIG}.thinkingConfig"
    given = camel_names(child(config, "thinkingConfig", CONFIG) or {})
    refuse_others(given, THINKING, place)
    shows = truth(given, "includeThoughts", place) or False
    budget = whole(given, "thinkingBudget", DYNAMIC, where=place)
    level = text(given, "thinkingLevel", place)
    level = None if level is None or level == "THINKING_LEVEL_UNSPECIFIED" else level.lower()
    if level is not None and level not in LEVELS:
        raise Unreadable(f"{place}.thinkingLevel", f"{place}.thinkingLevel must be one of {', '.join(LEVELS)}.")
    if budget == 0:
        return Reasoning(effort="none", show=shows)
    if level is None and budget is None and not shows:
        return None
    return Reasoning(
        effort=level,
        budget_tokens=None if budget == DYNAMIC else budget,
        show=shows,
    )


def _tools(document: Document) -> tuple[list[Tool], list[str]]:
    """Return the tools, and which fields of them have no place elsewhere."""
    tools: list[Tool] = []
    dropped: dict[str, None] = {}
    for given, place in objects(listed(document, "tools"), "tools"):
        group = camel_names(given)
        for name, value in group.items():
            if name != "functionDeclarations" and value is not None:
                raise Unsupported(f"{place}.{name}", "tools that Google runs itself are not known to other protocols")
        where = f"{place}.functionDeclarations"
        for one, spot in objects(listed(group, "functionDeclarations", place), where):
            declaration = camel_names(one)
            refuse_others(declaration, DECLARATION | DECLARATION_HINTS, spot)
            dropped |= {f"tools.{name}": None for name in sorted(DECLARATION_HINTS) if declaration.get(name)}
            tools.append(_tool(declaration, spot))
    return tools, list(dropped)


def _tool(declaration: Document, place: str) -> Tool:
    parameters = child(declaration, "parametersJsonSchema", place)
    if parameters is None and child(declaration, "parameters", place) is not None:
        parameters = json_schema(declaration["parameters"])
    return Tool(
        name=required_text(declaration, "name", place),
        description=text(declaration, "description", place),
        parameters=parameters,
    )


def _tool_choice(document: Document, tools: list[Tool]) -> tuple[ToolChoice | None, list[Tool], list[str]]:
    """Return the choice, the tools that may be called, and what was dropped.

    Where several functions are allowed, the others are left out of the tools: no other protocol has such a list.
    """
    config = camel_names(child(document, "toolConfig") or {})
    dropped = [f"toolConfig.{name}" for name in config if name != "functionCallingConfig" and config[name]]
    given = child(config, "functionCallingConfig", "toolConfig")
    if given is None:
        return None, tools, dropped
    calling = camel_names(given)
    mode = (text(calling, "mode", CALLING) or "AUTO").upper()
    allowed = strings(calling, "allowedFunctionNames", CALLING)
    unknown = set(allowed).difference(tool.name for tool in tools)
    if unknown:
        place = f"{CALLING}.allowedFunctionNames"
        raise Unreadable(place, f"{place} must name functions that are declared in tools.")
    if mode == "NONE":
        return ToolChoice(mode="none"), tools, dropped
    if mode == "ANY" and len(allowed) == 1:
        return ToolChoice(mode="required", name=allowed[0]), tools, dropped
    if allowed:
        tools = [tool for tool in tools if tool.name in allowed]
    if mode == "ANY":
        return ToolChoice(mode="required"), tools, dropped
    if mode == "VALIDATED":
        return ToolChoice(), tools, [*dropped, f"{CALLING}.mode"]
    if mode in ("AUTO", "MODE_UNSPECIFIED"):
        return ToolChoice(), tools, dropped
    raise Unreadable(f"{CALLING}.mode", f"{CALLING}.mode must be AUTO, ANY, NONE or VALIDATED.")
