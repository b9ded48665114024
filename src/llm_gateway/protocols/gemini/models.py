"""Google's list of models: https://ai.google.dev/api/models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

PREFIX = "models/"
METHODS = ["generateContent", "streamGenerateContent", "countTokens"]


def model_name(resource: str) -> str:
    """Return the name in a path or a field: `models/gemini-2.5-pro` and `gemini-2.5-pro` are the same."""
    return resource.removeprefix(PREFIX)


def model_document(name: str) -> dict[str, Any]:
    """Return one model. The gateway knows no limits of it, so none are in it."""
    return {"name": PREFIX + name, "displayName": name, "supportedGenerationMethods": METHODS}


def write_models(names: Iterable[str]) -> bytes:
    """Return the answer of `GET /v1beta/models`: one page with all of them."""
    return msgspec.json.encode({"models": [model_document(name) for name in names]})
