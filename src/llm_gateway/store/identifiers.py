"""Ids of stored things as callers spell them in paths."""

from __future__ import annotations

import uuid

from llm_gateway.errors import NotFound


def stored_id(text: str, noun: str) -> str:
    """The canonical spelling of an id from outside.

    Raises:
        NotFound: it is no UUID, so nothing is stored under it.
    """
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        raise missing(noun) from None
    if canonical != text.lower():
        raise missing(noun)
    return canonical


def missing(noun: str) -> NotFound:
    """What to raise when there is no `noun` (a word such as "provider") with the id asked for."""
    return NotFound(f"There is no {noun} with this id.")
