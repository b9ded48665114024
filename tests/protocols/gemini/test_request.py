"""Reading generateContent requests: every field, both spellings, parts, and the matching of tool results."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    Audio,
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat
from llm_gateway.protocols.contract import ParsedRequest
from llm_gateway.protocols.gemini.thoughts import signature_of
from tests.protocols.gemini.requests import ASKS, GOOGLE_SCHEMA, SCHEMA, part_of, said, snake

EVERYTHING: dict[str, Any] = {
    "model": "models/gemini-2.5-pro",
    "systemInstruction": {"parts": [{"text": "Be brief"}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "What is this?"},
                {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}},
                {"inlineData": {"mimeType": "application/pdf", "data": "aGVsbG8=", "displayName": "a.pdf"}},
                {"inlineData": {"mimeType": "audio/mpeg", "data": "aGVsbG8="}},
                {"fileData": {"mimeType": "image/png", "fileUri": "https://example.org/a.png"}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.org/a.pdf"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "Hm", "thought": True},
                {"text": "Let me see", "thoughtSignature": "c2ln"},
                {
                    "functionCall": {"id": "c1", "name": "weather", "args": {"city": "Paris"}},
                    "thoughtSignature": "c2lnMg==",
                },
                {"functionCall": {"name": "weather", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "weather", "response": {"output": "sunny"}}},
                {"functionResponse": {"name": "weather", "response": {"error": "down"}}},
                {"text": "And?"},
            ],
        },
    ],
    "tools": [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "d", "parameters": GOOGLE_SCHEMA},
                {"name": "time", "parametersJsonSchema": SCHEMA},
                {"name": "now"},
            ]
        }
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
    "generationConfig": {
        "maxOutputTokens": 50,
        "temperature": 1.5,
        "topP": 0.5,
        "topK": 40.0,
        "stopSequences": ["END"],
        "candidateCount": 2,
        "seed": 7,
        "presencePenalty": 0.5,
        "frequencyPenalty": -0.5,
        "responseMimeType": "application/json",
        "responseSchema": GOOGLE_SCHEMA,
        "responseLogprobs": True,
        "logprobs": 3,
        "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True},
    },
    "serviceTier": "flex",
}  # fmt: skip


def test_every_field_becomes_its_canonical_field() -> None:
    assert gemini.read_request(EVERYTHING) == ParsedRequest(
        Conversation(
            turns=[
                Turn(role="system", parts=[Text(text="Be brief")]),
                Turn(
                    role="user",
                    parts=[
                        Text(text="What is this?"),
                        Image(media_type="image/png", data="aGVsbG8="),
                        File(name="a.pdf", media_type="application/pdf", data="aGVsbG8="),
                        Audio(data="aGVsbG8=", format="mp3"),
                        Image(media_type="image/png", url="https://example.org/a.png"),
                        File(media_type="application/pdf", url="https://example.org/a.pdf"),
                    ],
                ),
                Turn(
                    role="assistant",
                    parts=[
                        Thinking(text="Hm"),
                        Text(text="Let me see", signature="c2ln"),
                        ToolCall(id="c1", name="weather", arguments='{"city":"Paris"}', signature="c2lnMg=="),
                        ToolCall(id="call_1", name="weather", arguments="{}"),
                    ],
                ),
                Turn(
                    role="tool",
                    parts=[
                        ToolResult(call_id="c1", name="weather", content=[Text(text="sunny")]),
                        ToolResult(call_id="call_1", name="weather", content=[Text(text="down")], is_error=True),
                    ],
                ),
                Turn(role="user", parts=[Text(text="And?")]),
            ],
            tools=[
                Tool(name="weather", description="d", parameters=SCHEMA),
                Tool(name="time", parameters=SCHEMA),
                Tool(name="now"),
            ],
            tool_choice=ToolChoice(mode="required", name="weather"),
            format=ResponseFormat(schema=SCHEMA),
            max_tokens=50,
            temperature=1.5,
            top_p=0.5,
            top_k=40,
            stop=["END"],
            n=2,
            seed=7,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logprobs=True,
            top_logprobs=3,
            reasoning=Reasoning(budget_tokens=1024, show=True),
            service_tier="flex",
        )
    )


def test_snake_case_names_are_read_like_camel_case() -> None:
    """https://protobuf.dev/programming-guides/json/: parsers accept both."""
    document = snake(EVERYTHING)

    assert {"system_instruction", "generation_config", "tool_config", "service_tier"} < set(document)
    assert gemini.read_request(document) == gemini.read_request(EVERYTHING)


def test_keys_of_schemas_and_arguments_keep_their_spelling() -> None:
    schema = {"type": "OBJECT", "properties": {"first_name": {"type": "STRING"}}}
    call = {"functionCall": {"name": "t", "args": {"first_name": "Ann"}}}
    tools = [{"function_declarations": [{"name": "t", "parameters": schema}]}]
    contents = [*ASKS["contents"], {"role": "model", "parts": [call]}]
    found = gemini.read_request({"contents": contents, "tools": tools}).conversation

    assert found.tools[0].parameters == {"type": "object", "properties": {"first_name": {"type": "string"}}}
    assert found.turns[1].parts == [ToolCall(id="call_0", name="t", arguments='{"first_name":"Ann"}')]


def test_reading_does_not_change_the_document() -> None:
    document = copy.deepcopy(EVERYTHING)
    gemini.read_request(document)

    assert document == EVERYTHING


@pytest.mark.parametrize(
    ("tier", "sent"),
    [
        ("flex", "flex"),
        ("priority", "priority"),
        ("default", "standard"),
        ("auto", None),
        ("standard_only", "standard"),
    ],
)
def test_a_service_tier_reaches_gemini_by_its_name_there(tier: str, sent: str | None) -> None:
    asked = Conversation(turns=[Turn(role="user", parts=[Text(text="Hi")])], service_tier=tier)

    written = gemini.write_request(asked, "gemini-2.5-pro", stream=False)

    assert written.document.get("serviceTier") == sent
    assert written.dropped == (() if sent is not None else ("service_tier",))


def test_a_request_is_written_to_gemini_as_it_was_read() -> None:
    conversation = gemini.read_request(EVERYTHING).conversation
    assert gemini.write_request(
        Conversation(turns=conversation.turns, format=conversation.format), "gemini-2.5-pro", stream=False
    ).document["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
    conversation.format = None  # beside tools it is one more tool: test_carried_requests.py
    written = gemini.write_request(conversation, "gemini-2.5-pro", stream=False)

    document = written.document
    again = gemini.read_request(document).conversation
    assert set(written.dropped) == {"thinking"}
    assert again.service_tier == "flex"
    assert again.turns[2].parts[0] == Text(text="Let me see", signature="c2ln")
    assert [turn.role for turn in again.turns] == [turn.role for turn in conversation.turns]
    assert (again.tools, again.tool_choice) == (conversation.tools, conversation.tool_choice)
    assert (again.logprobs, again.top_logprobs) == (conversation.logprobs, conversation.top_logprobs)
    assert document["generationConfig"]["thinkingConfig"] == {"includeThoughts": True, "thinkingBudget": 1024}


def test_a_request_is_translated_for_openai_and_anthropic() -> None:
    document = {**EVERYTHING, "contents": copy.deepcopy(EVERYTHING["contents"])}
    document["contents"][0]["parts"] = document["contents"][0]["parts"][:2]
    conversation = gemini.read_request(document).conversation
    chat = openai_chat.write_request(conversation, "gpt-4o", stream=False).document
    conversation.n, conversation.logprobs, conversation.seed = 1, False, None
    conversation.presence_penalty = conversation.frequency_penalty = None
    messages = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False).document

    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in chat["messages"][2]["tool_calls"]] == ["c1", "call_1"]
    assert chat["response_format"]["json_schema"]["schema"] == SCHEMA
    assert [block["tool_use_id"] for block in messages["messages"][2]["content"][:2]] == ["c1", "call_1"]
    assert messages["tools"][0]["input_schema"] == SCHEMA


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"text": "x"}, Text(text="x")),
        ({"inline_data": {"mime_type": "image/jpeg", "data": "YQ=="}}, Image(media_type="image/jpeg", data="YQ==")),
        ({"inlineData": {"mimeType": "IMAGE/WEBP", "data": "YQ=="}}, Image(media_type="IMAGE/WEBP", data="YQ==")),
        ({"inlineData": {"mimeType": "image/png", "data": "_-8="}}, Image(media_type="image/png", data="/+8=")),
        ({"inlineData": {"mimeType": "audio/x-wav", "data": "YQ=="}}, Audio(data="YQ==", format="wav")),
        ({"inlineData": {"mimeType": "audio/flac;rate=1", "data": "YQ=="}}, Audio(data="YQ==", format="flac")),
        ({"inlineData": {"mimeType": "video/mp4", "data": "YQ=="}}, File(media_type="video/mp4", data="YQ==")),
        ({"fileData": {"fileUri": "https://a.org/b"}}, File(url="https://a.org/b")),
        ({"fileData": {"fileUri": "https://a.org/b", "displayName": "b"}}, File(url="https://a.org/b", name="b")),
    ],
)
def test_parts_become_canonical_parts(part: dict[str, Any], expected: Part) -> None:
    assert part_of(part) == expected


def test_url_safe_base64_becomes_standard_base64() -> None:
    """google-genai sends base64 in the URL-safe alphabet."""
    data = bytes(range(256))
    found = part_of({"inlineData": {"mimeType": "image/png", "data": base64.urlsafe_b64encode(data).decode()}})

    assert isinstance(found, Image)
    assert base64.b64decode(found.data or "", validate=True) == data


@pytest.mark.parametrize("role", [None, "user", "function", "tool"])
def test_results_are_read_from_every_role_that_clients_use(role: str | None) -> None:
    call = {"role": "model", "parts": [{"functionCall": {"name": "t", "args": {}}}]}
    result = {"role": role, "parts": [{"functionResponse": {"name": "t", "response": {"result": "x"}}}]}

    turns = said(*ASKS["contents"], call, {name: value for name, value in result.items() if value})
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("response", "text", "is_error"),
    [
        ({"output": "x"}, "x", False),
        ({"result": "x"}, "x", False),
        ({"error": "x"}, "x", True),
        ({"error": {"code": 1}}, '{"code":1}', True),
        ({"result": 5}, '{"result":5}', False),
        ({"error": "x", "output": "y"}, '{"error":"x","output":"y"}', False),
        ({"temperature": 20}, '{"temperature":20}', False),
        ({}, "{}", False),
        (None, "{}", False),
    ],
)
def test_results_become_text_with_an_error_flag(response: Any, text: str, is_error: bool) -> None:
    call = {"role": "model", "parts": [{"functionCall": {"name": "t"}}]}
    turns = said(*ASKS["contents"], call, {"parts": [{"functionResponse": {"name": "t", "response": response}}]})

    [result] = turns[-1].parts
    assert result == ToolResult(call_id="call_0", name="t", content=[Text(text=text)], is_error=is_error)


def test_a_result_can_contain_media() -> None:
    call = {"role": "model", "parts": [{"functionCall": {"name": "t"}}]}
    media = {"inlineData": {"mimeType": "image/png", "data": "YQ=="}}
    response = {"functionResponse": {"name": "t", "response": {"output": "x"}, "parts": [media]}}
    [result] = said(*ASKS["contents"], call, {"parts": [response]})[-1].parts

    assert isinstance(result, ToolResult)
    assert result.content == [Text(text="x"), Image(media_type="image/png", data="YQ==")]


def test_results_are_matched_to_calls_by_id_or_else_in_order() -> None:
    names = [("t", None), ("t", "given"), ("u", None), ("t", None)]
    calls = [{"functionCall": {"name": name, "id": given}} for name, given in names]
    answers = [("u", None), ("t", "given"), ("t", None), ("t", None)]
    results = [
        {"functionResponse": {"name": name, "response": {"output": "x"}, "id": given}} for name, given in answers
    ]
    turns = said(*ASKS["contents"], {"role": "model", "parts": calls}, {"role": "user", "parts": results})

    assert [part.id for part in turns[1].parts if isinstance(part, ToolCall)] == ["call_0", "given", "call_2", "call_3"]
    assert [part.call_id for part in turns[2].parts if isinstance(part, ToolResult)] == [
        "call_2",
        "given",
        "call_0",
        "call_3",
    ]


def test_a_generated_call_id_differs_from_all_others() -> None:
    calls = [{"functionCall": {"name": "t", "id": "call_1"}}, {"functionCall": {"name": "t"}}]
    turns = said(*ASKS["contents"], {"role": "model", "parts": calls})

    assert [part.id for part in turns[1].parts if isinstance(part, ToolCall)] == ["call_1", "call_2"]


def test_consecutive_model_contents_become_one_turn() -> None:
    """Chats of google-genai keep one content for each chunk of a streamed answer."""
    chunks = [
        {"text": "H", "thought": True},
        {"text": "m", "thought": True},
        {"text": "Hel"},
        {"text": "lo"},
        {"text": "", "thoughtSignature": "c2ln"},
        {"text": "!"},
        {"functionCall": {"name": "t"}},
        {"text": ""},
    ]
    turns = said(*ASKS["contents"], *[{"role": "model", "parts": [chunk]} for chunk in chunks])

    assert turns[1:] == [
        Turn(
            role="assistant",
            parts=[
                Thinking(text="Hm"),
                Text(text="Hello", signature="c2ln"),
                Text(text="!"),
                ToolCall(id="call_0", name="t", arguments="{}"),
            ],
        )
    ]


@pytest.mark.parametrize("part", [{"text": "", "thoughtSignature": "c2ln"}, {"thoughtSignature": "c2ln"}])
def test_a_signature_without_text_is_dropped(part: dict[str, Any]) -> None:
    call = {"functionCall": {"name": "t"}}
    turns = said(*ASKS["contents"], {"role": "model", "parts": [call, part]})

    assert turns[1].parts == [ToolCall(id="call_0", name="t", arguments="{}")]


def test_thoughts_signed_by_another_vendor_are_restored() -> None:
    thought = Thinking(text="Hm, well", signature="c2ln+/==")
    signature = signature_of(thought)
    chunks = [
        {"text": "Hm, ", "thought": True},
        {"text": "well", "thought": True},
        {"text": "", "thought": True, "thoughtSignature": signature},
        {"text": "So"},
    ]
    turns = said(*ASKS["contents"], {"role": "model", "parts": chunks})

    assert turns[1].parts == [thought, Text(text="So")]


def test_a_redacted_thought_does_not_replace_the_one_before() -> None:
    hidden = Thinking(redacted="sealed")
    parts = [{"text": "Hm", "thought": True}, {"text": "", "thought": True, "thoughtSignature": signature_of(hidden)}]
    turns = said(*ASKS["contents"], {"role": "model", "parts": parts})

    assert turns[1].parts == [Thinking(text="Hm"), hidden]
