"""Read and write Gemini's `usageMetadata` objects."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from llm_gateway.domain.conversation import UsageUpdate
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, Lenient, LenientCount, invalid_becomes
from llm_gateway.protocols.reported_values import MAX_COUNT, any_implausible, are_plausible, clamped, special_tier


class ModalityCount(msgspec.Struct, gc=False, rename="camel"):
    """Tokens of one modality."""

    modality: Lenient[str] = None
    token_count: LenientCount = None


_INVALID_DETAILS = [{"tokenCount": INVALID_COUNT}]


class ReportedUsage(msgspec.Struct, gc=False, rename="camel"):
    """A `usageMetadata` object as received; implausible values are checked in `read_usage`.

    `service_tier` is the Gemini API's (https://github.com/vercel/ai/pull/15488), `traffic_type` is Vertex AI's
    (https://docs.cloud.google.com/vertex-ai/generative-ai/docs/priority-paygo).
    """

    prompt_token_count: LenientCount = None
    cached_content_token_count: LenientCount = None
    tool_use_prompt_token_count: LenientCount = None
    candidates_token_count: LenientCount = None
    thoughts_token_count: LenientCount = None
    service_tier: Lenient[str] = None
    traffic_type: Lenient[str] = None
    prompt_tokens_details: Annotated[list[ModalityCount] | None, invalid_becomes(_INVALID_DETAILS)] = None
    candidates_tokens_details: Annotated[list[ModalityCount] | None, invalid_becomes(_INVALID_DETAILS)] = None


def read_usage(reported: ReportedUsage | None, *, has_content: bool, has_thoughts: bool = False) -> UsageUpdate | None:
    """Convert reported counts; None if a total is missing or implausible.

    `promptTokenCount` includes cached tokens, `candidatesTokenCount` excludes thoughts. Google's JSON omits zeros. So
    a missing count means 0 if the reply is empty; if it has text (`has_content`) or thoughts (`has_thoughts`), the
    provider did not count.
    """
    if reported is None or reported.prompt_token_count is None:
        return None
    output, thought = reported.candidates_token_count, reported.thoughts_token_count or 0
    if output is None:
        if has_content or (has_thoughts and not thought):
            return None
        output = 0
    prompt, used_tools = reported.prompt_token_count, reported.tool_use_prompt_token_count or 0
    if not (prompt and are_plausible(prompt, used_tools) and are_plausible(output, thought)):
        return None
    cached = reported.cached_content_token_count
    audio_in, audio_out = _audio(reported.prompt_tokens_details), _audio(reported.candidates_tokens_details)
    usage = Usage(
        input_tokens=prompt + used_tools,
        output_tokens=output + thought,
        cache_read_tokens=clamped(prompt, cached),
        reasoning_tokens=thought,
        audio_input_tokens=clamped(prompt, audio_in),
        audio_output_tokens=clamped(output, audio_out),
    )
    return UsageUpdate(usage=usage, is_estimated=any_implausible(cached, audio_in, audio_out))


def read_tier(reported: ReportedUsage | None) -> str | None:
    """Return the tier that served the reply, None for the standard one. Vertex AI's `ON_DEMAND_FLEX` is `flex`."""
    if reported is None:
        return None
    tier = special_tier(reported.service_tier)
    if reported.traffic_type is None or tier is not None:
        return tier
    tier = special_tier(reported.traffic_type.lower().removeprefix("on_demand_"))
    return None if tier == "traffic_type_unspecified" else tier


def _audio(details: list[ModalityCount] | None) -> int:
    """Sum the audio tokens; return INVALID_COUNT if the count of any modality is implausible."""
    total = 0
    for part in details or ():
        count = part.token_count or 0
        if not 0 <= count <= MAX_COUNT:
            return INVALID_COUNT
        if part.modality == "AUDIO":
            total += count
    return total


def write_usage(usage: Usage) -> dict[str, Any]:
    """Return a `usageMetadata` object. Omits kinds of tokens with a count of 0, as Google does."""
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
