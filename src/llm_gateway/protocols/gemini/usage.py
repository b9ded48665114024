"""Tokens as Gemini counts them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from llm_gateway.domain.conversation import Counted
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.counts import MAX_COUNT, any_implausible, are_plausible, clamped
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, Lenient, LenientCount, invalid_becomes


class ModalityCount(msgspec.Struct, gc=False, rename="camel"):
    """Tokens of one modality."""

    modality: Lenient[str] = None
    token_count: LenientCount = None


_ODD_DETAILS = [{"tokenCount": INVALID_COUNT}]


class ReportedUsage(msgspec.Struct, gc=False, rename="camel"):
    """A `usageMetadata` object."""

    prompt_token_count: LenientCount = None
    cached_content_token_count: LenientCount = None
    tool_use_prompt_token_count: LenientCount = None
    candidates_token_count: LenientCount = None
    thoughts_token_count: LenientCount = None
    prompt_tokens_details: Annotated[list[ModalityCount] | None, invalid_becomes(_ODD_DETAILS)] = None
    candidates_tokens_details: Annotated[list[ModalityCount] | None, invalid_becomes(_ODD_DETAILS)] = None


def read_usage(reported: ReportedUsage | None, *, has_content: bool, has_thoughts: bool = False) -> Counted | None:
    """The canonical counts; None where the provider left them out, or what it says cannot be.

    `promptTokenCount` has the cached tokens in it, `candidatesTokenCount` not the thoughts. Google's JSON leaves out
    what is zero, so a count that is missing where there is text, or thoughts, was not made.
    """
    if reported is None or reported.prompt_token_count is None:
        return None
    said, thought = reported.candidates_token_count, reported.thoughts_token_count or 0
    if said is None:
        if has_content or (has_thoughts and not thought):
            return None
        said = 0
    asked, used_tools = reported.prompt_token_count, reported.tool_use_prompt_token_count or 0
    if not (asked and are_plausible(asked, used_tools) and are_plausible(said, thought)):
        return None
    cached = reported.cached_content_token_count
    heard, spoken = _audio(reported.prompt_tokens_details), _audio(reported.candidates_tokens_details)
    usage = Usage(
        input_tokens=asked + used_tools,
        output_tokens=said + thought,
        cache_read_tokens=clamped(asked, cached),
        reasoning_tokens=thought,
        audio_input_tokens=clamped(asked, heard),
        audio_output_tokens=clamped(said, spoken),
    )
    return Counted(usage=usage, is_estimated=any_implausible(cached, heard, spoken))


def _audio(details: list[ModalityCount] | None) -> int:
    """Sum the tokens of sound; `INVALID_COUNT` if the count of any modality cannot be believed."""
    total = 0
    for part in details or ():
        count = part.token_count or 0
        if not 0 <= count <= MAX_COUNT:
            return INVALID_COUNT
        if part.modality == "AUDIO":
            total += count
    return total


def write_usage(usage: Usage) -> dict[str, Any]:
    """Return `usageMetadata`. Kinds of tokens that there are none of are left out, as Google does."""
    thoughts = min(usage.reasoning_tokens, usage.output_tokens)
    document: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - thoughts,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.cache_read_tokens:
        document["cachedContentTokenCount"] = usage.cache_read_tokens
    if thoughts:
        document["thoughtsTokenCount"] = thoughts
    if usage.audio_input_tokens:
        document["promptTokensDetails"] = _details(usage.input_tokens, usage.audio_input_tokens)
    if usage.audio_output_tokens:
        document["candidatesTokensDetails"] = _details(usage.output_tokens - thoughts, usage.audio_output_tokens)
    return document


def _details(total: int, audio: int) -> list[dict[str, Any]]:
    audio = min(audio, total)
    return [{"modality": "TEXT", "tokenCount": total - audio}, {"modality": "AUDIO", "tokenCount": audio}]
