"""Tokens as Anthropic counts them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from llm_gateway.domain.conversation import Counted
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.counts import any_implausible, are_plausible, clamped
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, LenientCount, invalid_becomes


class CacheCreation(msgspec.Struct, gc=False):
    """Tokens written to the cache, by how long they stay."""

    ephemeral_5m_input_tokens: LenientCount = None
    ephemeral_1h_input_tokens: LenientCount = None


class OutputDetails(msgspec.Struct, gc=False):
    """Kinds among the output."""

    thinking_tokens: LenientCount = None


class ReportedUsage(msgspec.Struct, gc=False):
    """A `usage` object."""

    input_tokens: LenientCount = None
    output_tokens: LenientCount = None
    cache_read_input_tokens: LenientCount = None
    cache_creation_input_tokens: LenientCount = None
    cache_creation: Annotated[CacheCreation | None, invalid_becomes({"ephemeral_1h_input_tokens": INVALID_COUNT})] = (
        None
    )
    output_tokens_details: Annotated[OutputDetails | None, invalid_becomes({"thinking_tokens": INVALID_COUNT})] = None


_NOTHING_CREATED, _NO_DETAILS = CacheCreation(), OutputDetails()


def read_usage(reported: ReportedUsage | None, *, has_content: bool) -> Counted | None:
    """The canonical counts; None where the provider left them out, or what it says cannot be.

    `input_tokens` counts neither what was read from the cache nor what was written to it: the total is the sum of all
    three. `output_tokens` counts thinking, too.
    """
    if reported is None or reported.input_tokens is None or reported.output_tokens is None:
        return None
    created = reported.cache_creation or _NOTHING_CREATED
    long = created.ephemeral_1h_input_tokens or 0
    read, written = reported.cache_read_input_tokens or 0, reported.cache_creation_input_tokens
    if written is None:
        written = (created.ephemeral_5m_input_tokens or 0) + long
        if any_implausible(created.ephemeral_5m_input_tokens, long):
            return None
    asked, answered = reported.input_tokens, reported.output_tokens
    if not (asked + read + written and are_plausible(asked, read, written)):
        return None
    if not (are_plausible(answered) and (answered or not has_content)):
        return None
    thought = (reported.output_tokens_details or _NO_DETAILS).thinking_tokens
    usage = Usage(
        input_tokens=asked + read + written,
        output_tokens=answered,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=clamped(written, long),
        reasoning_tokens=clamped(answered, thought),
    )
    return Counted(usage=usage, is_estimated=any_implausible(created.ephemeral_1h_input_tokens, thought))


def write_usage(usage: Usage) -> dict[str, object]:
    """A `usage` object."""
    kept = usage.cache_read_tokens + usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.input_tokens - kept),
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
    }
