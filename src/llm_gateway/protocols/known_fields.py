"""Find the unknown fields inside a request, below its top level, to drop them and report them by their paths.

A protocol's `request_fields.py` lists what its reader knows of each object, as a tree:

    PART = {"text": Fields({"type", "text"}), "image": Fields({"type", "source"}, {"source": Fields({"url"})})}
    INSIDE = {"messages": Fields({"role", "content"}, {"content": PART})}

    unknown_inside({"messages": [{"role": "user", "content": [{"type": "text", "text": "?", "new": 1}]}]}, INSIDE)
    → ["messages.content.new"]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from llm_gateway.protocols.accessors import droppable_fields
from llm_gateway.protocols.contract import JsonObject


class Fields:
    """The known fields of an object. `inner` has those of the objects in some of its fields, also in lists."""

    __slots__ = ("inner", "names")

    def __init__(self, names: Iterable[str], inner: Inside | None = None) -> None:
        self.names = frozenset(names)
        self.inner: Inside = inner or {}


ByType: TypeAlias = Mapping[str | None, Fields]
"""The known fields of objects by their `type`, None for objects without one. Objects of other types are skipped."""


Inside: TypeAlias = Mapping[str, Fields | ByType]
"""The known fields of the objects in an object's fields, by the names of these fields."""


def unknown_inside(document: JsonObject, inside: Inside) -> list[str]:
    """Return the sorted paths of the unknown fields inside the fields of `document` that `inside` names.

    Call it after the document was read, so that the types of all values are known to be right.
    """
    found: set[str] = set()
    for name, fields in inside.items():
        _walk(document.get(name), fields, name, found)
    return sorted(found)


def _walk(value: Any, fields: Fields | ByType, where: str, found: set[str]) -> None:
    """Add the paths of the unknown fields of `value`, an object or a list of objects."""
    if isinstance(value, dict):
        value = (value,)
    elif not isinstance(value, list):
        return
    for item in value:
        if not isinstance(item, dict):
            continue
        known = fields if isinstance(fields, Fields) else fields.get(item.get("type"))
        if known is None:
            continue
        if not item.keys() <= known.names:
            found.update(droppable_fields(item, known.names, where=where))
        for name, inner in known.inner.items():
            if isinstance(nested := item.get(name), list | dict):
                _walk(nested, inner, f"{where}.{name}", found)
