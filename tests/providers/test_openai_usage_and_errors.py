"""Dialect of OpenAI-compatible vendors: usage, and the classes and messages of error responses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.upstream_refusal import FLAGGED, TOO_LONG, UpstreamRefusal, refusal_by_status
from llm_gateway.domain.usage import Usage
from llm_gateway.providers import openai
from tests.providers.documents import completion, decode
from tests.rows import each_row


def counted(**usage: Any) -> tuple[Usage, bool]:
    reply = decode("openai", completion(usage=usage))
    return reply.usage, reply.usage_estimated


class TestUsage:
    @pytest.mark.parametrize(
        "usage",
        [
            ...,
            None,
            {},
            {"prompt_tokens": 5},
            {"completion_tokens": 5},
            {"prompt_tokens": None, "completion_tokens": 5},
            {"prompt_tokens": 5, "completion_tokens": None},
            {"prompt_tokens": -1, "completion_tokens": 5},
            {"prompt_tokens": 5, "completion_tokens": -1},
            {"prompt_tokens": 1_000_000_001, "completion_tokens": 5},
            {"prompt_tokens": 5, "completion_tokens": 1_000_000_001},
        ],
        ids=repr,
    )
    def test_missing_or_implausible_counts_are_estimated(self, usage: object) -> None:
        reply = decode("openai", completion({"content": "x" * 41}, usage=usage))

        assert (reply.usage, reply.usage_estimated) == (Usage(output_tokens=11), True)

    def test_a_count_beyond_64_bits_is_estimated(self) -> None:
        body = completion(usage={"prompt_tokens": 1, "completion_tokens": 777}).replace(b"777", b"9" * 40)

        assert decode("openai", body).usage_estimated

    @pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0)])
    def test_zero_counts_for_a_reply_with_text_are_estimated(self, counts: tuple[int, int]) -> None:
        usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1]}
        reply = decode("openai", completion({"content": "x" * 41}, usage=usage))

        assert (reply.usage, reply.usage_estimated) == (Usage(output_tokens=11), True)

    def test_the_largest_plausible_counts_are_kept(self) -> None:
        large = counted(prompt_tokens=1_000_000_000, completion_tokens=1_000_000_000)
        assert large == (Usage(input_tokens=1_000_000_000, output_tokens=1_000_000_000), False)

    @pytest.mark.parametrize("details", [{}, {"cached_tokens": None, "audio_tokens": None}, {"reasoning_tokens": None}])
    def test_empty_details_do_not_change_the_totals(self, details: dict[str, Any]) -> None:
        whole = Usage(input_tokens=19, output_tokens=10)

        assert counted(prompt_tokens=19, completion_tokens=10, prompt_tokens_details=details)[0] == whole
        assert counted(prompt_tokens=19, completion_tokens=10, completion_tokens_details=details)[0] == whole

    def test_details_of_input_or_output_alone_are_counted(self) -> None:
        into, _ = counted(prompt_tokens=19, completion_tokens=10, prompt_tokens_details={"cached_tokens": 8})
        out, _ = counted(prompt_tokens=19, completion_tokens=10, completion_tokens_details={"reasoning_tokens": 8})

        assert into == Usage(input_tokens=19, output_tokens=10, cache_read_tokens=8)
        assert out == Usage(input_tokens=19, output_tokens=10, reasoning_tokens=8)

    @pytest.mark.parametrize(
        ("audio", "thought", "is_estimated"), [(0, 11, False), (-5, 11, True), (0, 2**63, True), ("3", 11, True)]
    )
    def test_details_never_exceed_their_totals(self, audio: Any, thought: int, is_estimated: bool) -> None:
        usage, estimated = counted(
            prompt_tokens=19,
            completion_tokens=10,
            prompt_tokens_details={"cached_tokens": 20, "audio_tokens": audio},
            completion_tokens_details={"reasoning_tokens": thought, "audio_tokens": 10},
        )

        assert usage == Usage(
            input_tokens=19, output_tokens=10, cache_read_tokens=19, reasoning_tokens=10, audio_output_tokens=10
        )
        assert estimated is is_estimated, "a count that cannot be one may hide what the call cost"

    def test_tokens_written_to_the_cache_are_counted(self) -> None:
        usage, _ = counted(prompt_tokens=19, completion_tokens=1, prompt_tokens_details={"cache_write_tokens": 20})

        assert usage == Usage(input_tokens=19, output_tokens=1, cache_write_tokens=19)

    @pytest.mark.parametrize(
        ("total", "thought", "out"),
        [(135, 94, 103), (41, 5, 9), (None, 5, 9), (32 + 9 + 10**10, 10**10, 9), (36, -5, 9)],
        ids=["beside", "within", "no total", "incredible", "negative"],
    )
    def test_reasoning_tokens_that_xai_counts_separately_are_added_to_the_output(
        self, total: int | None, thought: int, out: int
    ) -> None:
        usage, _ = counted(
            prompt_tokens=32,
            completion_tokens=9,
            total_tokens=total,
            prompt_tokens_details={"cached_tokens": 1},
            completion_tokens_details={"reasoning_tokens": thought},
        )

        assert (usage.output_tokens, usage.reasoning_tokens) == (out, min(max(thought, 0), out))


GROQ = {"message": "Failed to generate JSON.", "type": "invalid_request_error", "code": "json_validate_failed"}
XAI = {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***x. You can obtain …"}
OPENAI = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}


ACCOUNT, MODEL, OPERATION = UpstreamRefusal("account"), UpstreamRefusal("model"), UpstreamRefusal("operation")
MOMENT = UpstreamRefusal("temporary")
QUOTA = {"message": "You exceeded your current quota, please check your plan and billing details."}
POLICY = "Invalid prompt: your prompt was flagged as potentially violating our usage policy."
XAI_CREDIT = "Your team x has either used all available credits or reached its monthly spending limit."
TPM = "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 14810"
LLAMA = {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}
FINAL = UpstreamRefusal("request", is_final=True)
NEXT = UpstreamRefusal("request")


def afford(tokens: int) -> dict[str, Any]:
    message = (
        "This request requires more credits, or fewer max_tokens. "
        f"You requested up to 32000 tokens, but can only afford {tokens}."
    )
    return {"message": message, "code": 402}


class TestInterpret:
    @each_row(
        ("status", "document", "meant"),
        [
            (400, {"error": GROQ}, UpstreamRefusal("temporary")),
            (400, XAI, UpstreamRefusal("account")),
            (400, {"error": {"message": "max_tokens is too large", "code": "invalid_value"}}, FINAL),
            (400, {"error": None}, FINAL),
            (400, {"error": {"message": "filtered", "param": "prompt", "code": "content_filter"}}, FLAGGED),
            (401, {"error": {"message": "Incorrect API key provided: sk-x", "code": "invalid_api_key"}}, ACCOUNT),
            (402, {"error": {"message": "Insufficient credits", "code": 402}}, ACCOUNT),
            (402, {"error": afford(27342)}, NEXT),
            (402, {"error": afford(0)}, ACCOUNT),
            (402, {"error": {"message": "Prompt tokens limit exceeded: 230799 > 91442.", "code": 402}}, NEXT),
            (403, {"error": {"message": "Country not supported", "code": "unsupported_country"}}, ACCOUNT),
            (403, {"error": {"message": "flagged", "code": 403, "metadata": {"reasons": ["x"]}}}, FLAGGED),
            (403, {"error": {"message": "flagged", "code": 403, "metadata": {"flagged_input": "…"}}}, FLAGGED),
            (403, {"error": {"message": "no", "code": 403, "metadata": {"provider_name": "x"}}}, ACCOUNT),
            (403, {"error": {"message": "no", "code": 403, "metadata": "reasons"}}, ACCOUNT),
            (403, {"error": {"message": "filtered", "code": "content_filter"}}, FLAGGED),
            (403, {"error": {"message": "No project", "code": "model_not_found"}}, MODEL),
            (403, {"error": {"message": "Project `p` does not have access to model `m`"}}, MODEL),
            (404, {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, MODEL),
            (403, {"error": {"message": "No", "code": "model_permission_blocked_project"}}, MODEL),
            (404, {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}}, MODEL),
            (404, {"error": {"message": 'model "m" not found, try pulling it first', "type": "api_error"}}, MODEL),
            (404, {"error": {"message": "Not Found"}}, OPERATION),
            (404, "404 page not found", OPERATION),
            (501, {"error": {"message": "This model has no embeddings"}}, OPERATION),
            (400, {"error": {"message": POLICY, "code": "invalid_prompt"}}, FLAGGED),
            (400, {"error": {"message": "no", "code": "content_policy_violation"}}, FLAGGED),
            (
                400,
                {"error": {"message": "Organization has been restricted.", "code": "organization_restricted"}},
                ACCOUNT,
            ),
            (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, TOO_LONG),
            (400, {"error": LLAMA}, TOO_LONG),
            (500, {"error": LLAMA}, TOO_LONG),
            (413, {"error": {"message": TPM, "type": "tokens", "code": "rate_limit_exceeded"}}, NEXT),
            (413, {"error": {"message": "Request Entity Too Large"}}, FINAL),
            (402, {"error": {"message": "x", "metadata": {"limit_source": "openrouter_in_flight_budget"}}}, MOMENT),
            (403, {"error": XAI_CREDIT}, ACCOUNT),
            (429, {"error": XAI_CREDIT}, ACCOUNT),
            (429, {"error": OPENAI}, ACCOUNT),
            (429, {"error": {**QUOTA, "type": "insufficient_quota", "code": "project_spend_limit_exceeded"}}, ACCOUNT),
            (429, {"error": {**QUOTA, "type": "exceeded_current_quota_error"}}, ACCOUNT),
            (429, {"error": {**QUOTA, "code": 429, "status": "RESOURCE_EXHAUSTED"}}, MOMENT),
            (429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}, MOMENT),
            (500, {"error": GROQ}, MOMENT),
        ],
    )
    def test_error_responses_are_classified(self, status: int, document: Any, meant: UpstreamRefusal) -> None:
        assert openai.classify_error(UpstreamResult(status, msgspec.json.encode(document))) == meant

    @given(st.sampled_from([400, 402, 403, 404, 413, 422, 429, 500]), st.binary(max_size=100))
    def test_any_body_of_an_error_response_is_classified(self, status: int, body: bytes) -> None:
        refused = UpstreamResult(status, body, 3.0)

        assert openai.classify_error(refused) == refusal_by_status(refused)

    @pytest.mark.parametrize("code", [[], {}, 5, None])
    def test_an_error_code_that_is_not_a_string_is_ignored(self, code: object) -> None:
        assert openai.classify_error(UpstreamResult(403, msgspec.json.encode({"error": {"code": code}}))) == ACCOUNT


class TestDecodeError:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"error": {"message": "Rate limit reached", "type": "requests", "code": null}}', "Rate limit reached"),
            (b'{"error": "model not found"}', "model not found"),
            (b'{"message": "Unauthorized"}', "Unauthorized"),
            (b'{"object": "error", "message": "bad", "code": 400}', "bad"),
            (b'{"error": {"message": ""}}', '{"error": {"message": ""}}'),
            (b'{"error": {"message": 5}}', '{"error": {"message": 5}}'),
            (b'{"error": null}', '{"error": null}'),
            (b'{"detail": "x"}', '{"detail": "x"}'),
            (b'["x"]', '["x"]'),
            (b'[{"error": {"message": "in a list"}}]', "in a list"),
            (b" <html>Bad gateway</html>\n", "<html>Bad gateway</html>"),
            (b"", ""),
            (b"\xff\xfe", "\ufffd\ufffd"),
            (b'"\xff"', '"\ufffd"'),
        ],
    )
    def test_the_message_of_an_error_response_is_extracted(self, body: bytes, message: str) -> None:
        assert openai.decode_error(body) == message

    def test_a_long_message_is_kept_long_enough_to_redact_its_secrets(self) -> None:
        assert openai.decode_error(msgspec.json.encode({"error": {"message": "x" * 2001}})) == "x" * 2000
        assert openai.decode_error(b"y" * 2001) == "y" * 2000

    @given(st.binary(max_size=100))
    def test_a_message_is_found_in_any_bytes(self, body: bytes) -> None:
        assert isinstance(openai.decode_error(body), str)

    def test_a_deeply_nested_error_body_does_not_fail(self) -> None:
        assert openai.decode_error(b"[" * 100_000) == "[" * 2000
