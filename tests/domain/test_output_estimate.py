"""Estimates of output tokens that no provider counted: by weight of the text, and hidden reasoning at its bound."""

from __future__ import annotations

import msgspec
import pytest

from llm_gateway.domain.conversation import Choice, Part, Refusal, Text, TextDelta, Thinking, ToolCall
from llm_gateway.domain.output_estimate import estimated_output, hides_reasoning, with_estimates
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.reply_assembler import ReplyAssembler, chunks_of
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import ReplyContext
from llm_gateway.protocols.openai_responses import StreamWriter
from llm_gateway.sse import Splitter
from llm_gateway.worker.pipeline.translation import reply_of
from tests.protocols.vendor_replies import DIALECTS, encoded
from tests.worker.pipeline.fakes import reply, request


@pytest.mark.parametrize(
    ("parts", "tokens"),
    [
        ([], 1),
        ([Text(text="a" * 40)], 11),
        ([Text(text="日" * 40)], 41),
        ([Text(text="ü" * 12)], 9),
        ([Thinking(text="日" * 40), Refusal(text="no"), ToolCall(id="", name="f", arguments='{"a":"日"}')], 45),
    ],
    ids=str,
)
def test_output_is_weighed_like_input_not_counted_by_characters(parts: list[Part], tokens: int) -> None:
    assert estimated_output([Choice(parts=parts)]) == Usage(output_tokens=tokens)


@pytest.mark.parametrize("texts", [(" ", "\x80"), ("a", "日", "b"), ("日本", "語")])
def test_the_estimate_does_not_depend_on_where_a_text_is_cut(texts: tuple[str, ...]) -> None:
    pieces: list[Part] = [Text(text=text) for text in texts]

    assert estimated_output([Choice(parts=pieces)]) == estimated_output([Choice(parts=[Text(text="".join(texts))])])


def test_a_responses_stream_without_usage_tells_the_weighed_estimate() -> None:
    writer = StreamWriter(ReplyContext(request_id="1", model="m", created_s=7, document={}))
    body = b"".join([writer.write(TextDelta(text="日本")) for _ in range(100)]) + writer.end()
    [*_, last] = Splitter(10**6).take(body)

    told = msgspec.json.decode(last.data)["response"]["usage"]["output_tokens"]

    assert told == estimated_output([Choice(parts=[Text(text="日本" * 100)])]).output_tokens > 100


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_weighs_the_output_of_a_reply_without_counts(name: str) -> None:
    dialect = DIALECTS[name]
    whole = {field: value for field, value in dialect.whole.items() if field != dialect.usage}
    text = encoded(whole).decode().replace("Hello", "日" * 400).replace("Hi!", "日" * 400)
    completion = dialect.read(text.encode())
    assembler = ReplyAssembler()
    for chunk in chunks_of(completion)[:-1]:  # all but the usage
        assembler.take(chunk)
    assert completion.usage.output_tokens > 400
    assert assembler.completion().usage == completion.usage


@pytest.mark.parametrize(
    ("model", "is_hidden"),
    [
        ("gpt-5", True),
        ("openai/gpt-5.4-mini", True),
        ("GPT-6.1-sol", True),
        ("o3", True),
        ("o4-mini-2025-04-16", True),
        ("gemini-2.5-pro", True),
        ("gemini-3.5-flash", True),
        ("grok-4.3", True),
        ("claude-opus-5-5", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4.1", False),
        ("gpt-oss-120b", False),
        ("gpt-35-turbo", False),
        ("gemini-2.0-flash", False),
        ("gemini-embedding-001", False),
        ("grok-4.20-0309-non-reasoning", False),
        ("claude-sonnet-4-5", False),
        ("claude-3-5-haiku", False),
        ("deepseek-reasoner", False),
        ("omni", False),
    ],
)
def test_uncounted_output_of_a_model_that_hides_its_reasoning_is_the_most_it_may_be(
    model: str, is_hidden: bool
) -> None:
    given = reply(usage=Usage(output_tokens=3), usage_estimated=True)
    expected = Usage(input_tokens=18, output_tokens=100 if is_hidden else 3)
    assert with_estimates(given, request(max_tokens=100), model).usage == expected


@pytest.mark.parametrize(
    ("part", "is_hidden"),
    [
        (Thinking(redacted="x"), True),
        (Thinking(text="a summary", signature="s"), True),
        (Thinking(text="all of it"), False),
        (Text(text="x", signature="s"), False),
    ],
    ids=str,
)
def test_encrypted_or_signed_reasoning_is_hidden(part: Part, is_hidden: bool) -> None:
    assert hides_reasoning([Choice(parts=[part])]) is is_hidden


def test_a_reply_with_hidden_reasoning_and_no_counts_is_recorded_at_its_bound() -> None:
    blocks = [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Hi"}]
    document = {"content": blocks, "stop_reason": "end_turn"}
    given = reply_of(DIALECTS["messages"].read(encoded(document)))
    assert with_estimates(given, request(max_tokens=500), "claude-sonnet-4-5").usage.output_tokens == 500


@pytest.mark.parametrize(
    "given",
    [
        reply(usage=Usage(input_tokens=20, output_tokens=3)),
        reply(usage=Usage(input_tokens=20, output_tokens=3), usage_estimated=True),
        reply(usage=Usage(output_tokens=300), usage_estimated=True),
    ],
    ids=["counted", "totals counted", "longer than allowed"],
)
def test_what_the_provider_counted_is_not_estimated_and_no_estimate_becomes_smaller(given: Reply) -> None:
    assert with_estimates(given, request(max_tokens=100), "o3").usage.output_tokens == given.usage.output_tokens
