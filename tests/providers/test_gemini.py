"""Dialect of Gemini: paths, requests, replies, usage and error responses."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.reply import Reply
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import TOO_LONG, Subject, UpstreamRefusal, refusal_by_status
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import Malformed
from llm_gateway.protocols.reported_values import MAX_COUNT
from llm_gateway.providers import gemini
from llm_gateway.providers.account_assembler import target_with_key
from tests.providers.documents import GEMINI, GEMINI_BLOCKED, decode, encode
from tests.worker.pipeline.fakes import request


def written(**changes: Any) -> Any:
    """Return the decoded body of a call."""
    return msgspec.json.decode(encode("gemini", request(**changes), "gemini-2.5-flash").body)


def generated(*parts: object, finish: object = "STOP", **changes: Any) -> bytes:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "finishReason": finish}
    usage = {"promptTokenCount": 19, "candidatesTokenCount": 10}
    return msgspec.json.encode({"candidates": [candidate], "usageMetadata": usage, **changes})


class TestTarget:
    def test_a_target_has_the_vendors_urls_and_headers(self) -> None:
        target = target_with_key(gemini, "https://generativelanguage.googleapis.com//", "AIza-key")

        assert target.root == "https://generativelanguage.googleapis.com"
        assert target.models_url == "https://generativelanguage.googleapis.com/v1beta/models"
        assert target.headers == {
            "x-goog-api-key": "AIza-key",
            "content-type": "application/json",
            "accept": "application/json",
        }


class TestEncode:
    def test_a_request_is_written_in_the_vendors_format(self) -> None:
        call = encode(
            "gemini",
            request(prompt="Hi", system="Be brief", max_tokens=7, temperature=0.0, json_mode=True),
            "gemini-2.5-flash",
        )

        assert call.path == "/v1beta/models/gemini-2.5-flash:generateContent"
        assert msgspec.json.decode(call.body) == {
            "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
            "systemInstruction": {"parts": [{"text": "Be brief"}]},
            "generationConfig": {"maxOutputTokens": 7, "temperature": 0.0, "responseMimeType": "application/json"},
        }

    def test_optional_fields_that_are_not_requested_are_not_sent(self) -> None:
        body = written(system="", json_mode=False)

        assert body.keys() == {"contents", "generationConfig"}
        assert body["generationConfig"].keys() == {"maxOutputTokens", "temperature"}

    @pytest.mark.parametrize("temperature", [0.0, 1.3, 2.0])
    def test_the_temperature_is_sent_unchanged(self, temperature: float) -> None:
        assert written(temperature=temperature)["generationConfig"]["temperature"] == temperature

    @pytest.mark.parametrize(
        ("model", "path"),
        [
            ("gemini-2.5-flash", "models/gemini-2.5-flash"),
            ("models/gemini-2.5-flash", "models/gemini-2.5-flash"),
            ("tunedModels/mine-1", "tunedModels/mine-1"),
            ("a b/é?#:%2e", "models/a%20b%2F%C3%A9%3F%23%3A%252e"),
            ("../../v1/files", "models/..%2F..%2Fv1%2Ffiles"),
            ("models/..", "models/.."),
            ("models/../x", "models/..%2Fx"),
            ("publishers/google/models/g", "models/publishers%2Fgoogle%2Fmodels%2Fg"),
        ],
    )
    def test_a_models_path_is_percent_encoded(self, model: str, path: str) -> None:
        assert gemini.path_of(model) == f"/v1beta/{path}"

    @given(st.text(st.characters(codec="utf-8"), min_size=1))
    def test_a_model_name_is_one_path_segment(self, model: str) -> None:
        segment = gemini.path_of(f"models/{model}").removeprefix("/v1beta/models/")

        assert segment.isascii()
        assert not set(segment) & set("/?#:\\ ")
        assert unquote(segment, errors="strict") == model

    @given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
    def test_prompts_are_sent_unchanged(self, prompt: str, system: str) -> None:
        body = written(prompt=prompt, system=system)

        assert body["contents"][0]["parts"] == [{"text": prompt}]
        assert body["systemInstruction"]["parts"] == [{"text": system}]


NAMES = ["candidates", "content", "parts", "text", "thought", "finishReason", "promptFeedback", "blockReason"]
PIECES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(-1e9, 1e9)
    | st.sampled_from(["STOP", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "usageMetadata", "promptTokenCount", "modelVersion"]), inner)
    ),
    max_leaves=12,
)


class TestDecode:
    def test_the_example_in_the_documentation_is_read(self) -> None:
        assert decode("gemini", msgspec.json.encode(GEMINI)) == Reply(
            content="Hello! How can I help?",
            usage=Usage(
                input_tokens=730,
                output_tokens=70,
                cache_read_tokens=512,
                reasoning_tokens=61,
                audio_input_tokens=40,
            ),
            finish_reason="stop",
            upstream_model="gemini-2.5-flash",
            upstream_request_id="wv4GacGYKdXy7M8P0pTd4AI",
            usage_estimated=False,
        )

    def test_a_blocked_prompt_is_a_valid_empty_reply(self) -> None:
        reply = decode("gemini", msgspec.json.encode(GEMINI_BLOCKED))

        assert (reply.content, reply.finish_reason) == ("", "content_filter")
        assert (reply.usage, reply.usage_estimated) == (Usage(input_tokens=12), False)

    @pytest.mark.parametrize(
        ("said", "canonical"),
        [
            ("STOP", "stop"),
            ("OTHER", "stop"),
            (None, "stop"),
            ("MAX_TOKENS", "length"),
            ("CONTINUATION", "length"),
            *((reason, "content_filter") for reason in ("SAFETY", "RECITATION", "BLOCKLIST", "SPII", "ESCALATION")),
            ("x" * 1000, "content_filter"),
        ],
    )
    def test_finish_reasons_become_canonical_ones(self, said: str | None, canonical: str) -> None:
        assert decode("gemini", generated({"text": "Hello"}, finish=said)).finish_reason == canonical

    @pytest.mark.parametrize(("said", "canonical"), [("SAFETY", "content_filter"), ("MAX_TOKENS", "length")])
    @pytest.mark.parametrize(
        "content", [{}, {"role": "model"}, {"parts": []}, {"parts": [{"text": "Hm", "thought": True}]}, None]
    )
    def test_a_reply_blocked_or_cut_off_before_any_text_is_valid(self, said: str, canonical: str, content: Any) -> None:
        reply = decode("gemini", generated(candidates=[{"content": content, "finishReason": said}]))

        assert (reply.content, reply.finish_reason) == ("", canonical)

    def test_the_text_of_the_first_candidate_is_the_answer(self) -> None:
        candidates = [{"content": {"parts": [{"text": text}]}} for text in ("one", "two")]

        assert decode("gemini", generated(candidates=candidates)).content == "one"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "Invalid generated content: "),
            (b"<html>502</html>", "Invalid generated content: "),
            (b"[{}]", "Invalid generated content: Expected `object`, got `array`"),
            (b'{"candidates": [{"content": {"parts": [{"text": "half', "Invalid generated content: "),
            (b'{"x": ' + b"[" * 100_000, "Invalid generated content: "),
            (generated({"text": 5}), "Invalid generated content: "),
            (b"{}", "The answer has no candidates"),
            (b'{"error": {"code": 500, "message": "Internal"}}', "The answer has no candidates"),
            (b'{"candidates": []}', "The answer has no candidates"),
            (b'{"candidates": null, "promptFeedback": {}}', "The answer has no candidates"),
            (generated(finish=None), "The answer has no content"),
            (generated({"text": "Hm", "thought": True}, finish=""), "The answer has no content"),
            (
                generated({"text": "Hm"}, finish="MALFORMED_RESPONSE"),
                "The provider aborted the answer (finish reason: MALFORMED_RESPONSE)",
            ),
            (
                generated(finish="UNEXPECTED_TOOL_CALL"),
                "The provider aborted the answer (finish reason: UNEXPECTED_TOOL_CALL)",
            ),
        ],
    )
    def test_a_malformed_reply_is_an_error_that_says_why(self, body: bytes, message: str) -> None:
        with pytest.raises(Malformed) as raised:
            decode("gemini", body)

        assert str(raised.value).startswith(message)

    @given(st.binary(max_size=200) | PIECES.map(msgspec.json.encode) | PIECES.map(generated))
    def test_any_bytes_are_a_reply_or_malformed(self, body: bytes) -> None:
        with suppress(Malformed):
            assert isinstance(decode("gemini", body), Reply)


def counted(content: str = "x" * 41, **usage: Any) -> tuple[Usage, bool]:
    parts = [{"text": content}] if content else []
    reply = decode("gemini", generated(*parts, finish="MAX_TOKENS", usageMetadata=usage))
    return reply.usage, reply.usage_estimated


COUNTS = st.none() | st.integers(-5, 20) | st.integers(MAX_COUNT - 5, 2**64 - 1)


class TestUsage:
    @pytest.mark.parametrize(
        "usage",
        [
            {},
            {"promptTokenCount": 5},
            {"candidatesTokenCount": 5},
            {"promptTokenCount": -1, "candidatesTokenCount": 5},
            {"promptTokenCount": 5, "candidatesTokenCount": -1},
            {"promptTokenCount": 5, "candidatesTokenCount": 10**9, "thoughtsTokenCount": 1},
            {"promptTokenCount": 5, "candidatesTokenCount": 5, "thoughtsTokenCount": -1},
            {"promptTokenCount": 5, "candidatesTokenCount": 5, "toolUsePromptTokenCount": -1},
        ],
        ids=repr,
    )
    def test_missing_or_implausible_counts_are_estimated(self, usage: dict[str, Any]) -> None:
        assert counted(**usage) == (Usage(output_tokens=11), True)

    def test_a_reply_without_usage_is_estimated(self) -> None:
        assert decode("gemini", generated({"text": "x"}, usageMetadata=None)).usage_estimated

    def test_a_reply_of_thoughts_only_is_counted(self) -> None:
        usage = counted("", promptTokenCount=5, thoughtsTokenCount=95)

        assert usage == (Usage(input_tokens=5, output_tokens=95, reasoning_tokens=95), False)

    def test_audio_tokens_are_counted(self) -> None:
        audio = [{"modality": "TEXT", "tokenCount": 1}, {"modality": "AUDIO", "tokenCount": 3}, {"modality": "AUDIO"}]
        usage, _ = counted(
            promptTokenCount=5, candidatesTokenCount=2, promptTokensDetails=audio, candidatesTokensDetails=audio
        )

        assert usage == Usage(input_tokens=5, output_tokens=2, audio_input_tokens=3, audio_output_tokens=2)

    @given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS))
    def test_counts_of_kinds_never_exceed_their_totals(self, counts: tuple[int | None, ...]) -> None:
        asked, cached, tools, said, thought, audio = counts
        usage, _ = counted(
            promptTokenCount=asked,
            cachedContentTokenCount=cached,
            toolUsePromptTokenCount=tools,
            candidatesTokenCount=said,
            thoughtsTokenCount=thought,
            promptTokensDetails=[{"modality": "AUDIO", "tokenCount": audio}],
            candidatesTokensDetails=[{"modality": "AUDIO", "tokenCount": audio}],
        )

        assert max(usage.input_tokens, usage.output_tokens) <= MAX_COUNT
        assert 0 <= usage.cache_read_tokens <= usage.input_tokens
        assert 0 <= usage.audio_input_tokens <= usage.input_tokens
        assert 0 <= usage.reasoning_tokens + usage.audio_output_tokens <= usage.output_tokens


def refusal(code: int, status: str, message: str, *details: object) -> Any:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


INVALID_KEY = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "generativelanguage.googleapis.com"},
}
QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaValue": "20"}]}


def retry(delay: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


class TestRefusals:
    @pytest.mark.parametrize("wrap", [lambda document: document, lambda document: [document]], ids=["one", "a list"])
    def test_the_message_of_an_error_response_is_extracted(self, wrap: Any) -> None:
        body = msgspec.json.encode(wrap(refusal(503, "UNAVAILABLE", "The model is overloaded.")))

        assert gemini.decode_error(body) == "The model is overloaded."

    @pytest.mark.parametrize(
        ("status", "document", "about"),
        [
            (400, refusal(400, "INVALID_ARGUMENT", "API key not valid.", INVALID_KEY), "account"),
            (400, [refusal(400, "INVALID_ARGUMENT", "API key not valid.", INVALID_KEY)], "account"),
            (400, refusal(400, "INVALID_ARGUMENT", "Invalid value at 'contents'"), "request"),
            (400, refusal(400, "INVALID_ARGUMENT", "odd", "details", None, {"reason": ["API_KEY_INVALID"]}), "request"),
            (400, {"error": {"details": "none"}}, "request"),
            (400, "odd", "request"),
            (403, refusal(403, "PERMISSION_DENIED", "no"), "account"),
            (
                400,
                refusal(400, "FAILED_PRECONDITION", "Gemini API free tier is not available in your country."),
                "account",
            ),
            (404, refusal(404, "NOT_FOUND", "models/x is not found"), "model"),
            (404, refusal(404, "NOT_FOUND", "Requested entity was not found."), "operation"),
            (500, refusal(500, "INTERNAL", "An internal error", INVALID_KEY), "temporary"),
        ],
    )
    def test_error_responses_are_classified(self, status: int, document: Any, about: Subject) -> None:
        refused = gemini.classify_error(UpstreamResult(status, msgspec.json.encode(document)))

        assert refused == UpstreamRefusal(about, is_final=about == "request")

    def test_an_input_beyond_the_context_window_is_recognised(self) -> None:
        said = "The input token count (3475108) exceeds the maximum number of tokens allowed (1048576)."
        body = msgspec.json.encode(refusal(400, "INVALID_ARGUMENT", said))

        assert gemini.classify_error(UpstreamResult(400, body)) == TOO_LONG

    @pytest.mark.parametrize(
        ("details", "header", "wait"),
        [
            ([QUOTA, retry("37s")], None, 37.0),
            ([retry("37.82626638s")], None, 37.82626638),
            ([retry("1s"), retry("2s")], None, 2.0),
            ([retry("0s")], None, 0.0),
            ([retry("37s")], 5.0, 5.0),
            ([QUOTA], None, None),
            *(
                ([retry(odd)], None, None)
                for odd in ("", "s", "37", ".s", "-1s", "nans", "1e9s", "1.2.3s", "9" * 400 + "s", 5, None)
            ),
        ],
    )
    def test_the_wait_comes_from_the_header_or_else_from_the_body(
        self, details: list[object], header: float | None, wait: float | None
    ) -> None:
        body = msgspec.json.encode(refusal(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", *details))

        assert gemini.classify_error(UpstreamResult(429, body, header)) == UpstreamRefusal(
            "temporary", retry_after_s=wait
        )

    @given(st.sampled_from([400, 429]), st.binary(max_size=100) | PIECES.map(msgspec.json.encode))
    def test_any_body_of_an_error_response_is_classified(self, status: int, body: bytes) -> None:
        refused = UpstreamResult(status, body)

        assert gemini.classify_error(refused) == refusal_by_status(refused)
