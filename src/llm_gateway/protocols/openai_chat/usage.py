"""Tokens as this dialect counts them. Where vendors differ the rule names them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from llm_gateway.domain.conversation import Counted
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.counts import MAX_COUNT, any_implausible, are_plausible, clamped
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, LenientCount, invalid_becomes


class PromptDetails(msgspec.Struct, gc=False):
    """Kinds among the prompt's tokens."""

    cached_tokens: LenientCount = None
    cache_write_tokens: LenientCount = None
    audio_tokens: LenientCount = None


class CompletionDetails(msgspec.Struct, gc=False):
    """Kinds among the completion's tokens."""

    reasoning_tokens: LenientCount = None
    audio_tokens: LenientCount = None


class ReportedUsage(msgspec.Struct, gc=False):
    """A `usage` object."""

    prompt_tokens: LenientCount = None
    completion_tokens: LenientCount = None
    total_tokens: LenientCount = None
    prompt_tokens_details: Annotated[PromptDetails | None, invalid_becomes({"cached_tokens": INVALID_COUNT})] = None
    completion_tokens_details: Annotated[
        CompletionDetails | None, invalid_becomes({"reasoning_tokens": INVALID_COUNT})
    ] = None


_NO_PROMPT_DETAILS, _NO_COMPLETION_DETAILS = PromptDetails(), CompletionDetails()


def read_usage(reported: ReportedUsage | None, *, has_content: bool) -> Counted | None:
    """The canonical counts; None where the provider left them out, or what it says cannot be."""
    if reported is None or reported.prompt_tokens is None or reported.completion_tokens is None:
        return None
    asked, answered = reported.prompt_tokens, reported.completion_tokens
    if not (0 < asked <= MAX_COUNT and has_content <= answered <= MAX_COUNT):
        return None
    into = reported.prompt_tokens_details or _NO_PROMPT_DETAILS
    out = reported.completion_tokens_details or _NO_COMPLETION_DETAILS
    if not (
        into.cached_tokens or into.cache_write_tokens or into.audio_tokens or out.reasoning_tokens or out.audio_tokens
    ):
        return Counted(usage=Usage(input_tokens=asked, output_tokens=answered))
    # xAI counts reasoning beside completion_tokens, which only its total tells:
    # https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning
    thought = out.reasoning_tokens
    if thought and are_plausible(answered, thought) and reported.total_tokens == asked + answered + thought:
        answered += thought
    usage = Usage(
        input_tokens=asked,
        output_tokens=answered,
        cache_read_tokens=clamped(asked, into.cached_tokens),
        cache_write_tokens=clamped(asked, into.cache_write_tokens),
        audio_input_tokens=clamped(asked, into.audio_tokens),
        reasoning_tokens=clamped(answered, out.reasoning_tokens),
        audio_output_tokens=clamped(answered, out.audio_tokens),
    )
    parts = (into.cached_tokens, into.cache_write_tokens, into.audio_tokens, out.reasoning_tokens, out.audio_tokens)
    return Counted(usage=usage, is_estimated=any_implausible(reported.total_tokens, *parts))


def write_usage(usage: Usage) -> dict[str, object]:
    """A `usage` object."""
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
