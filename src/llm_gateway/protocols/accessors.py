"""Typed accessors for request documents; raise `Unreadable` with the field's path. null counts as absent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llm_gateway.domain.conversation import REASONING_WORDS, File, Image, Part, Text
from llm_gateway.protocols.contract import Unreadable, Unsupported

Document = dict[str, Any]


def text(document: Document, name: str, where: str = "") -> str | None:
    """A string, or None."""
    found: str | None = _typed(document, name, where, str, "text")
    return found


def required_text(document: Document, name: str, where: str = "") -> str:
    """A string that must be there."""
    found = text(document, name, where)
    if found is None:
        raise Unreadable(_path(where, name), f"{_path(where, name)} is required.")
    return found


def whole(document: Document, name: str, least: int = 0, most: int | None = None, where: str = "") -> int | None:
    """A whole number within its range, or None."""
    found, place = document.get(name), _path(where, name)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool):
        raise Unreadable(place, f"{place} must be a whole number.")
    if found < least or (most is not None and found > most):
        raise Unreadable(place, f"{place} must be at least {least}" + (f" and at most {most}." if most else "."))
    return found


def number(document: Document, name: str, least: float, most: float, where: str = "") -> float | None:
    """A number within its range, or None."""
    found = document.get(name)
    if found is None:
        return None
    if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
        raise Unreadable(_path(where, name), f"{_path(where, name)} must be a number from {least} to {most}.")
    return float(found)


def truth(document: Document, name: str, where: str = "") -> bool | None:
    """True, false or None."""
    found: bool | None = _typed(document, name, where, bool, "true or false")
    return found


def listed(document: Document, name: str, where: str = "") -> list[Any]:
    """A list; empty where there is none."""
    found = _typed(document, name, where, list, "a list")
    return [] if found is None else found


def child(document: Document, name: str, where: str = "") -> Document | None:
    """An object, or None."""
    found: Document | None = _typed(document, name, where, dict, "an object")
    return found


def objects(found: list[Any], where: str) -> Iterable[tuple[Document, str]]:
    """The objects of a list, each with its place."""
    for index, one in enumerate(found):
        place = f"{where}[{index}]"
        if not isinstance(one, dict):
            raise Unreadable(place, f"{place} must be an object.")
        yield one, place


def strings(document: Document, name: str, where: str = "") -> list[str]:
    """A list of strings, or one alone; empty where there is none."""
    found = document.get(name)
    if found is None:
        return []
    given = [found] if isinstance(found, str) else found
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise Unreadable(_path(where, name), f"{_path(where, name)} must be text or a list of texts.")
    return given


def labels(document: Document, name: str) -> dict[str, str] | None:
    """An object of strings, or None."""
    found = child(document, name)
    if found is None:
        return None
    if not all(isinstance(value, str) for value in found.values()):
        raise Unreadable(name, f"the values of {name} must be text.")
    return found


def others(document: Document, known: frozenset[str], where: str) -> list[str]:
    """The fields beside those that this version knows, each with where it is."""
    return [f"{where}.{name}" for name, value in document.items() if name not in known and value is not None]


def texts_only(parts: Iterable[Part], where: str) -> None:
    """Raise where there is something else than text: a system's words."""
    if not all(isinstance(part, Text) for part in parts):
        raise Unreadable(where, f"{where} must be text.")


def result_parts(parts: Iterable[Part], where: str) -> list[Text | Image | File]:
    """What a tool may bring."""
    found = []
    for part in parts:
        if not isinstance(part, Text | Image | File):
            raise Unreadable(where, f"{where}: a tool's result is text, pictures and files.")
        found.append(part)
    return found


def reasoning_word(word: str | None, where: str) -> str | None:
    """How much to think, in a word that is known."""
    if word is not None and word not in REASONING_WORDS:
        raise Unreadable(where, f"{where} must be one of {', '.join(REASONING_WORDS)}.")
    return word


def refuse_others(document: Document, known: frozenset[str], where: str = "") -> None:
    """Raise for a field that this version does not know; whether it may be left out nobody can tell.

    Raises:
        Unsupported: there is one.
    """
    for name, value in document.items():
        if name not in known and value not in (None, [], {}):
            why = "it is not known here, so only a provider that speaks this protocol can be sent it"
            raise Unsupported(_path(where, name), why, known)


def _typed(document: Document, name: str, where: str, kind: type[Any], words: str) -> Any:
    found = document.get(name)
    if found is not None and not isinstance(found, kind):
        raise Unreadable(_path(where, name), f"{_path(where, name)} must be {words}.")
    return found


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
