"""Typed accessors for the fields of a JSON request; they raise `Unreadable` with the field's path.

A field that is null counts as absent. `where` is the path of the enclosing object (`messages[2]`), for the error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llm_gateway.domain.conversation import REASONING_EFFORTS, CacheTtl, File, Image, Part, Text
from llm_gateway.protocols.contract import JsonObject, Unreadable, Unsupported


def text(document: JsonObject, name: str, where: str = "") -> str | None:
    """Return the field's string, or None if absent."""
    value: str | None = _typed(document, name, where, str, "text")
    return value


def required_text(document: JsonObject, name: str, where: str = "") -> str:
    """Return the field's string; raise `Unreadable` if absent."""
    value = text(document, name, where)
    if value is None:
        raise Unreadable(_path(where, name), f"{_path(where, name)} is required.")
    return value


def integer(document: JsonObject, name: str, least: int = 0, most: int | None = None, where: str = "") -> int | None:
    """Return the field's whole number, or None if absent; raise `Unreadable` outside `least`…`most`."""
    value, place = document.get(name), _path(where, name)
    if isinstance(value, float) and value.is_integer():  # JSON knows one type of number: 100.0 is 100
        value = int(value)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unreadable(place, f"{place} must be a whole number.")
    if value < least or (most is not None and value > most):
        raise Unreadable(place, f"{place} must be at least {least}" + (f" and at most {most}." if most else "."))
    return value


def number(document: JsonObject, name: str, least: float, most: float, where: str = "") -> float | None:
    """Return the field's number, or None if absent; raise `Unreadable` outside `least`…`most`."""
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise Unreadable(_path(where, name), f"{_path(where, name)} must be a number from {least} to {most}.")
    return float(value)


def boolean(document: JsonObject, name: str, where: str = "") -> bool | None:
    """Return the field's boolean, or None if absent."""
    value: bool | None = _typed(document, name, where, bool, "true or false")
    return value


def list_field(document: JsonObject, name: str, where: str = "") -> list[Any]:
    """Return the field's list, empty if absent."""
    value = _typed(document, name, where, list, "a list")
    return [] if value is None else value


def object_field(document: JsonObject, name: str, where: str = "") -> JsonObject | None:
    """Return the field's object, or None if absent."""
    value: JsonObject | None = _typed(document, name, where, dict, "an object")
    return value


def objects(items: list[Any], where: str) -> Iterable[tuple[JsonObject, str]]:
    """Yield the objects of a list with the path of each; raise `Unreadable` at an item that is not an object."""
    for index, item in enumerate(items):
        place = f"{where}[{index}]"
        if not isinstance(item, dict):
            raise Unreadable(place, f"{place} must be an object.")
        yield item, place


def strings(document: JsonObject, name: str, where: str = "") -> list[str]:
    """Return the field's list of strings, empty if absent; a single string counts as a list of one."""
    value = document.get(name)
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Unreadable(_path(where, name), f"{_path(where, name)} must be text or a list of texts.")
    return texts


def string_map(document: JsonObject, name: str) -> dict[str, str] | None:
    """Return the field's object of string values, or None if absent."""
    labels = object_field(document, name)
    if labels is None:
        return None
    if not all(isinstance(value, str) for value in labels.values()):
        raise Unreadable(name, f"the values of {name} must be text.")
    return labels


def cache_ttl(part: JsonObject, place: str) -> CacheTtl | None:
    """Read `cache_control`: Anthropic's, which OpenRouter and others accept on parts of chat completions, too."""
    mark = object_field(part, "cache_control", place)
    if mark is None:
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"


def texts_only(parts: Iterable[Part], where: str) -> None:
    """Raise `Unreadable` unless all parts are text, as system messages require."""
    if not all(isinstance(part, Text) for part in parts):
        raise Unreadable(where, f"{where} must be text.")


def result_parts(parts: Iterable[Part], where: str) -> list[Text | Image | File]:
    """Return the parts of a tool result; raise `Unreadable` if one is not a text, image or file."""
    accepted = []
    for part in parts:
        if not isinstance(part, Text | Image | File):
            raise Unreadable(where, f"{where} may contain only text, images and files, since it is a tool's result.")
        accepted.append(part)
    return accepted


def known_effort(effort: str | None, where: str) -> str | None:
    """Return a reasoning effort unchanged; raise `Unsupported` unless it is one of `REASONING_EFFORTS`."""
    if effort is not None and effort not in REASONING_EFFORTS:
        raise unknown_value(where, effort, REASONING_EFFORTS)
    return effort


def unknown_value(where: str, value: str, known: Iterable[str]) -> Unsupported:
    """Return the error for a value that is not known here: a provider of the client's own protocol may know it."""
    return Unsupported(where, f"{value[:40]!r} is not known here; known values: {', '.join(known)}")


def droppable_fields(
    document: JsonObject, known: frozenset[str], decisive: frozenset[str] = frozenset(), where: str = ""
) -> list[str]:
    """Return the paths of the fields that are not in `known` and not empty, to drop and report them.

    `decisive` are fields known to change the meaning of an answer, which are not dropped.

    Raises:
        Unsupported: the document has a decisive field.
    """
    found = [name for name, value in document.items() if name not in known and value not in (None, [], {})]
    for name in found:
        if name in decisive:
            raise Unsupported(_path(where, name), "only providers of this protocol accept it")
    return [_path(where, name) for name in found]


def _typed(document: JsonObject, name: str, where: str, kind: type[Any], words: str) -> Any:
    value = document.get(name)
    if value is not None and not isinstance(value, kind):
        raise Unreadable(_path(where, name), f"{_path(where, name)} must be {words}.")
    return value


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
