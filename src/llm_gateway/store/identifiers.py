"""Parse the ids of providers and overrides in URL paths."""

from __future__ import annotations

import uuid

from llm_gateway.errors import NotFound


def stored_id(text: str, noun: str) -> str:
    """Return the canonical spelling of an id that a client sent.

    Raises:
        NotFound: the text is not a UUID, so nothing can be stored under it.
    """
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        raise missing(noun) from None
    if canonical != text.lower():
        raise missing(noun)
    return canonical


def missing(noun: str) -> NotFound:
    """Return the error for an id that does not exist; `noun` is a word such as "provider"."""
    where = "" if " " in noun else f": GET /api/v1/{noun}s lists those there are"
    return NotFound(f"There is no {noun} with this id{where}.")
