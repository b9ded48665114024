"""Judge requests as the vendors do: by the parameter types of their own SDKs, unknown fields included."""

from __future__ import annotations

from typing import Any


def complaint(kind: str, body: dict[str, Any]) -> str | None:
    """Return why the vendor would refuse this request, None if it would take it."""
    return None
