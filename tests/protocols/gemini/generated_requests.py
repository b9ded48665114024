"""Generated test requests (`tests/protocols/request_strategies.py`) as generateContent documents.

Source: https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tests.protocols.request_strategies import Document, Question

LACKS = frozenset({"user", "service_tier", "logit_bias", "metadata", "verbosity"})
CONFIG = {
    "max_tokens": "maxOutputTokens",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
JPEG = "image/jpeg"
"""Media type assumed for an image URL, since Google requires one."""
LEVELS = ("minimal", "low", "medium", "high", "xhigh")


def can_ask(question: Question) -> bool:
    """Return whether Google's fields can express the settings of the question."""
    choice, reasoning = question.settings.get("tool_choice"), question.settings.get("reasoning")
    if choice is not None and choice.parallel is not None:
        return False
    if reasoning is not None and reasoning.effort not in ("none", *LEVELS):
        return False
    # Empty texts are omitted, so that tool calls around one would be merged into one turn.
    return all(_has_no_empty_text(turn) for turn in question.turns if turn.role == "assistant")


def _has_no_empty_text(turn: Turn) -> bool:
    return all(not isinstance(part, Text) or bool(part.text) for part in turn.parts)


def as_read(conversation: Conversation) -> Conversation:
    """Return the conversation that reading the document must give: without what Google's format lacks."""
    conversation = copy.deepcopy(conversation)
    names = _names(conversation.turns)
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, ToolResult):
                part.name = names[part.call_id]
            elif isinstance(part, Image) and part.url is not None:
                part.media_type = JPEG
    if conversation.format is not None:
        conversation.format = ResponseFormat(schema=conversation.format.schema)  # Google's format has no name
    if conversation.reasoning is not None:
        conversation.reasoning = Reasoning(effort=conversation.reasoning.effort, show=False)
    return conversation


def content_document(question: Question) -> Document:
    """Write the question as the body of a generateContent request."""
    names = _names(question.turns)
    contents = [
        {"role": "model" if turn.role == "assistant" else "user", "parts": [_part(part, names) for part in turn.parts]}
        for turn in question.turns
    ]
    document: Document = {"contents": contents}
    if question.system:
        document["systemInstruction"] = {"parts": [{"text": question.system}]}
    config: Document = {}
    for name, value in question.settings.items():
        if name == "tools":
            document["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in value]}]
        elif isinstance(value, ToolChoice):
            mode = {"auto": "AUTO", "none": "NONE", "required": "ANY"}[value.mode]
            named = {} if value.name is None else {"allowedFunctionNames": [value.name]}
            document["toolConfig"] = {"functionCallingConfig": {"mode": mode, **named}}
        elif isinstance(value, ResponseFormat):
            config["responseMimeType"] = "application/json"
            if value.schema is not None:
                config["responseJsonSchema"] = value.schema
        elif isinstance(value, Reasoning):
            off = value.effort == "none"
            config["thinkingConfig"] = {"thinkingBudget": 0} if off else {"thinkingLevel": str(value.effort).upper()}
        else:
            config[CONFIG.get(name, name)] = value
    return document | ({"generationConfig": config} if config else {})


def _names(turns: list[Turn]) -> dict[str, str]:
    """Return tool names by call id."""
    return {part.id: part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}


def _part(part: Part, names: dict[str, str]) -> Document:
    if isinstance(part, ToolCall):
        call = {"id": part.id, "name": part.name, "args": msgspec.json.decode(part.arguments)}
        return {"functionCall": call}
    if isinstance(part, ToolResult):
        [text] = part.content
        assert isinstance(text, Text)
        result = {"id": part.call_id, "name": names[part.call_id], "response": {"output": text.text}}
        return {"functionResponse": result}
    if isinstance(part, Image | File):
        if part.url is not None:
            return {"fileData": {"fileUri": part.url, "mimeType": JPEG}}
        blob = {"mimeType": part.media_type, "data": part.data}
        return {"inlineData": blob | ({"displayName": part.name} if isinstance(part, File) else {})}
    assert isinstance(part, Text)
    return {"text": part.text}


def _declaration(tool: Any) -> Document:
    declared = {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
    return {name: value for name, value in declared.items() if value is not None}
