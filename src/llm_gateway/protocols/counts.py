"""Check and bound the token counts, names and times that providers report."""

from __future__ import annotations

from llm_gateway.domain.token_estimate import estimated_output_tokens
from llm_gateway.domain.usage import Usage

MAX_COUNT = 10**9
"""Tokens; no call has more, so a larger count is none."""
END_OF_TIME_S = 253_402_300_800
"""The year 10000."""
NAME_CHARACTERS = 256
"""What is kept of a model's name or an id: a record must not grow with what a provider makes up."""


def truncated(name: str | None) -> str | None:
    """Cut a name or an id to the length that is recorded."""
    return name if name is None else name[:NAME_CHARACTERS]


def are_plausible(*counts: int) -> bool:
    """Return whether all counts, and their sum, are plausible for one call."""
    return min(counts) >= 0 and sum(counts) <= MAX_COUNT


def clamped(total: int, part: int | None) -> int:
    """Clamp `part` to 0…`total`; None counts as 0."""
    return min(max(part or 0, 0), total)


def any_implausible(*parts: int | None) -> bool:
    """Return whether any reported count is negative or too large for one call; None is not reported."""
    for part in parts:  # noqa: SIM110 - a generator would cost more than all of it, for every reply
        if part is not None and not 0 <= part <= MAX_COUNT:
            return True
    return False


def estimated_usage(characters: int) -> Usage:
    """Estimate the usage of an answer that its provider did not count: only the output, from its length."""
    return Usage(output_tokens=estimated_output_tokens(characters))


def seconds(reported: float | None) -> int | None:
    """A time in whole seconds since 1970; None if it is missing, negative or after the year 9999."""
    return int(reported) if reported is not None and 0 <= reported < END_OF_TIME_S else None
