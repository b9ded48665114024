"""Tests of requests that other protocols can carry though their words differ: each reaches every provider."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    Conversation,
    File,
    Image,
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
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import ReplyContext

Document = dict[str, Any]
USER: Document = {"role": "user", "content": "Hi"}
ASKS = [Turn(role="user", parts=[Text(text="Hi")])]
PICTURE = Image(media_type="image/png", data="iVBORw==")
FUNCTION: Document = {"name": "t", "parameters": {"type": "object"}}
WEATHER, TIME = Tool(name="weather"), Tool(name="time")


def read_chat(**fields: Any) -> Conversation:
    return openai_chat.read_request({"model": "m", "messages": [USER], **fields}).conversation


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "enabled"}}, Reasoning()),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="none")),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, Reasoning(effort="high")),
        ({"reasoning": {"effort": "low"}}, Reasoning(effort="low")),
        ({"reasoning": {"max_tokens": 2000, "exclude": True}}, Reasoning(budget_tokens=2000, show=False)),
        ({"reasoning": {"enabled": False}}, Reasoning(effort="none")),
        ({"reasoning": {"enabled": True}}, Reasoning()),
        ({"reasoning": {}}, None),
    ],
    ids=str,
)
def test_the_words_of_deepseek_and_openrouter_for_reasoning_are_read(
    fields: Document, expected: Reasoning | None
) -> None:
    assert read_chat(**fields).reasoning == expected


def test_legacy_functions_are_tools_and_their_calls_and_results_are_history() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "t", "arguments": "{}"}}
    result = {"role": "function", "name": "t", "content": "4"}

    asked = read_chat(messages=[USER, called, result], functions=[FUNCTION], function_call={"name": "t"})

    assert asked.tools == [Tool(name="t", parameters={"type": "object"})]
    assert asked.tool_choice == ToolChoice(mode="required", name="t")
    [_, answer, tool] = asked.turns
    assert answer.parts == [ToolCall(id="call_1", name="t", arguments="{}")]
    assert tool.parts == [ToolResult(call_id="call_1", content=[Text(text="4")], name="t")]


def test_the_answer_to_legacy_functions_has_a_function_call() -> None:
    context = ReplyContext(request_id="r", model="m", created_s=1, document={"functions": [FUNCTION]})
    call = ToolCall(id="c", name="t", arguments='{"a":1}')
    completion = Completion(choices=[Choice(parts=[call], finish_reason="tool_calls")])

    [choice] = msgspec.json.decode(openai_chat.write_reply(completion, context))["choices"]
    writer = openai_chat.StreamWriter(context)
    streamed = b"".join(writer.write(chunk) for chunk in chunks_of(completion))

    assert choice["message"]["function_call"] == {"name": "t", "arguments": '{"a":1}'}
    assert choice["finish_reason"] == "function_call"
    assert "tool_calls" not in choice["message"]
    assert b"tool_calls" not in streamed
    assert streamed.count(b'"function_call":{') == 2
    assert b'"finish_reason":"function_call"' in streamed


def test_only_allowed_tools_are_offered() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("weather", "time")]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "time"}}]}

    asked = read_chat(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})

    assert asked.tools == [TIME]
    assert asked.tool_choice == ToolChoice(mode="required")


def test_a_file_by_url_reaches_anthropic_and_gemini() -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "https://example.com/a.pdf"}}

    asked = read_chat(messages=[{"role": "user", "content": [part]}])

    assert asked.turns[0].parts == [File(name="a.pdf", url="https://example.com/a.pdf")]
    sent = anthropic_messages.write_request(asked, "claude-opus-4-6", stream=False).document
    assert sent["messages"][0]["content"][0]["source"] == {"type": "url", "url": "https://example.com/a.pdf"}


def test_logprobs_are_asked_of_gemini_and_come_back_in_openais_shape() -> None:
    sent = gemini.write_request(read_chat(logprobs=True, top_logprobs=2), "gemini-2.5-flash", stream=False).document
    assert sent["generationConfig"] == {"responseLogprobs": True, "logprobs": 2}
    token = {"token": "é", "logProbability": -0.5}
    candidate = {
        "content": {"parts": [{"text": "é"}]},
        "finishReason": "STOP",
        "logprobsResult": {"chosenCandidates": [token], "topCandidates": [{"candidates": [token]}]},
    }

    found = gemini.read_reply(msgspec.json.encode({"candidates": [candidate]}))

    one = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    assert found.choices[0].logprobs == {"content": [{**one, "top_logprobs": [one]}]}
    assert found.choices[0].parts == [Text(text="é")]


def test_a_text_file_reaches_claude_as_text() -> None:
    file = File(name="a.csv", media_type="text/csv", data=base64.b64encode("a;ü".encode()).decode())
    conversation = Conversation(turns=[Turn(role="user", parts=[file])])

    sent = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False).document

    source = {"type": "text", "media_type": "text/plain", "data": "a;ü"}
    assert sent["messages"][0]["content"] == [{"type": "document", "source": source, "title": "a.csv"}]


@pytest.mark.parametrize("arguments", ["{not json", "[1]", ""])
def test_arguments_that_are_no_json_object_are_wrapped_for_claude_and_gemini(arguments: str) -> None:
    called = [*ASKS, Turn(role="assistant", parts=[ToolCall(id="1", name="t", arguments=arguments)])]
    wrapped = {"{not json": {"invalid_json": "{not json"}, "[1]": {"value": [1]}, "": {}}[arguments]

    claude = anthropic_messages.write_request(Conversation(turns=called), "claude-haiku-4-5", stream=False).document
    google = gemini.write_request(Conversation(turns=called), "gemini-2.5-pro", stream=False).document

    assert claude["messages"][1]["content"][0]["input"] == wrapped
    assert google["contents"][1]["parts"][0]["functionCall"]["args"] == wrapped


def test_thoughts_with_tool_calls_go_back_to_deepseek_and_kimi_only() -> None:
    thought = Thinking(text="Hm", signature="sig")
    turn = Turn(role="assistant", parts=[thought, ToolCall(id="1", name="t", arguments="{}")])
    conversation = Conversation(turns=[*ASKS, turn])

    for model in ("deepseek-v4-pro", "moonshotai/Kimi-K2.5"):
        written = openai_chat.write_request(conversation, model, stream=False)
        assert written.document["messages"][1]["reasoning_content"] == "Hm"
        assert written.dropped == ()
    for model in ("gpt-4o", "deepseek-r1-distill-llama-70b"):
        written = openai_chat.write_request(conversation, model, stream=False)
        assert "reasoning_content" not in written.document["messages"][1]
        assert written.dropped == ("thinking",)


def test_signatures_of_tool_calls_go_back_to_gemini_only() -> None:
    turn = Turn(role="assistant", parts=[ToolCall(id="1", name="t", arguments="{}", signature="sig")])
    conversation = Conversation(turns=[*ASKS, turn])

    def sent(model: str) -> Any:
        [call] = openai_chat.write_request(conversation, model, stream=False).document["messages"][1]["tool_calls"]
        return call.get("extra_content")

    for model in ("gemini-3-flash", "google/Gemini-3-pro"):
        assert sent(model) == {"google": {"thought_signature": "sig"}}
    for model in ("gpt-4.1", "claude-sonnet-4-5", "deepseek-v4-pro", "anything"):
        assert sent(model) is None


def results(*parts: Any) -> Conversation:
    calls: list[Any] = [ToolCall(id=f"c{number}", name="t", arguments="{}") for number, _ in enumerate(parts)]
    answers: list[Any] = [ToolResult(call_id=f"c{number}", content=part) for number, part in enumerate(parts)]
    return Conversation(turns=[*ASKS, Turn(role="assistant", parts=calls), Turn(role="tool", parts=answers)])


def test_a_picture_as_result_of_a_tool_follows_the_tool_messages_in_a_user_message() -> None:
    sent = openai_chat.write_request(results([PICTURE], [Text(text="ok")]), "gpt-4o", stream=False).document

    first, second, picture = sent["messages"][2:]
    assert (first["role"], second["role"]) == ("tool", "tool")
    assert first["content"]
    assert second["content"] == "ok"
    assert picture["role"] == "user"
    assert picture["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


@pytest.mark.parametrize(("model", "is_inside"), [("gemini-3-pro", True), ("gemini-2.5-pro", False)])
def test_a_picture_as_result_of_a_tool_is_inside_the_result_from_gemini_3_on(model: str, is_inside: bool) -> None:
    sent = gemini.write_request(results([PICTURE], [Text(text="ok")]), model, stream=False).document

    parts = sent["contents"][2]["parts"]
    blob = {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    assert ["functionResponse" in part for part in parts] == ([True, True] if is_inside else [True, True, False])
    assert parts[0]["functionResponse"].get("parts") == ([blob] if is_inside else None)
    assert is_inside or parts[2] == blob


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_messages_alone_are_answered_by_claude_and_gemini(role: str) -> None:
    asked = read_chat(messages=[{"role": role, "content": "Say hi"}])

    claude = anthropic_messages.write_request(asked, "claude-haiku-4-5", stream=False).document
    google = gemini.write_request(asked, "gemini-2.5-pro", stream=False).document

    assert claude["messages"] == [{"role": "user", "content": "Say hi"}]
    assert "system" not in claude
    assert google["contents"] == [{"role": "user", "parts": [{"text": "Say hi"}]}]


def test_a_system_message_amid_a_claude_code_session_stays_in_its_place() -> None:
    document = {
        "model": "m",
        "max_tokens": 5,
        "system": "Be brief",
        "messages": [USER, {"role": "assistant", "content": "Yes"}, {"role": "system", "content": "Now"}, USER],
        "context_management": {"edits": []},
    }

    found = anthropic_messages.read_request(document)

    assert found.dropped == ("context_management",)
    chat = openai_chat.write_request(found.conversation, "gpt-4o", stream=False).document
    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "system", "user"]
    google = gemini.write_request(found.conversation, "gemini-2.5-pro", stream=False).document
    assert google["systemInstruction"] == {"parts": [{"text": "Be brief"}]}
    assert google["contents"][2] == {"role": "user", "parts": [{"text": "Now"}, {"text": "Hi"}]}


@pytest.mark.parametrize("choice", [None, ToolChoice(), ToolChoice(mode="required"), ToolChoice(mode="none")])
def test_tools_and_json_are_one_more_tool_before_gemini_3(choice: ToolChoice | None) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = Conversation(turns=ASKS, tools=[WEATHER], tool_choice=choice, format=ResponseFormat(schema=schema))

    older = gemini.write_request(asked, "gemini-2.5-flash", stream=False).document
    newer = gemini.write_request(asked, "gemini-3-flash", stream=False).document

    assert newer["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}
    mode = None if choice is None else choice.mode
    if mode == "none":
        assert older["generationConfig"] == newer["generationConfig"]
        assert "tools" not in older
        return
    assert older["generationConfig"] == {}
    names = [each["name"] for each in older["tools"][0]["functionDeclarations"]]
    assert names == (["weather"] if mode == "required" else ["weather", "json_answer"])
    assert older["toolConfig"]["functionCallingConfig"]["mode"] == "ANY"


def test_the_input_of_geminis_json_tool_is_the_answer() -> None:
    call = {"functionCall": {"name": "json_answer", "args": {"a": "b"}}}
    candidate = {"content": {"parts": [call]}, "finishReason": "STOP"}

    [choice] = gemini.read_reply(msgspec.json.encode({"candidates": [candidate]})).choices

    assert choice == Choice(parts=[Text(text='{"a":"b"}')], finish_reason="stop")


@pytest.mark.parametrize(
    ("model", "effort", "sent", "dropped"),
    [
        ("gpt-5-chat-latest", "high", None, ("reasoning",)),
        ("gpt-5.2-chat-latest", "high", "medium", ("reasoning",)),
        ("openai/gpt-oss-120b", "high", "high", ()),
        ("gpt-oss-20b", "xhigh", "high", ("reasoning",)),
        ("grok-4.5", "none", "low", ("reasoning",)),
        ("grok-4.3", "none", "none", ()),
        ("grok-4", "high", None, ("reasoning",)),
        ("deepseek-v4-pro", "max", "max", ()),
        ("gpt-5.6-sol", "max", "max", ()),
        ("gpt-5.2", "max", "xhigh", ("reasoning",)),
        ("llama-4", "high", None, ("reasoning",)),
    ],
)
def test_an_effort_reaches_each_model_in_the_nearest_word_that_it_knows(
    model: str, effort: str, sent: str | None, dropped: tuple[str, ...]
) -> None:
    asked = Conversation(turns=ASKS, reasoning=Reasoning(effort=effort))

    written = openai_chat.write_request(asked, model, stream=False)

    assert (written.document.get("reasoning_effort"), written.dropped) == (sent, dropped)


@pytest.mark.parametrize(
    ("model", "effort", "level"),
    [
        ("gemini-3-flash-preview", "minimal", "minimal"),
        ("gemini-3-flash-preview", "none", "minimal"),
        ("gemini-3.6-flash", "medium", "medium"),
        ("gemini-3.8-flash", "minimal", "low"),
        ("gemini-3-pro-preview", "medium", "high"),
        ("gemini-3-pro-preview", "minimal", "low"),
        ("gemini-3.8-flash", "max", "high"),
    ],
)
def test_gemini_3_gets_the_nearest_level_that_the_model_has(model: str, effort: str, level: str) -> None:
    asked = Conversation(turns=ASKS, reasoning=Reasoning(effort=effort))

    written = gemini.write_request(asked, model, stream=False)

    assert written.document["generationConfig"]["thinkingConfig"]["thinkingLevel"] == level
    assert written.dropped == (() if level == effort else ("reasoning",))


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("claude-opus-5-5", 32_000), ("claude-haiku-4-5-20251001", 32_000), ("claude-opus-4-20250514", 32_000),
        ("claude-3-5-sonnet-20241022", 8192), ("anthropic/claude-3.5-sonnet", 8192),
        ("claude-3-haiku-20240307", 4096), ("kimi-k2.5", 8192),
    ],
)  # fmt: skip
def test_claude_is_asked_for_its_own_maximum_up_to_32000_tokens(model: str, limit: int) -> None:
    assert (
        anthropic_messages.write_request(Conversation(turns=ASKS), model, stream=False).document["max_tokens"] == limit
    )


@pytest.mark.parametrize(
    ("write", "model", "carried"),
    [(openai_responses.write_request, "gpt-5.6", True), (openai_chat.write_request, "gpt-4o", False),
     (anthropic_messages.write_request, "claude-opus-4-6", False), (gemini.write_request, "gemini-3-pro", False)],
)  # fmt: skip
def test_the_key_of_a_prompt_cache_reaches_the_responses_api_and_is_named_elsewhere(
    write: Any, model: str, carried: bool
) -> None:
    body = write(read_chat(prompt_cache_key="k"), model, stream=False)

    assert ("cache_key" in body.dropped) is not carried
    assert body.document.get("prompt_cache_key") == ("k" if carried else None)
    long = openai_responses.write_request(read_chat(prompt_cache_key="k" * 65), "gpt-5.6", stream=False)
    assert len(long.document["prompt_cache_key"]) == 32


def test_unknown_fields_of_messages_and_tools_are_named() -> None:
    function = {"name": "f", "parameters": {"type": "object"}, "new": 1}
    message = {"role": "user", "content": "Hi", "next": 1, "empty": None, "annotations": [1]}
    chat = openai_chat.read_request(
        {"messages": [message, message], "tools": [{"type": "function", "function": function, "more": {"a": 1}}]}
    )
    messages = anthropic_messages.read_request({"max_tokens": 9, "messages": [{**message, "annotations": None}]})

    assert chat.dropped == ("messages.next", "tools.function.new", "tools.more")
    assert messages.dropped == ("messages.next",)
