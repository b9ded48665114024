"""Adjust generateContent requests that pass through untranslated to a Gemini account."""

from __future__ import annotations

from typing import Any

from llm_gateway.protocols.contract import JsonObject
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.request_writer import BY_LEVEL, NO_SIGNATURE
from llm_gateway.protocols.gemini.thoughts import is_of_another_vendor


def passthrough_request(document: JsonObject, *, stream: bool) -> JsonObject:
    """Remove the field `model`, which is in the path, and what Gemini rejects: foreign thoughts and repeated results.

    Some Gemini models require a signature on tool calls. Calls by other vendors' models have none, so they get
    Google's placeholder (NO_SIGNATURE).
    """
    model = str(document.get("model"))
    document = {name: value for name, value in document.items() if name != "model"}
    contents = document.get("contents")
    if isinstance(contents, list):
        passed = [_passed(content, needs_signature=BY_LEVEL.match(model) is not None) for content in contents]
        document["contents"] = _without_repeats([content for content in passed if content is not None])
    return document


def _without_repeats(contents: list[Any]) -> list[Any]:
    """Drop results that equal the previous result of the same call: Gemini CLI sends each twice (`call_ids.py`)."""
    results: dict[str, Any] = {}
    kept: list[Any] = []
    for content in contents:
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list):
            kept.append(content)
            continue
        others = [part for part in parts if not _repeats(part, results)]
        if len(others) == len(parts):
            kept.append(content)
        elif others:
            kept.append({**content, "parts": others})
    return kept


def _repeats(part: Any, results: dict[str, Any]) -> bool:
    """Return whether the part is a result that was in `results`, by the id of its call; note it there."""
    if not isinstance(part, dict):
        return False
    part = camel_names(part)
    if isinstance(call := part.get("functionCall"), dict):
        results.pop(str(call.get("id")), None)
    result = part.get("functionResponse")
    call_id = result.get("id") if isinstance(result, dict) else None
    if not isinstance(call_id, str):
        return False
    is_repeated: bool = results.get(call_id) == result
    results[call_id] = result
    return is_repeated


def without_signatures(document: JsonObject) -> bool:
    """Remove all thoughts and signatures from the contents, in place; return whether there were any.

    Tool calls that had a signature get Google's placeholder (NO_SIGNATURE), since some models require one.
    """
    found = False
    contents = document.get("contents")
    for content in contents if isinstance(contents, list) else ():
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list):
            continue
        kept: list[Any] = []
        for part in parts:
            signature = _field(part, "thoughtSignature")
            if signature in (None, NO_SIGNATURE):
                kept.append(part)
                continue
            found = True
            rest = {key: value for key, value in camel_names(part).items() if key != "thoughtSignature"}
            if rest.get("functionCall"):
                kept.append({**rest, "thoughtSignature": NO_SIGNATURE})
            elif rest not in ({}, {"text": ""}) and rest.get("thought") is not True:
                kept.append(rest)
        content["parts"] = kept
    if found and isinstance(contents, list):
        document["contents"] = [each for each in contents if not isinstance(each, dict) or each.get("parts") != []]
    return found


def _passed(content: Any, *, needs_signature: bool) -> Any:
    """Return the content without thoughts by other vendors; None if it has no other parts."""
    parts = content.get("parts") if isinstance(content, dict) and content.get("role") == "model" else None
    if not isinstance(parts, list):
        return content
    kept = [part for part in parts if not _is_thought_of_another_vendor(part)]
    if needs_signature and not any(_field(part, "thoughtSignature") for part in kept):
        for index, part in enumerate(kept):
            if _field(part, "functionCall"):
                kept[index] = {**part, "thoughtSignature": NO_SIGNATURE}
                return {**content, "parts": kept}
    if len(kept) == len(parts):
        return content
    return {**content, "parts": kept} if kept else None


def _is_thought_of_another_vendor(part: Any) -> bool:
    signature = _field(part, "thoughtSignature")
    return _field(part, "thought") is True and isinstance(signature, str) and is_of_another_vendor(signature)


def _field(part: Any, name: str) -> Any:
    return camel_names(part).get(name) if isinstance(part, dict) else None
