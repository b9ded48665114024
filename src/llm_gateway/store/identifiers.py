"""Parse the ids of what is stored, such as providers, in URL paths."""

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


PATHS = {"person": "people", "alert target": "alert-targets"}
"""Path below /api/v1 of the lists whose name is not the noun with an s."""


def missing(noun: str) -> NotFound:
    """Return the error for an id that does not exist; `noun` is a word such as "provider"."""
    path = PATHS.get(noun, "" if " " in noun else f"{noun}s")
    where = f": GET /api/v1/{path} lists those there are" if path else ""
    return NotFound(f"There is no {noun} with this id{where}.")
