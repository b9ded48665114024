"""Request usage in chat completions streams that pass through, and withhold it from clients that did not request it.

The gateway bills by the usage, so it always sets `stream_options.include_usage`. Nothing else of such a request is
changed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llm_gateway.domain.conversation import BillingUpdate, UsageUpdate
from llm_gateway.protocols.contract import RawEvent
from llm_gateway.protocols.lenient_decoding import arguments_text

NO_CHOICE = re.compile(rb'"choices" *: *\[ *\]')
"""The empty list of choices in the event that reports usage."""


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Return the document with usage requested, if it is for a stream."""
    if not stream:
        return document
    options = document.get("stream_options")
    stream_options = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return {**document, "stream_options": stream_options}


def with_valid_arguments(document: dict[str, Any]) -> bool:
    """Make the arguments of all tool calls JSON objects, in place; return whether any was none.

    For vendors that refuse other texts (`lenient_decoding.arguments_text`).
    """
    messages = document.get("messages")
    found = False
    for message in messages if isinstance(messages, list) else ():
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            found |= isinstance(function, dict) and mend_arguments(function)
    return found


def mend_arguments(function: dict[str, Any]) -> bool:
    """Make the field `arguments` the text of a JSON object; return whether it was none."""
    given = function.get("arguments")
    if not isinstance(given, str) or (valid := arguments_text(given)) == given:
        return False
    function["arguments"] = valid
    return True


def withheld_events(document: dict[str, Any]) -> Callable[[RawEvent], bool] | None:
    """Return a predicate for the usage event, to withhold; None if the client requested it."""
    options = document.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return None if wants_usage else _is_usage


def _is_usage(raw_event: RawEvent) -> bool:
    """Return whether the event holds only usage, even if its counts are implausible and so give no chunk."""
    if any(not isinstance(chunk, UsageUpdate | BillingUpdate) for chunk in raw_event.chunks):
        return False
    return b'"usage"' in raw_event.raw and NO_CHOICE.search(raw_event.raw) is not None
