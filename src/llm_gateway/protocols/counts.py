"""Counts and names as providers report them: believed or not, cut or kept."""

from __future__ import annotations

from llm_gateway.domain.usage import Usage

MAX_COUNT = 10**9
"""Tokens; no call has more, so a larger count is none."""
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


def guessed(content: str) -> Usage:
    """What an answer took whose provider counted nothing: only the output can be guessed from it."""
    return Usage(output_tokens=len(content) // 4 + 1)
