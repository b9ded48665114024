"""Complete replies of generateContent: written in Google's format, and read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from google.genai import types as genai_types
from hypothesis import given

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    VendorPart,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import gemini
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.gemini.thoughts import signature_of, thought_of
from tests.protocols.gemini.replies import CONTEXT, completions, plain

HIDING = msgspec.structs.replace(CONTEXT, document={})


def written(*parts: Part, context: ReplyContext = CONTEXT, **fields: Any) -> dict[str, Any]:
    """Return the document of a reply with one choice of these parts."""
    completion = Completion(choices=[Choice(parts=list(parts), **fields)])
    document: dict[str, Any] = json.loads(gemini.write_reply(completion, context))
    return document


def test_a_reply_is_written_in_googles_format() -> None:
    completion = Completion(
        choices=[
            Choice(
                parts=[
                    Thinking(text="Hm"),
                    Text(text="Let me see", signature="c2ln"),
                    ToolCall(id="c1", name="weather", arguments='{"city": "Paris"}', signature="c2lnMg=="),
                ],
                finish_reason="tool_calls",
            ),
            Choice(parts=[Text(text="No")], finish_reason="length"),
        ],
        usage=Usage(input_tokens=10, output_tokens=9, cache_read_tokens=4, reasoning_tokens=2),
        model="claude-haiku-4-5",
    )
    assert json.loads(gemini.write_reply(completion, CONTEXT)) == {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "Hm", "thought": True},
                        {"text": "Let me see", "thoughtSignature": "c2ln"},
                        {
                            "functionCall": {"id": "c1", "name": "weather", "args": {"city": "Paris"}},
                            "thoughtSignature": "c2lnMg==",
                        },
                    ],
                },
                "index": 0,
                "finishReason": "STOP",
            },
            {"content": {"role": "model", "parts": [{"text": "No"}]}, "index": 1, "finishReason": "MAX_TOKENS"},
        ],
        "modelVersion": "claude-haiku-4-5",
        "responseId": "request-1",
        "usageMetadata": {
            "promptTokenCount": 10,
            "candidatesTokenCount": 7,
            "totalTokenCount": 19,
            "cachedContentTokenCount": 4,
            "thoughtsTokenCount": 2,
        },
    }


@given(completion=completions())
def test_a_reply_is_read_back_as_it_was_written(completion: Completion) -> None:
    body = gemini.write_reply(completion, CONTEXT)

    read = gemini.read_reply(body)
    assert plain(read) == plain(completion)
    assert (read.usage, read.usage_estimated) == (completion.usage, False)
    assert (read.id, read.model) == ("request-1", "model-1")


@given(completion=completions())
def test_googles_sdk_accepts_written_replies(completion: Completion) -> None:
    found = genai_types.GenerateContentResponse.model_validate_json(gemini.write_reply(completion, CONTEXT))

    [first, *_] = found.candidates or []
    texts = [part.text for part in completion.choices[0].parts if isinstance(part, Text)]
    calls = [part.id for part in completion.choices[0].parts if isinstance(part, ToolCall)]
    assert first.content is not None
    assert [part.text for part in first.content.parts or [] if part.text is not None and not part.thought] == texts
    assert [part.function_call.id for part in first.content.parts or [] if part.function_call] == calls
    assert found.usage_metadata is not None
    assert found.usage_metadata.total_token_count == completion.usage.input_tokens + completion.usage.output_tokens


@pytest.mark.parametrize(
    ("reason", "word"),
    [("stop", "STOP"), ("tool_calls", "STOP"), ("length", "MAX_TOKENS"), ("content_filter", "SAFETY")],
)
def test_finish_reasons_become_googles(reason: Any, word: str) -> None:
    [candidate] = written(Text(text="x"), finish_reason=reason)["candidates"]

    assert candidate["finishReason"] == word == genai_types.FinishReason(word).value


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Text(text=""), [{"text": ""}]),
        (Refusal(text="No"), [{"text": "No"}]),
        (VendorPart(kind="audio"), []),
        (ToolCall(id="c", name="t", arguments=""), [{"functionCall": {"id": "c", "name": "t", "args": {}}}]),
        (
            ToolCall(id="c", name="t", arguments='{"a": '),
            [{"functionCall": {"id": "c", "name": "t", "args": {"invalid_json": '{"a": '}}}],
        ),
        (
            ToolCall(id="c", name="t", arguments="[1]"),
            [{"functionCall": {"id": "c", "name": "t", "args": {"value": [1]}}}],
        ),
    ],
)
def test_parts_are_written_in_googles_format(part: Part, expected: list[Any]) -> None:
    [candidate] = written(part)["candidates"]

    assert candidate["content"] == {"role": "model", "parts": expected}


def test_thoughts_are_included_only_if_requested() -> None:
    """https://ai.google.dev/gemini-api/docs/thinking#summaries."""
    thought = Thinking(text="Hm", signature="c2ln")
    [hidden] = written(thought, Text(text="So"), context=HIDING)["candidates"]
    [shown] = written(thought, Text(text="So"))["candidates"]

    assert hidden["content"]["parts"] == [{"text": "So"}]
    assert [part.get("thought") for part in shown["content"]["parts"]] == [True, None]


@pytest.mark.parametrize(
    ("document", "shows"),
    [
        ({}, False),
        ({"generation_config": {"thinking_config": {"include_thoughts": True}}}, True),
        ({"generationConfig": {"thinkingConfig": {"includeThoughts": False}}}, False),
        ({"generationConfig": {"thinkingConfig": "x"}}, False),
        ({"generationConfig": None}, False),
    ],
)
def test_include_thoughts_is_found_in_both_spellings(document: dict[str, Any], shows: bool) -> None:
    context = msgspec.structs.replace(CONTEXT, document=document)

    assert bool(written(Thinking(text="Hm"), context=context)["candidates"][0]["content"]["parts"]) is shows


@pytest.mark.parametrize(
    "thought",
    [
        Thinking(text="Hm", signature="c2ln+/=="),
        Thinking(text="Größe", signature="c2ln"),
        Thinking(redacted="sealed"),
        Thinking(redacted="gAAAAABsealed-by_OpenAI=="),
    ],
)
def test_another_vendors_signature_survives_googles_sdk(thought: Thinking) -> None:
    """The SDK decodes the base64 of a signature and encodes it again in another alphabet."""
    given = {"text": thought.text, "thought": True, "thoughtSignature": signature_of(thought)}
    sent = json.loads(genai_types.Part.model_validate(given).model_dump_json(by_alias=True, exclude_none=True))

    assert thought_of(sent["text"], sent["thoughtSignature"]) == thought


@pytest.mark.parametrize("signature", [None, "", "c2ln", "not base64!", "ünicode", "gw1.", "Z3cxLmJyb2tlbg=="])
def test_googles_own_signatures_are_dropped(signature: str | None) -> None:
    assert thought_of("Hm", signature) == Thinking(text="Hm")


def test_logprobs_are_written_in_googles_format() -> None:
    token = {"token": "H", "logprob": -0.5, "bytes": [72]}
    logprobs = {"content": [{**token, "top_logprobs": [token, {"token": "h", "logprob": -1.5}]}, "odd"]}
    [candidate] = written(Text(text="H"), logprobs=logprobs)["candidates"]

    said = {"token": "H", "logProbability": -0.5}
    assert candidate["logprobsResult"] == {
        "chosenCandidates": [said],
        "topCandidates": [{"candidates": [said, {"token": "h", "logProbability": -1.5}]}],
    }


@pytest.mark.parametrize("odd", [5, True, "x", {"a": 1}, ["odd"], None])
def test_invalid_alternatives_of_a_token_are_left_out(odd: Any) -> None:
    logprobs = {"content": [{"token": "H", "logprob": -0.5, "top_logprobs": odd}]}

    [candidate] = written(Text(text="H"), logprobs=logprobs)["candidates"]

    assert candidate["logprobsResult"]["topCandidates"] == [{"candidates": []}]


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}, {"refusal": [1]}])
def test_missing_logprobs_are_omitted(logprobs: Any) -> None:
    assert "logprobsResult" not in written(Text(text="H"), logprobs=logprobs)["candidates"][0]


def test_the_requested_model_is_named_if_the_provider_reports_none() -> None:
    assert written(Text(text="x"))["modelVersion"] == "model-1"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(), {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}),
        (
            Usage(input_tokens=5, output_tokens=3, reasoning_tokens=9),
            {"promptTokenCount": 5, "candidatesTokenCount": 0, "totalTokenCount": 8, "thoughtsTokenCount": 3},
        ),
        (
            Usage(input_tokens=5, output_tokens=3, audio_input_tokens=2, audio_output_tokens=1),
            {
                "promptTokenCount": 5,
                "candidatesTokenCount": 3,
                "totalTokenCount": 8,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 3},
                    {"modality": "AUDIO", "tokenCount": 2},
                ],
                "candidatesTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 2},
                    {"modality": "AUDIO", "tokenCount": 1},
                ],
            },
        ),
    ],
)
def test_usage_is_written_in_googles_format(usage: Usage, expected: dict[str, Any]) -> None:
    completion = Completion(choices=[Choice(parts=[Text(text="x")])], usage=usage)

    assert json.loads(gemini.write_reply(completion, CONTEXT))["usageMetadata"] == expected


def test_a_signed_text_of_a_provider_is_read_with_its_signature() -> None:
    parts = [
        {"text": "So", "thoughtSignature": "c2ln"},
        {"text": "!"},
        {"functionCall": {"name": "t"}},
        {"text": "", "thoughtSignature": "b3RoZXI="},
        {"thoughtSignature": "b3RoZXI="},
    ]
    body = json.dumps({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}], "responseId": "r"})
    [choice] = gemini.read_reply(body.encode()).choices

    assert choice.parts == [
        Text(text="So", signature="c2ln"),
        Text(text="!"),
        ToolCall(id="call_r_0_0", name="t", arguments="{}"),
    ]


VENDOR_PARTS: list[dict[str, Any]] = [
    {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}, "thoughtSignature": "c2ln"},
    {"fileData": {"fileUri": "https://files.test/1"}},
    {"executableCode": {"language": "PYTHON", "code": "1"}},
    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
    {"somethingNew": {}},
]


@pytest.mark.parametrize("part", VENDOR_PARTS, ids=lambda part: next(iter(part)))
def test_a_part_that_only_google_has_is_a_vendor_part(part: dict[str, Any]) -> None:
    """A reply with a vendor part passes through and is not cached, since it could not be translated later."""
    document = {"candidates": [{"content": {"parts": [{"text": "See"}, part]}, "finishReason": "STOP"}]}
    [choice] = gemini.read_reply(msgspec.json.encode(document)).choices
    assert choice.parts[0] == Text(text="See")
    assert isinstance(choice.parts[1], VendorPart)
    assert len(choice.parts) == 2


@pytest.mark.parametrize("name", ["groundingMetadata", "citationMetadata", "urlContextMetadata"])
def test_metadata_that_only_google_has_is_a_vendor_part(name: str) -> None:
    candidate = {"content": {"parts": [{"text": "See"}]}, "finishReason": "STOP", name: {}}
    [choice] = gemini.read_reply(msgspec.json.encode({"candidates": [candidate]})).choices
    assert [type(part) for part in choice.parts] == [Text, VendorPart]


def test_an_empty_text_is_not_a_vendor_part() -> None:
    parts = [{"text": ""}, {"text": "", "thoughtSignature": "c2ln"}, {"text": "", "thought": True}]
    document = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    [choice] = gemini.read_reply(msgspec.json.encode(document)).choices
    assert not any(isinstance(part, VendorPart) for part in choice.parts)
