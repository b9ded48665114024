"""Counts and names as providers report them: believed or not, cut or kept."""

from __future__ import annotations

from llm_gateway.domain.usage import Usage

MAX_COUNT = 10**9
"""Tokens; no call has more, so a larger count is none."""
END_OF_TIME_S = 253_402_300_800
"""The year 10000."""
NAME_CHARACTERS = 256
"""What is kept of a model's name or an id: a record must not grow with what a provider makes up."""


def cut(name: str | None) -> str | None:
    """A name as it is kept."""
    return name if name is None else name[:NAME_CHARACTERS]


def credible(*counts: int) -> bool:
    """Whether all of them, and their sum, can be counts of one call."""
    return min(counts) >= 0 and sum(counts) <= MAX_COUNT


def within(total: int, part: int | None) -> int:
    """A part of a total, as far as it can be one."""
    return min(max(part or 0, 0), total)


def doubtful(*parts: int | None) -> bool:
    """Whether one of these parts of a total was reported, but as no count of one call."""
    for part in parts:  # noqa: SIM110 - a generator would cost more than all of it, for every reply
        if part is not None and not 0 <= part <= MAX_COUNT:
            return True
    return False


def guessed(characters: int) -> Usage:
    """Estimate the usage of an answer that its provider did not count: only the output can be, from its length."""
    return Usage(output_tokens=characters // 4 + 1)


def seconds(reported: float | None) -> int | None:
    """A time in whole seconds since 1970; None if it is missing, negative or after the year 9999."""
    return int(reported) if reported is not None and 0 <= reported < END_OF_TIME_S else None
