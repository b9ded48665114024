"""Read the size of a page from the query parameters of a list."""

from __future__ import annotations

from collections.abc import Mapping

from llm_gateway.errors import Invalid


def page_size(query: Mapping[str, str], name: str, *, default: int, least: int, maximum: int) -> int:
    """Return the value of the query parameter `name`, or `default` if it is missing or empty.

    Raises:
        Invalid: it is not an integer from `least` to `maximum`.
    """
    text = query.get(name) or str(default)
    size = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if not least <= size <= maximum:
        raise Invalid(f"{name}: {text[:20]!r} is not an integer from {least} to {maximum}.", loc=("query", name))
    return size
