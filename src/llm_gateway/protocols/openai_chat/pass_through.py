"""Chat completions that pass through to a provider of the same protocol, and what of its stream comes back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llm_gateway.domain.conversation import Counted
from llm_gateway.protocols.contract import RawEvent

NO_CHOICE = re.compile(rb'"choices" *: *\[ *\]')


def pass_on(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Ask for the usage of a stream, which accounting needs."""
    if not stream:
        return document
    options = document.get("stream_options")
    asked = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return {**document, "stream_options": asked}


def hides(document: dict[str, Any]) -> Callable[[RawEvent], bool] | None:
    """Hide the event of usage from a client that did not ask for it."""
    options = document.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return None if wants_usage else _is_usage


def _is_usage(raw_event: RawEvent) -> bool:
    """Whether an event holds nothing but usage, be it believed or not."""
    if any(not isinstance(chunk, Counted) for chunk in raw_event.chunks):
        return False
    return b'"usage"' in raw_event.raw and NO_CHOICE.search(raw_event.raw) is not None
