"""Refusals of OpenAI's Responses API for the mock vendor: words and limits, by OpenAI's own documents.

It is written apart from the product's table (`providers/vendor_rules/responses_table.py`), so that a mistake there
shows. Sources, read 2026-11-27: the types of OpenAI's SDK, https://developers.openai.com/api/docs/guides/reasoning, and
reports that quote the vendor's errors (the table has their addresses).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_type_hints

from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponseParams

Body = dict[str, Any]
FIELDS = frozenset(get_type_hints(ResponseParams)) | {"stream"}
LENGTHS = {"user": 64, "safety_identifier": 128, "prompt_cache_key": 64}
EFFORTS = (
    (r"gpt-5-pro", ["high"]),
    (r"gpt-5\.\d-pro", ["medium", "high", "xhigh"]),
    (r"gpt-5\.1-codex-max|gpt-5\.[2-9]-codex", ["low", "medium", "high", "xhigh"]),
    (r"gpt-5(\.1)?-codex|o\d", ["low", "medium", "high"]),
    (r"gpt-5(-mini|-nano)?$", ["minimal", "low", "medium", "high"]),
    (r"gpt-5\.2-chat", ["medium"]),
    (r"gpt-5\.1$", ["none", "low", "medium", "high"]),
    (r"gpt-5\.[2-5]$", ["none", "low", "medium", "high", "xhigh"]),
    (r"gpt-5\.6$", ["none", "low", "medium", "high", "xhigh", "max"]),
)


def refusals(model: str, body: Body) -> Iterator[str]:
    """Yield what the API refuses."""
    yield from (f"Unknown parameter: '{name}'." for name in body.keys() - FIELDS)
    yield from _settings(body)
    yield from reasoning_refusals(model, body)
    yield from _tools(body)
    for number, item in enumerate(body["input"] if isinstance(body["input"], list) else ()):
        if len(item.get("call_id", "")) > 64:
            yield f"Invalid 'input[{number}].call_id': string too long. Expected a string with maximum length 64"


def _settings(body: Body) -> Iterator[str]:
    if not 0 <= (body.get("temperature") or 0) <= 2:
        yield "Invalid 'temperature': decimal out of range."
    if not 0 <= (body.get("top_logprobs") or 0) <= 20:
        yield "Invalid 'top_logprobs': integer out of range."
    if (body.get("max_output_tokens") or 16) < 16:
        yield "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16"
    labels = body.get("metadata") or {}
    if len(labels) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in labels.items()):
        yield "Invalid 'metadata'"
    for field, longest in LENGTHS.items():
        if len(body.get(field) or "") > longest:
            yield f"Invalid '{field}': string too long. Expected a string with maximum length {longest}"


def reasoning_refusals(model: str, body: Body) -> Iterator[str]:
    """Yield what OpenAI's models refuse wherever they run."""
    effort = (body.get("reasoning") or {}).get("effort")
    if re.match(r"gpt-[34]|gpt-5-chat", model) and body.get("reasoning") is not None:
        yield "Unsupported parameter: 'reasoning.effort' is not supported with this model."
    known = next((words for pattern, words in EFFORTS if re.match(pattern, model)), None)
    if known is not None and effort is not None and effort not in known:
        yield f"Unsupported value: '{effort}' is not supported with the '{model}' model."
    may_reason = re.match(r"o\d|gpt-5(?!\.)(?!-chat)", model) or (
        re.match(r"gpt-5\.", model) and effort not in (None, "none")
    )
    for field in ("temperature", "top_p"):
        if may_reason and body.get(field) is not None:
            yield f"Unsupported parameter: '{field}' is not supported with this model."


def _tools(body: Body) -> Iterator[str]:
    named = [tool["name"] for tool in body.get("tools") or () if tool["type"] in ("function", "custom")]
    named += [item["name"] for item in body["input"] if isinstance(item, dict) and item.get("type") == "function_call"]
    choice = body.get("tool_choice")
    named += [choice["name"]] if isinstance(choice, dict) and "name" in choice else []
    for name in named:
        if not re.fullmatch("[a-zA-Z0-9_-]{1,64}", name):
            yield f"name must be at most 64 characters of a-z, A-Z, 0-9, _ and -: {name!r}"
    for tool in body.get("tools") or ():
        schema = tool.get("parameters")
        if tool["type"] == "function" and schema.get("type") == "object" and "properties" not in schema:
            yield f"Invalid schema for function '{tool['name']}': In context=(), object schema missing properties."
        if tool.get("strict", True) and schema.get("additionalProperties") is not False:
            yield "Invalid schema for function: 'additionalProperties' is required to be supplied and to be false."
