"""Reading the settings of generateContent: canonical values, dropped fields and rejected fields."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    Reasoning,
    ResponseFormat,
    Text,
    ToolChoice,
    Turn,
)
from llm_gateway.protocols import gemini
from llm_gateway.protocols.contract import Unreadable, Unsupported
from tests.protocols.gemini.requests import GOOGLE_SCHEMA, SCHEMA, asking, configured


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"thinkingConfig": {}}, None),
        ({"thinkingConfig": {"includeThoughts": False}}, None),
        ({"thinkingConfig": {"includeThoughts": True}}, Reasoning(show=True)),
        ({"thinkingConfig": {"thinkingBudget": 0}}, Reasoning(effort="none", show=False)),
        ({"thinkingConfig": {"thinkingBudget": -1}}, Reasoning(show=False)),
        ({"thinkingConfig": {"thinkingBudget": 5}}, Reasoning(budget_tokens=5, show=False)),
        ({"thinkingConfig": {"thinkingLevel": "LOW"}}, Reasoning(effort="low", show=False)),
        ({"thinkingConfig": {"thinking_level": "minimal"}}, Reasoning(effort="minimal", show=False)),
        ({"thinkingConfig": {"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}}, None),
    ],
)
def test_the_thinking_config_becomes_canonical_reasoning(config: dict[str, Any], expected: Reasoning | None) -> None:
    assert configured(**config).reasoning == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"responseMimeType": "text/plain"}, None),
        ({"responseMimeType": "application/json"}, ResponseFormat()),
        ({"responseMimeType": "application/json", "responseSchema": GOOGLE_SCHEMA}, ResponseFormat(schema=SCHEMA)),
        ({"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}, ResponseFormat(schema=SCHEMA)),
        ({"response_mime_type": "application/json", "_responseJsonSchema": SCHEMA}, ResponseFormat(schema=SCHEMA)),
        ({"responseJsonSchema": SCHEMA}, ResponseFormat(schema=SCHEMA)),
    ],
)
def test_the_response_mime_type_and_schema_become_the_format(
    config: dict[str, Any], expected: ResponseFormat | None
) -> None:
    assert configured(**config).format == expected


@pytest.mark.parametrize(
    ("config", "choice", "tools"),
    [
        (None, None, "abc"),
        ({}, ToolChoice(), "abc"),
        ({"mode": "AUTO"}, ToolChoice(), "abc"),
        ({"mode": "auto"}, ToolChoice(), "abc"),
        ({"mode": "MODE_UNSPECIFIED"}, ToolChoice(), "abc"),
        ({"mode": "NONE"}, ToolChoice(mode="none"), "abc"),
        ({"mode": "ANY"}, ToolChoice(mode="required"), "abc"),
        ({"mode": "ANY", "allowedFunctionNames": ["b"]}, ToolChoice(mode="required", name="b"), "abc"),
        ({"mode": "ANY", "allowed_function_names": ["c", "a"]}, ToolChoice(mode="required"), "ac"),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["a"]}, ToolChoice(), "a"),
    ],
)
def test_the_calling_config_becomes_the_tool_choice_and_the_tools(
    config: Any, choice: ToolChoice | None, tools: str
) -> None:
    declared = [{"functionDeclarations": [{"name": name} for name in "ab"]}, {"functionDeclarations": [{"name": "c"}]}]
    found = gemini.read_request(asking(tools=declared, toolConfig={"functionCallingConfig": config})).conversation

    assert (found.tool_choice, "".join(tool.name for tool in found.tools)) == (choice, tools)


@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        ({"safetySettings": [{"category": "a", "threshold": "b"}]}, ("safetySettings",)),
        ({"labels": {"a": "b"}, "store": True}, ("labels", "store")),
        ({"safety_settings": []}, ()),
        ({"generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}}, ("generationConfig.mediaResolution",)),
        ({"toolConfig": {"retrievalConfig": {"languageCode": "en"}}}, ("toolConfig.retrievalConfig",)),
        ({"tools": [{"functionDeclarations": [{"name": "t", "behavior": "BLOCKING"}]}]}, ("tools.behavior",)),
        (
            {"tools": [{"functionDeclarations": [{"name": n, "response": GOOGLE_SCHEMA} for n in "tu"]}]},
            ("tools.response",),
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}}},
            ("toolConfig.functionCallingConfig.mode",),
        ),
        (
            {"contents": [{"parts": [{"text": one, "partMetadata": {"a": 1}} for one in "ab"]}]},
            ("contents.parts.partMetadata",),
        ),
        ({"generationConfig": {"responseModalities": ["TEXT"]}}, ()),
        ({"somethingNew": 1}, ("somethingNew",)),
        ({"generationConfig": {"new": 1}}, ("generationConfig.new",)),
        ({"generationConfig": {"thinkingConfig": {"new": 1}}}, ("generationConfig.thinkingConfig.new",)),
        ({"tools": [{"functionDeclarations": [{"name": "t", "new": 1}]}]}, ("tools.new",)),
    ],
)  # fmt: skip
def test_fields_that_no_other_protocol_has_are_dropped_by_name(
    fields: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    assert gemini.read_request(asking(**fields)).dropped == dropped


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"generationConfig": {"speechConfig": {"a": 1}}}, "generationConfig.speechConfig"),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "much"}}},
         "generationConfig.thinkingConfig.thinkingLevel"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "SOME"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "contents[0].role"),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"tools": [{"functionDeclarations": []}, {"code_execution": {}}]}, "tools[1].codeExecution"),
        ({"contents": [{"parts": [{"executableCode": {"code": "1"}}]}]}, "contents[0].parts[0].executableCode"),
        (
            {"contents": [{"parts": [{"fileData": {"fileUri": "gs://a/b"}}]}]},
            "contents[0].parts[0].fileData.fileUri",
        ),
        (
            {"contents": [{"parts": [{"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a"}}]}]},
            "contents[0].parts[0].fileData.fileUri",
        ),
    ],
)  # fmt: skip
def test_features_that_only_google_has_are_rejected(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        gemini.read_request(asking(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"contents": []}, "contents"),
        ({"contents": "x"}, "contents"),
        ({"contents": ["x"]}, "contents[0]"),
        ({"contents": [{"role": 5, "parts": [{"text": "x"}]}]}, "contents[0].role"),
        ({"contents": [{"role": "user"}]}, "contents[0].parts"),
        ({"contents": [{"role": "model", "parts": [{"text": ""}]}]}, "contents"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"text": "x", "inlineData": {}}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"text": 5}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": [{"text": "x", "thought": "yes"}]}]}, "contents[0].parts[0].thought"),
        ({"contents": [{"parts": [{"inlineData": {"data": "YQ=="}}]}]}, "contents[0].parts[0].inlineData.mimeType"),
        ({"contents": [{"parts": [{"functionCall": {"args": {}}}]}]}, "contents[0].parts[0].functionCall.name"),
        (
            {"contents": [{"parts": [{"functionCall": {"name": "t", "args": "x"}}]}]},
            "contents[0].parts[0].functionCall.args",
        ),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "t", "response": {}}}]}]},
            "contents[0].parts[0].functionResponse",
        ),
        ({"systemInstruction": {"parts": [{"inlineData": {"mimeType": "a/b", "data": ""}}]}}, "systemInstruction"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"temperature": 3}}, "generationConfig.temperature"),
        ({"generationConfig": {"topP": True}}, "generationConfig.topP"),
        ({"generationConfig": {"stopSequences": [5]}}, "generationConfig.stopSequences"),
        (
            {"generationConfig": {"responseMimeType": "text/plain", "responseSchema": GOOGLE_SCHEMA}},
            "generationConfig.responseMimeType",
        ),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": -2}}},
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["t"]}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
    ],
)
def test_an_invalid_field_is_rejected_with_its_path(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unreadable) as caught:
        gemini.read_request(asking(**fields))
    assert caught.value.field == field
    assert field in caught.value.message


def test_a_system_instruction_can_be_a_string() -> None:
    turns = gemini.read_request(asking(system_instruction="Be brief")).conversation.turns

    assert turns[0] == Turn(role="system", parts=[Text(text="Be brief")])


@pytest.mark.parametrize(
    ("tier", "expected"), [("standard", "default"), ("FLEX", "flex"), ("priority", "priority"), ("unspecified", None)]
)
def test_service_tiers_become_canonical_ones(tier: str, expected: str | None) -> None:
    assert gemini.read_request(asking(serviceTier=tier)).conversation.service_tier == expected
