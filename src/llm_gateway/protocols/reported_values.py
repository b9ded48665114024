"""Check and bound values that providers report: token counts, names, tiers, units, times."""

from __future__ import annotations

from typing import Any

MAX_COUNT = 10**9
"""The most tokens in one call that are plausible. Larger counts are treated as missing."""
END_OF_TIME_S = 253_402_300_800
"""The beginning of the year 10000, in seconds since 1970: the first time that `datetime` cannot represent."""
STANDARD_TIERS = frozenset({"default", "standard", "on_demand", "unspecified", "auto"})
"""Names of the tier that list prices are for: OpenAI's and xAI's, Anthropic's and Gemini's, Groq's and Vertex AI's.

`auto` is vLLM's, which repeats the request's word, `auto` by default: it says no more than no tier at all. OpenAI
reports the tier that it used, never `auto`. https://github.com/vllm-project/vllm,
`vllm/entrypoints/openai/responses/protocol.py`; https://openrouter.ai/docs/guides/features/service-tiers (2026-11-27).
"""
UNDECIDED = frozenset({"auto", "standard_only"})
"""Values of a request's `service_tier` that do not select a tier with a price of its own."""
TIER_CHARACTERS = 32
"""Length of the longest tier that is recorded; a longer one is recorded as `other`."""
NAME_CHARACTERS = 256
"""Length to which a provider's model name or id is cut, to bound the size of usage records."""


def truncated(name: str | None) -> str | None:
    """Cut a model name or an id to `NAME_CHARACTERS`."""
    return name if name is None else name[:NAME_CHARACTERS]


def are_plausible(*counts: int) -> bool:
    """Return whether all counts, and their sum, are plausible for one call."""
    return min(counts) >= 0 and sum(counts) <= MAX_COUNT


def clamped(total: int, part: int | None) -> int:
    """Clamp `part` to 0…`total`; None counts as 0."""
    return min(max(part or 0, 0), total)


def any_implausible(*parts: int | None) -> bool:
    """Return whether any reported count is negative or too large for one call; None is not reported."""
    for part in parts:  # noqa: SIM110 - a generator costs more than this loop, for every reply
        if part is not None and not 0 <= part <= MAX_COUNT:
            return True
    return False


def special_tier(reported: str | None) -> str | None:
    """Return the tier in lower case; None for the standard tier, and if the provider does not tell the tier."""
    if not reported or (tier := reported.lower()) in STANDARD_TIERS:
        return None
    return tier if len(tier) <= TIER_CHARACTERS else "other"


def requested_tier(*settings: Any) -> str | None:
    """Return the tier that a request asks for, as `AttemptRecord` names it, by the values of its settings.

    None is the standard tier, and a tier that the vendor chooses.
    """
    words = [word for word in settings if isinstance(word, str) and word not in UNDECIDED]
    names = [tier for word in words if (tier := special_tier(word)) is not None]
    return special_tier("+".join(names))


def counted_units(**reported: int | None) -> dict[str, int] | None:
    """Return the units with plausible counts above 0 by their names, None if there are none."""
    return {name: count for name, count in reported.items() if count and 0 < count <= MAX_COUNT} or None


def seconds(reported: float | None) -> int | None:
    """Round a time down to whole seconds since 1970; None if it is missing, negative or after the year 9999."""
    return int(reported) if reported is not None and 0 <= reported < END_OF_TIME_S else None
