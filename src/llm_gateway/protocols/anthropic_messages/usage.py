"""Read and write Anthropic's `usage` objects."""

from __future__ import annotations

from typing import Annotated

import msgspec

from llm_gateway.domain.conversation import BillingUpdate, UsageUpdate
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import JsonObject
from llm_gateway.protocols.lenient_decoding import INVALID_COUNT, Lenient, LenientCount, invalid_becomes
from llm_gateway.protocols.reported_values import (
    any_implausible,
    are_plausible,
    clamped,
    counted_units,
    requested_tier,
    special_tier,
)


class CacheCreation(msgspec.Struct, gc=False):
    """Tokens written to the prompt cache, by lifetime."""

    ephemeral_5m_input_tokens: LenientCount = None
    ephemeral_1h_input_tokens: LenientCount = None


class OutputDetails(msgspec.Struct, gc=False):
    """Kinds of tokens that are part of the output."""

    thinking_tokens: LenientCount = None


class ServerToolUse(msgspec.Struct, gc=False):
    """Calls of tools that Anthropic runs. Web searches are billed by the call, web fetches are not."""

    web_search_requests: LenientCount = None


class ReportedUsage(msgspec.Struct, gc=False):
    """A `usage` object as received; implausible values are checked in `read_usage`.

    Three fields tell the price of a token: the service tier (`standard`, `priority`, `batch`), the speed (`standard`,
    `fast`) and the place of inference (`global`, `us`; `not_available` for models that cannot be placed).
    """

    input_tokens: LenientCount = None
    output_tokens: LenientCount = None
    cache_read_input_tokens: LenientCount = None
    cache_creation_input_tokens: LenientCount = None
    cache_creation: Annotated[CacheCreation | None, invalid_becomes({"ephemeral_1h_input_tokens": INVALID_COUNT})] = (
        None
    )
    output_tokens_details: Annotated[OutputDetails | None, invalid_becomes({"thinking_tokens": INVALID_COUNT})] = None
    service_tier: Lenient[str] = None
    speed: Lenient[str] = None
    inference_geo: Lenient[str] = None
    server_tool_use: Annotated[ServerToolUse | None, invalid_becomes({"web_search_requests": INVALID_COUNT})] = None


_NOTHING_CREATED, _NO_DETAILS = CacheCreation(), OutputDetails()


def read_usage(reported: ReportedUsage | None, *, has_content: bool) -> UsageUpdate | None:
    """Convert reported counts; None if a total is missing or implausible.

    `input_tokens` excludes tokens read from the cache and tokens written to it: the total is the sum of the three.
    `output_tokens` includes thinking. `has_content`: the reply is not empty, so 0 output tokens are implausible.
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
    fresh, output = reported.input_tokens, reported.output_tokens
    if not (fresh + read + written and are_plausible(fresh, read, written)):
        return None
    if not (are_plausible(output) and (output or not has_content)):
        return None
    thought = (reported.output_tokens_details or _NO_DETAILS).thinking_tokens
    searches = None if reported.server_tool_use is None else reported.server_tool_use.web_search_requests
    usage = Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=clamped(written, long),
        reasoning_tokens=clamped(output, thought),
    )
    return UsageUpdate(usage=usage, is_estimated=any_implausible(created.ephemeral_1h_input_tokens, thought, searches))


UNPLACED = frozenset({"global", "not_available", ""})
"""Values of `inference_geo` at the standard price: https://platform.claude.com/docs/en/manage-claude/data-residency."""


def read_billing(reported: ReportedUsage | None) -> BillingUpdate | None:
    """Return what is billed differently from the standard price per token, None if nothing is.

    The tier, the speed and the place multiply the price independently, so they are joined: `priority`, `fast+geo:us`.
    """
    if reported is None:
        return None
    tier, searches, geo = special_tier(reported.service_tier), reported.server_tool_use, reported.inference_geo
    if reported.speed is not None or (geo is not None and geo not in UNPLACED):
        place = f"geo:{geo}" if geo is not None and geo not in UNPLACED else None
        names = [name for name in (tier, special_tier(reported.speed), special_tier(place)) if name is not None]
        tier = special_tier("+".join(names))
    units = None if searches is None else counted_units(web_search=searches.web_search_requests)
    return None if tier is None and units is None else BillingUpdate(service_tier=tier, units=units)


def read_requested_tier(document: JsonObject) -> str | None:
    """Return the tier that a request asks for, named as in `read_billing`; None for the standard one."""
    if not {"service_tier", "speed", "inference_geo"}.intersection(document):
        return None
    geo = document.get("inference_geo")
    is_placed = isinstance(geo, str) and geo not in UNPLACED
    place = f"geo:{geo}" if is_placed else None
    return requested_tier(document.get("service_tier"), document.get("speed"), place)


def write_usage(usage: Usage) -> dict[str, object]:
    """Return a `usage` object; `input_tokens` excludes cached tokens, as in Anthropic's API."""
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.input_tokens - cached),
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
    }
