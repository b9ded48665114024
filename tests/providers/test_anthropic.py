"""Dialect of Anthropic: requests for each generation of models, replies, usage and error responses."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.reply import Reply
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import FLAGGED, TOO_LONG, Subject, UpstreamRefusal
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import Malformed, Unsupported
from llm_gateway.protocols.reported_values import MAX_COUNT
from llm_gateway.providers import anthropic
from llm_gateway.providers.account_assembler import target_with_key
from tests.providers.documents import ANTHROPIC, ANTHROPIC_TOOL, decode, encode
from tests.worker.pipeline.fakes import request

CLASSIC, RECENT = "claude-sonnet-4-6", "claude-opus-5-5"
INSTRUCTION = "Answer only by calling the tool json_answer. Its input is your whole answer, one JSON object."


def written(model: str = CLASSIC, **changes: Any) -> Any:
    """Return the decoded body of a call."""
    return msgspec.json.decode(encode("anthropic", request(**changes), model).body)


def message(*content: object, **changes: Any) -> bytes:
    document = {"content": list(content), "stop_reason": "end_turn", **changes}
    return msgspec.json.encode({"usage": {"input_tokens": 19, "output_tokens": 10}, **document})


def text(said: str = "Hello") -> dict[str, str]:
    return {"type": "text", "text": said}


class TestTarget:
    def test_a_target_has_the_vendors_urls_and_headers(self) -> None:
        target = target_with_key(anthropic, "https://api.anthropic.com/", "sk-ant-key")

        assert (target.root, target.models_url) == ("https://api.anthropic.com", "https://api.anthropic.com/v1/models")
        assert target.headers == {
            "x-api-key": "sk-ant-key",
            "anthropic-version": "2023-06-01",
            "content-type": "application/json",
            "accept": "application/json",
        }


class TestEncode:
    def test_a_request_is_written_in_the_vendors_format(self) -> None:
        call = encode("anthropic", request(prompt="Hi", system="Be brief", max_tokens=7, temperature=0.0), CLASSIC)

        assert call.path == "/v1/messages"
        assert msgspec.json.decode(call.body) == {
            "model": CLASSIC,
            "max_tokens": 7,
            "messages": [{"role": "user", "content": "Hi"}],
            "system": "Be brief",
            "temperature": 0.0,
        }

    def test_a_request_without_a_system_prompt_has_no_system_field(self) -> None:
        assert "system" not in written(system="")

    @pytest.mark.parametrize(("asked", "sent"), [(0.0, 0.0), (0.7, 0.7), (1.0, 1.0), (1.01, 1.0), (2.0, 1.0)])
    def test_temperatures_above_one_are_sent_as_one(self, asked: float, sent: float) -> None:
        assert written(temperature=asked)["temperature"] == sent

    @pytest.mark.parametrize(
        "model",
        [
            *("claude-3-5-sonnet-latest", "claude-3-opus-20240229", "claude-2.1", "claude-instant-1.2", "claude-v2"),
            *("claude-sonnet-4-20250514", "claude-4-opus-20250514", "claude-opus-4-0", "claude-opus-4-1-20250805"),
            *("claude-opus-4@20250514", "claude-opus-4", "claude-haiku-4-5-20251001", "claude-opus-4.6", "claude-3.7"),
            *("anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic/claude-opus-4.5", "kimi-k3", "deepseek-chat"),
        ],
    )
    def test_older_models_get_a_temperature_and_a_forced_tool(self, model: str) -> None:
        body = written(model, json_mode=True)

        assert body["temperature"] == 0.7
        assert body["tool_choice"] == {"type": "tool", "name": "json_answer"}

    @pytest.mark.parametrize(
        "model",
        [
            *("claude-opus-4-7", "claude-opus-4.8", "claude-opus-4-7-20260416", "claude-opus-4-10", "claude-opus-5"),
            *("claude-sonnet-5", "claude-haiku-5-5", "claude-sonnet-5-5", "claude-fable-5-1", "claude-mythos-preview"),
            *("anthropic/claude-fable-5", "anthropic.claude-opus-5-5-v1:0", "claude-next"),
        ],
    )
    def test_newer_models_get_no_temperature_and_no_forced_tool(self, model: str) -> None:
        body = written(model, json_mode=True)

        assert "temperature" not in body
        assert body["tool_choice"] == {"type": "auto"}

    @pytest.mark.parametrize("model", [CLASSIC, RECENT])
    @pytest.mark.parametrize(("system", "sent"), [("", INSTRUCTION), ("Be brief", f"Be brief\n{INSTRUCTION}")])
    def test_json_mode_requests_the_answer_as_the_input_of_a_tool(self, model: str, system: str, sent: str) -> None:
        body = written(model, system=system, json_mode=True)

        assert body["system"] == sent
        [tool] = body["tools"]
        assert (tool["name"], tool["input_schema"]) == ("json_answer", {"type": "object"})
        assert body["messages"][-1]["role"] == "user", "newer models refuse an answer that is begun for them"

    def test_a_request_without_json_mode_has_no_tool(self) -> None:
        assert written().keys() & {"tools", "tool_choice"} == set()

    @given(st.text(st.characters(codec="utf-8")).filter(str.strip), st.text(st.characters(codec="utf-8")))
    def test_prompts_are_sent_unchanged(self, prompt: str, system: str) -> None:
        body = written(prompt=prompt, system=system)

        said = system if system.strip() else ""  # Anthropic rejects blank texts
        assert (body["messages"], body.get("system", "")) == ([{"role": "user", "content": prompt}], said)

    @pytest.mark.parametrize("prompt", [" ", "\n\t", "\u3000"])
    def test_a_blank_prompt_is_rejected_as_anthropic_would_reject_it(self, prompt: str) -> None:
        with pytest.raises(Unsupported, match="requires at least one non-empty message"):
            written(prompt=prompt)


PIECES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(-1e9, 1e9)
    | st.sampled_from(["text", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "type", "text", "input", "usage", "input_tokens", "id"]), inner)
    ),
    max_leaves=12,
)
BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "tool_use", "thinking"])},
        optional={"text": st.text("ab") | st.none(), "name": st.just("json_answer"), "input": PIECES},
    ),
    max_size=3,
)


class TestDecode:
    def test_the_example_in_the_documentation_is_read(self) -> None:
        assert decode("anthropic", msgspec.json.encode(ANTHROPIC)) == Reply(
            content="Hi! My name is Claude.",
            usage=Usage(
                input_tokens=2095 + 2051 + 2000,
                output_tokens=503,
                cache_read_tokens=2000,
                cache_write_tokens=2051,
                cache_write_1h_tokens=2000,
                reasoning_tokens=400,
            ),
            finish_reason="stop",
            upstream_model="claude-opus-5-5",
            upstream_request_id="msg_013Zva2CMHLNnjNjtJKqJ2EF",
            usage_estimated=False,
            service_tier="geo:us",
        )

    def test_the_input_of_the_json_tool_is_the_answer(self) -> None:
        reply = decode("anthropic", msgspec.json.encode(ANTHROPIC_TOOL))

        assert (reply.content, reply.finish_reason) == ('{"capital":"Paris","of":["France"]}', "stop")

    def test_the_json_of_the_answer_keeps_its_spelling(self) -> None:
        written = b'{"n": 1.0000000000000000001, "n": 12345678901234567890123, "t": "\\u00e9\xc3\xa9"}'
        body = message({"type": "tool_use", "name": "json_answer", "input": "?"}).replace(b'"?"', written)

        assert decode("anthropic", body).content.encode() == written

    def test_a_call_of_another_tool_is_not_the_answer(self) -> None:
        call = {"type": "tool_use", "id": "t", "name": "search", "input": {}}
        reply = decode("anthropic", message(text("I look it up."), call, stop_reason="tool_use"))

        assert (reply.content, reply.finish_reason) == ("I look it up.", "tool_calls")

    def test_the_texts_of_several_blocks_are_joined(self) -> None:
        assert decode("anthropic", message(text("one "), {"type": "new"}, text("two"))).content == "one two"

    def test_an_empty_text_block_is_a_valid_answer(self) -> None:
        assert decode("anthropic", message(text(""))).content == ""

    @pytest.mark.parametrize(
        ("said", "canonical"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("pause_turn", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("refusal", "content_filter"),
            ("tool_use", "tool_calls"),
            (None, "stop"),
            ("x" * 1000, "stop"),
        ],
    )
    def test_stop_reasons_become_canonical_finish_reasons(self, said: str | None, canonical: str) -> None:
        assert decode("anthropic", message(text(), stop_reason=said)).finish_reason == canonical

    @pytest.mark.parametrize(("said", "canonical"), [("refusal", "content_filter"), ("max_tokens", "length")])
    def test_a_reply_refused_or_cut_off_before_any_text_is_valid(self, said: str, canonical: str) -> None:
        for content in ([], [{"type": "thinking", "thinking": "Hm"}]):
            reply = decode("anthropic", message(*content, stop_reason=said))

            assert (reply.content, reply.finish_reason) == ("", canonical)

    def test_json_cut_off_by_the_token_limit_is_an_answer(self) -> None:
        cut = {"type": "tool_use", "name": "json_answer", "input": {}}
        reply = decode("anthropic", message(cut, stop_reason="max_tokens"))

        assert (reply.content, reply.finish_reason) == ("{}", "length")

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "Invalid message: "),
            (b"<html>502</html>", "Invalid message: "),
            (b"[]", "Invalid message: Expected `object`, got `array`"),
            (b"{}", "Invalid message: Object missing required field `content`"),
            (b'{"type": "error", "error": {"type": "overloaded_error", "message": "x"}}', "Invalid message: "),
            (b'{"content": null}', "The answer has no content"),
            (b'{"content": "text"}', "Invalid message: "),
            (b'{"content": [{"text": "no type"}]}', "Invalid message: "),
            (b'{"content": [{"type": "text", "text": "half', "Invalid message: "),
            (b'{"x": ' + b"[" * 100_000, "Invalid message: "),
            (message({"type": "text", "text": 5}), "Invalid message: "),
            (message(stop_reason=None), "The answer has no content"),
            (message({"type": "thinking", "thinking": "Hm"}, stop_reason=None), "The answer has no content"),
            (message({"type": "text", "text": None}, stop_reason=""), "The answer has no content"),
        ],
    )
    def test_a_malformed_reply_is_an_error_that_says_why(self, body: bytes, said: str) -> None:
        with pytest.raises(Malformed) as raised:
            decode("anthropic", body)

        assert str(raised.value).startswith(said)

    def test_a_call_of_the_json_tool_without_input_is_an_empty_object(self) -> None:
        assert decode("anthropic", message({"type": "tool_use", "name": "json_answer"})).content == "{}"

    @given(st.binary(max_size=200) | PIECES.map(msgspec.json.encode) | BLOCKS.map(lambda blocks: message(*blocks)))
    def test_any_bytes_are_a_reply_or_malformed(self, body: bytes) -> None:
        with suppress(Malformed):
            assert isinstance(decode("anthropic", body), Reply)

    @given(st.binary(max_size=20))
    def test_any_bytes_as_the_input_of_the_json_tool_are_a_reply_or_malformed(self, given: bytes) -> None:
        body = message({"type": "tool_use", "name": "json_answer", "input": "?"}).replace(b'"?"', given)
        with suppress(Malformed):
            assert isinstance(decode("anthropic", body).content, str)


def counted(**usage: Any) -> tuple[Usage, bool]:
    reply = decode("anthropic", message(text("x" * 41), usage=usage))
    return reply.usage, reply.usage_estimated


COUNTS = st.none() | st.integers(-5, 20) | st.integers(MAX_COUNT - 5, 2**64 - 1)


class TestUsage:
    @pytest.mark.parametrize(
        "usage",
        [
            {},
            {"input_tokens": 5},
            {"output_tokens": 5},
            {"input_tokens": -1, "output_tokens": 5},
            {"input_tokens": 5, "output_tokens": -1},
            {"input_tokens": 5, "output_tokens": 1_000_000_001},
            {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": -1},
            {"input_tokens": 5, "output_tokens": 5, "cache_creation_input_tokens": 10**9},
        ],
        ids=repr,
    )
    def test_missing_or_implausible_counts_are_estimated(self, usage: dict[str, int]) -> None:
        assert counted(**usage) == (Usage(output_tokens=11), True)

    def test_a_reply_without_usage_is_estimated(self) -> None:
        assert decode("anthropic", message(text("x" * 41), usage=None)).usage_estimated

    @pytest.mark.parametrize(
        ("written", "created", "total", "long"),
        [
            (100, None, 100, 0),
            (100, {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60}, 100, 60),
            (None, {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60}, 100, 60),
            (None, {"ephemeral_5m_input_tokens": 40}, 40, 0),
            (10, {"ephemeral_1h_input_tokens": 60}, 10, 10),
            (None, None, 0, 0),
        ],
    )
    def test_tokens_written_to_the_cache_are_counted_by_lifetime(
        self, written: int | None, created: Any, total: int, long: int
    ) -> None:
        usage, estimated = counted(
            input_tokens=1, output_tokens=1, cache_creation_input_tokens=written, cache_creation=created
        )

        assert (usage.input_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens) == (1 + total, total, long)
        assert not estimated

    @given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS))
    def test_counts_of_kinds_never_exceed_their_totals(self, counts: tuple[int | None, ...]) -> None:
        asked, answered, read, written, long, thought = counts
        usage, _ = counted(
            input_tokens=asked,
            output_tokens=answered,
            cache_read_input_tokens=read,
            cache_creation_input_tokens=written,
            cache_creation={"ephemeral_1h_input_tokens": long},
            output_tokens_details={"thinking_tokens": thought},
        )

        assert 0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens <= MAX_COUNT
        assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= MAX_COUNT


def refusal(kind: str, message: str) -> bytes:
    return msgspec.json.encode(
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
    )


class TestRefusals:
    def test_the_message_of_an_error_response_is_extracted(self) -> None:
        assert anthropic.decode_error(refusal("overloaded_error", "Overloaded")) == "Overloaded"

    @pytest.mark.parametrize(
        ("status", "kind", "said", "about"),
        [
            (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API. …", "account"),
            (400, "invalid_request_error", "max_tokens: must be greater than 0", "request"),
            (401, "authentication_error", "invalid x-api-key", "account"),
            (402, "billing_error", "There is an issue with billing", "account"),
            (400, "invalid_request_error", "You have reached your specified API usage limits. …", "account"),
            (404, "not_found_error", "model: claude-x", "model"),
            (404, "not_found_error", "Not Found", "operation"),
            (429, "rate_limit_error", "Number of requests has exceeded your rate limit", "temporary"),
            (529, "overloaded_error", "Overloaded", "temporary"),
        ],
    )
    def test_error_responses_are_classified(self, status: int, kind: str, said: str, about: Subject) -> None:
        refused = anthropic.classify_error(UpstreamResult(status, refusal(kind, said)))

        assert refused == UpstreamRefusal(about, is_final=about == "request")

    @pytest.mark.parametrize(
        ("said", "meant"),
        [
            ("prompt is too long: 208656 tokens > 200000 maximum", TOO_LONG),
            ("input length and `max_tokens` exceed context limit: 198981 + 21333 > 200000, decrease …", TOO_LONG),
            ("Output blocked by content filtering policy", FLAGGED),
        ],
    )
    def test_a_400_is_classified_by_its_message(self, said: str, meant: UpstreamRefusal) -> None:
        assert anthropic.classify_error(UpstreamResult(400, refusal("invalid_request_error", said))) == meant

    def test_the_wait_in_an_error_response_is_kept(self) -> None:
        assert (
            anthropic.classify_error(UpstreamResult(429, refusal("rate_limit_error", "slow"), 7.0)).retry_after_s == 7.0
        )
