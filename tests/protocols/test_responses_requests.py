"""Tests of requests for the Responses API: what the vendor takes, and what a conversation becomes in it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

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
from llm_gateway.protocols.contract import Unsupported, UpstreamBody
from llm_gateway.protocols.openai_responses import write_request
from tests.examples import examples
from tests.protocols.conversation_strategies import conversations
from tests.protocols.request_strategies import Question, expected, questions
from tests.upstream.responses_api import problem_in

MODELS = pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-chat-latest", "gpt-5.4", "gpt-5-pro", "o3"])
ASKS = Turn(role="user", parts=[Text(text="Hi")])
SEALED = Thinking(text="Hm", redacted="gAAAAAmock1")
CALL = ToolCall(id="c1", name="t", arguments="{}")


def written(turns: list[Turn] | None = None, model: str = "gpt-5.4", **fields: Any) -> UpstreamBody:
    return write_request(Conversation(turns=turns or [ASKS], **fields), model, stream=False)


def answer(*parts: Part) -> list[Turn]:
    """Return turns in which the model answered with these parts."""
    return [ASKS, Turn(role="assistant", parts=list(parts)), ASKS]


def result(*parts: Text | Image | File, call_id: str = "c1") -> Turn:
    return Turn(role="tool", parts=[ToolResult(call_id=call_id, content=list(parts))])


def accepted(body: UpstreamBody) -> bool:
    """Return whether the vendor takes the request; fail with its words if it does not."""
    problem = problem_in(msgspec.json.decode(msgspec.json.encode(body.document)))
    assert problem is None, problem
    return True


@MODELS
@examples(0.5)
@given(conversation=conversations())
def test_the_vendor_takes_every_conversation(model: str, conversation: Conversation) -> None:
    conversation.stop = []
    for stream in (False, True):
        assert accepted(write_request(conversation, model, stream=stream))


@MODELS
@examples(0.5)
@given(question=questions())
def test_the_vendor_takes_every_request_that_can_be_expressed(model: str, question: Question) -> None:
    conversation = expected(question)
    if conversation.n > 1 or conversation.stop or conversation.logit_bias:
        with pytest.raises(Unsupported):
            write_request(conversation, model, stream=True)
    else:
        assert accepted(write_request(conversation, model, stream=True))


def test_nothing_is_stored_and_reasoning_is_requested_for_the_next_turn() -> None:
    assert written().document == {
        "model": "gpt-5.4", "store": False, "input": [{"type": "message", "role": "user", "content": "Hi"}],
        "include": ["reasoning.encrypted_content"],
    }  # fmt: skip
    assert "include" not in written(model="gpt-4o").document
    assert "include" not in written(model="gpt-5-chat-latest").document


def test_leading_system_texts_become_instructions_and_later_ones_stay_in_their_place() -> None:
    system = Turn(role="system", parts=[Text(text="one"), Text(text="two")])
    developer = Turn(role="developer", parts=[Text(text="three")])

    document = written([system, developer, ASKS, developer, ASKS]).document

    assert document["instructions"] == "one\n\ntwo\n\nthree"
    assert [item["role"] for item in document["input"]] == ["user", "developer", "user"]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_conversation_of_system_texts_only_is_sent_as_input(role: Any) -> None:
    body = written([Turn(role=role, parts=[Text(text="Say hi")])])

    assert "instructions" not in body.document
    assert body.document["input"] == [{"type": "message", "role": role, "content": "Say hi"}]
    assert accepted(body)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [("n", 2, "one answer"), ("stop", ["x"], "no stop"), ("logit_bias", {"1": 1.0}, "no logit_bias")],
)
def test_what_would_change_the_answer_is_refused(field: str, value: Any, why: str) -> None:
    with pytest.raises(Unsupported, match=why) as refused:
        written(**{field: value})
    assert refused.value.field == field


def test_hints_that_the_api_lacks_are_dropped_by_name() -> None:
    body = written(
        seed=1, presence_penalty=1.0, frequency_penalty=1.0, top_k=1, metadata={"a": "b"}, temperature=0.5, top_p=0.5
    )
    assert body.dropped == (
        "seed", "presence_penalty", "frequency_penalty", "top_k", "metadata", "temperature", "top_p",
    )  # fmt: skip
    assert accepted(body)
    assert written(model="gpt-4o", temperature=0.5, top_p=0.5).dropped == ()


@pytest.mark.parametrize(("limit", "sent"), [(1, 16), (15, 16), (16, 16), (17, 17)])
def test_an_output_limit_below_the_vendors_least_is_raised_and_named(limit: int, sent: int) -> None:
    body = written(max_tokens=limit)

    assert body.document["max_output_tokens"] == sent
    assert body.dropped == (("max_tokens",) if limit < 16 else ())


@pytest.mark.parametrize(
    ("reasoning", "sent", "dropped"),
    [
        (Reasoning(effort="low"), {"effort": "low"}, ()),
        (Reasoning(effort="max"), {"effort": "xhigh"}, ("reasoning",)),
        (Reasoning(budget_tokens=20_000), {"effort": "high"}, ()),
        (Reasoning(show=True), {"summary": "auto"}, ()),
        (Reasoning(effort="high", summary="detailed", show=True), {"effort": "high", "summary": "detailed"}, ()),
        (Reasoning(effort="none", show=True), {"effort": "none"}, ()),
        (Reasoning(), None, ()),
    ],
    ids=str,
)
def test_reasoning_is_requested_as_the_model_takes_it(reasoning: Reasoning, sent: Any, dropped: Any) -> None:
    body = written(reasoning=reasoning)

    assert (body.document.get("reasoning"), body.dropped) == (sent, dropped)
    assert accepted(body)
    assert written(model="gpt-4o", reasoning=reasoning).dropped == ("reasoning",)


def test_a_pro_model_gets_the_effort_that_it_has() -> None:
    body = written(model="gpt-5-pro", reasoning=Reasoning(effort="low"))
    assert body.document["reasoning"] == {"effort": "high"}
    assert accepted(body)


def test_tools_are_not_strict_unless_requested_and_objects_have_properties() -> None:
    tools = [
        Tool(name="a"),
        Tool(name="b", parameters={"type": "object"}),
        Tool(name="c", strict=True, description="d"),
    ]
    body = written(tools=tools, tool_choice=ToolChoice(mode="required", name="b", parallel=False))

    empty = {"type": "object", "properties": {}}
    assert body.document["tools"] == [
        {"type": "function", "name": "a", "parameters": empty, "strict": False},
        {"type": "function", "name": "b", "parameters": empty, "strict": False},
        {"type": "function", "name": "c", "parameters": empty, "strict": True, "description": "d"},
    ]
    assert body.document["tool_choice"] == {"type": "function", "name": "b"}
    assert body.document["parallel_tool_calls"] is False
    assert accepted(body)
    assert "tool_choice" not in written(tool_choice=ToolChoice(mode="none")).document


def test_pictures_and_files_are_sent_as_input_parts() -> None:
    parts: list[Part] = [
        Text(text="x"),
        Image(url="https://example.com/a.png", detail="low"), Image(media_type="image/png", data="eA=="),
        File(name="a.pdf", media_type="application/pdf", data="eA=="), File(data="eA=="), File(url="https://a.test/b.pdf"),
    ]  # fmt: skip
    body = written([Turn(role="user", parts=parts)])

    [item] = body.document["input"]
    assert item["content"] == [
        {"type": "input_text", "text": "x"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,eA==", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,eA=="},
        {"type": "input_file", "filename": "file", "file_data": "data:application/pdf;base64,eA=="},
        {"type": "input_file", "file_url": "https://a.test/b.pdf"},
    ]
    assert accepted(body)


@pytest.mark.parametrize(
    ("part", "field"),
    [(Image(file_id="f"), "image"), (File(file_id="f"), "file"), (Audio(data="eA==", format="wav"), "audio")],
    ids=str,
)
def test_parts_that_the_api_lacks_are_refused(part: Part, field: str) -> None:
    with pytest.raises(Unsupported) as refused:
        written([Turn(role="user", parts=[part])])
    assert refused.value.field == field


def test_a_picture_in_the_result_of_a_tool_reaches_the_model() -> None:
    picture = Image(media_type="image/png", data="eA==")
    body = written([*answer(CALL)[:2], result(Text(text="see"), picture), ASKS])

    assert body.document["input"][2] == {
        "type": "function_call_output",
        "call_id": "c1",
        "output": [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "data:image/png;base64,eA==", "detail": "auto"},
        ],
    }
    assert accepted(body)
    assert written([*answer(CALL)[:2], result()]).document["input"][2]["output"] == ""


def test_the_models_own_answer_is_sent_in_its_order() -> None:
    turns = [*answer(SEALED, Text(text="So"), Refusal(text="No"), CALL)[:2], result(Text(text="r"))]
    body = written(turns)

    assert body.document["input"][1:-1] == [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "gAAAAAmock1"},
        {"type": "message", "role": "assistant", "content": "So"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        {"type": "function_call", "call_id": "c1", "name": "t", "arguments": "{}"},
    ]
    assert accepted(body)
    assert body.dropped == ()


@pytest.mark.parametrize(
    "thought",
    [Thinking(text="Hm"), Thinking(text="Hm", signature="by Anthropic"), Thinking(redacted="by Anthropic")],
    ids=str,
)
def test_reasoning_of_other_vendors_is_left_out_and_named(thought: Thinking) -> None:
    body = written(answer(thought, Text(text="So")))

    assert [item["type"] for item in body.document["input"]] == ["message"] * 3
    assert body.dropped == ("thinking",)


def test_reasoning_without_an_answer_is_left_out() -> None:
    """The vendor refuses a reasoning item "without its required following item"."""
    body = written(answer(SEALED, Text(text="")))

    assert body.document["input"] == [{"type": "message", "role": "user", "content": "Hi"}] * 2
    assert accepted(body)


def test_long_ids_are_hashed_alike_in_calls_and_results() -> None:
    long = "call_" + "x" * 60
    turns = [*answer(ToolCall(id=long, name="t", arguments=""))[:2], result(Text(text="r"), call_id=long)]
    body = written(turns, user="u" * 65)

    [_, call, output] = body.document["input"]
    assert call["call_id"] == output["call_id"] != long
    assert len(body.document["safety_identifier"]) == 32
    assert accepted(body)
    assert written(user="u" * 64).document["safety_identifier"] == "u" * 64


@pytest.mark.parametrize("has_json_mode", [True, False])
def test_json_mode_names_json_in_the_input(has_json_mode: bool) -> None:
    system = Turn(role="system", parts=[Text(text="Answer in JSON.")])
    conversation = Conversation(turns=[system, ASKS], format=ResponseFormat())
    body = write_request(conversation, "gpt-5.4", stream=False, has_json_mode=has_json_mode)

    assert body.document["input"][0]["content"] == "Answer with a single JSON object."
    assert body.document.get("text") == ({"format": {"type": "json_object"}} if has_json_mode else None)
    assert accepted(body)
    said = [Turn(role="user", parts=[Text(text="Give me json")])]
    assert len(written(said, format=ResponseFormat()).document["input"]) == 1


def test_a_schema_and_verbosity_go_into_text() -> None:
    schema = {"type": "object", "properties": {}}
    body = written(format=ResponseFormat(schema=schema, strict=True, description="d"), verbosity="low")

    wanted = {"type": "json_schema", "name": "answer", "schema": schema, "description": "d", "strict": True}
    assert body.document["text"] == {"format": wanted, "verbosity": "low"}
    assert accepted(body)


def test_logprobs_are_requested_with_the_texts() -> None:
    body = written(model="gpt-4o", logprobs=True, top_logprobs=2)
    assert (body.document["include"], body.document["top_logprobs"]) == (["message.output_text.logprobs"], 2)
    assert accepted(body)
