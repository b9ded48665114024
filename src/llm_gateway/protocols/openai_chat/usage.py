"""Read and write the `usage` object of chat completions.

https://platform.openai.com/docs/api-reference/chat/object#chat-object-usage. Comments name vendors that count
differently.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from llm_gateway.domain.conversation import UsageUpdate
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, LenientCount, invalid_becomes
from llm_gateway.protocols.reported_values import MAX_COUNT, any_implausible, are_plausible, clamped, counted_units


class PromptDetails(msgspec.Struct, gc=False):
    """The `prompt_tokens_details` of a `usage` object: subsets of the prompt's tokens."""

    cached_tokens: LenientCount = None
    cache_write_tokens: LenientCount = None
    audio_tokens: LenientCount = None


class CompletionDetails(msgspec.Struct, gc=False):
    """The `completion_tokens_details` of a `usage` object: subsets of the completion's tokens."""

    reasoning_tokens: LenientCount = None
    audio_tokens: LenientCount = None


class ReportedUsage(msgspec.Struct, gc=False):
    """A provider's `usage` object.

    Cached tokens are a part of `prompt_tokens`, and reported in the details, in `prompt_cache_hit_tokens` (DeepSeek,
    https://api-docs.deepseek.com/guides/kv_cache) or in `cached_tokens` (Moonshot,
    https://platform.kimi.ai/docs/api/chat). `num_sources_used` counts the sources of xAI's live search
    (https://docs.rs/xai-openapi/latest/src/xai_openapi/usage.rs.html).
    """

    prompt_tokens: LenientCount = None
    completion_tokens: LenientCount = None
    total_tokens: LenientCount = None
    prompt_cache_hit_tokens: LenientCount = None
    cached_tokens: LenientCount = None
    num_sources_used: LenientCount = None
    prompt_tokens_details: Annotated[PromptDetails | None, invalid_becomes({"cached_tokens": INVALID_COUNT})] = None
    completion_tokens_details: Annotated[
        CompletionDetails | None, invalid_becomes({"reasoning_tokens": INVALID_COUNT})
    ] = None


_NO_PROMPT_DETAILS, _NO_COMPLETION_DETAILS = PromptDetails(), CompletionDetails()


def read_usage(reported: ReportedUsage | None, *, has_content: bool) -> UsageUpdate | None:
    """Return the canonical counts; None if the provider's are missing or implausible.

    `has_content`: the answer is not empty, so it must have at least one output token.
    """
    if reported is None or reported.prompt_tokens is None or reported.completion_tokens is None:
        return None
    input_tokens, output_tokens = reported.prompt_tokens, reported.completion_tokens
    if not (0 < input_tokens <= MAX_COUNT and has_content <= output_tokens <= MAX_COUNT):  # also drops INVALID_COUNT
        return None
    input_details = reported.prompt_tokens_details or _NO_PROMPT_DETAILS
    output_details = reported.completion_tokens_details or _NO_COMPLETION_DETAILS
    cached = input_details.cached_tokens or reported.prompt_cache_hit_tokens or reported.cached_tokens
    if not (
        cached
        or input_details.cache_write_tokens
        or input_details.audio_tokens
        or output_details.reasoning_tokens
        or output_details.audio_tokens
    ):
        return UsageUpdate(usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens))
    # xAI does not include reasoning in completion_tokens; this shows only in its total:
    # https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning
    reasoning = output_details.reasoning_tokens
    if (
        reasoning
        and are_plausible(output_tokens, reasoning)
        and reported.total_tokens == input_tokens + output_tokens + reasoning
    ):
        output_tokens += reasoning
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=clamped(input_tokens, cached),
        cache_write_tokens=clamped(input_tokens, input_details.cache_write_tokens),
        audio_input_tokens=clamped(input_tokens, input_details.audio_tokens),
        reasoning_tokens=clamped(output_tokens, output_details.reasoning_tokens),
        audio_output_tokens=clamped(output_tokens, output_details.audio_tokens),
    )
    parts = (
        cached,
        input_details.cache_write_tokens,
        input_details.audio_tokens,
        output_details.reasoning_tokens,
        output_details.audio_tokens,
    )
    return UsageUpdate(usage=usage, is_estimated=any_implausible(reported.total_tokens, *parts))


def read_units(reported: ReportedUsage) -> dict[str, int] | None:
    """Return what is billed apart from tokens, None if there is nothing."""
    return counted_units(search_source=reported.num_sources_used)


def write_usage(usage: Usage) -> dict[str, object]:
    """Build a `usage` object for a client."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": usage.audio_input_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.audio_output_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
