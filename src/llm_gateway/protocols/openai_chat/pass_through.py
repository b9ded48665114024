"""Request usage in chat completions streams that pass through, and withhold it from clients that did not request it.

The gateway bills by the usage, so it always sets `stream_options.include_usage`. Nothing else of such a request is
changed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llm_gateway.domain.conversation import UsageUpdate
from llm_gateway.protocols.contract import RawEvent

NO_CHOICE = re.compile(rb'"choices" *: *\[ *\]')
"""The empty list of choices in the event that reports usage."""


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Return the document with usage requested, if it is for a stream."""
    if not stream:
        return document
    options = document.get("stream_options")
    stream_options = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return {**document, "stream_options": stream_options}


def withheld_events(document: dict[str, Any]) -> Callable[[RawEvent], bool] | None:
    """Return a predicate for the usage event, to withhold; None if the client requested it."""
    options = document.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return None if wants_usage else _is_usage


def _is_usage(raw_event: RawEvent) -> bool:
    """Return whether the event holds only usage, even if its counts are implausible and so give no chunk."""
    if any(not isinstance(chunk, UsageUpdate) for chunk in raw_event.chunks):
        return False
    return b'"usage"' in raw_event.raw and NO_CHOICE.search(raw_event.raw) is not None
