"""Rules for single fields of a request's body, and the row of the table that says where a rule applies.

A rule changes one field of a body that is about to be sent, in place; `Edit` collects what was left out. A rule for
values that cannot be sent without a change of meaning raises `Unsupported`, which passes the provider over.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.protocols.contract import JsonObject, Unsupported

READ = "2026-11-27"
"""Date on which the sources of the rows were read, unless a row says otherwise."""


class Edit:
    """The changes of one body: names of dropped fields (of `Conversation`), and new → original names of tools.

    `owned` holds the ids of the containers that were copied for this edit, and so may be changed.
    """

    __slots__ = ("dropped", "owned", "restored")

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.restored: dict[str, str] = {}
        self.owned: set[int] = set()


class Rule(Protocol):
    """A change of one field. `fields` is the object that holds the field, and may be changed; its values may not."""

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Change `fields[field]`, which is not None. `name` is the field's name in `Conversation`.

        Raises:
            Unsupported: the value cannot be sent, and leaving it out would change the meaning of the answer.
        """
        ...


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of the table: what happens to a field at the models of some vendors, and the source of the rule.

    `vendors` are names of presets; "" stands for providers of no known vendor. `models` and `but_not` are globs of
    model names, in lower case and without the part before the last slash. `field` is the field's path in a body of
    `protocol`: `temperature`, `generationConfig.topK`, `messages[].role`, `tools[]`. `name` is its name in
    `Conversation`. `source` is the vendor's document, or the report that quotes the vendor's error.
    """

    vendors: tuple[str, ...]
    field: str
    rule: Any
    source: str
    models: tuple[str, ...] = ("*",)
    but_not: tuple[str, ...] = ()
    protocol: str = "openai_chat"
    name: str = ""
    read: str = READ

    def applies(self, vendor: str, model: str) -> bool:
        """Return whether the row is about this vendor and model."""
        short = model.rpartition("/")[2].lower()
        return (
            vendor in self.vendors
            and any(fnmatchcase(short, glob) for glob in self.models)
            and not any(fnmatchcase(short, glob) for glob in self.but_not)
        )


class Renamed(msgspec.Struct, frozen=True):
    """The vendor knows the field by another name. A field that already has that name wins."""

    to: str

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Rename the field; see `Rule.apply`."""
        value = fields.pop(field)
        if fields.get(self.to) is None:
            fields[self.to] = value


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """The vendor rejects the field. It is left out and named, unless its value is one of `unless`.

    A value in `defaults` is left out without a word. `with_effort`: the vendor rejects the field only in requests that
    ask for reasoning.
    """

    unless: tuple[Any, ...] = ()
    defaults: tuple[Any, ...] = ()
    with_effort: bool = False

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave the field out; see `Rule.apply`."""
        if fields[field] in self.unless:
            return
        if self.with_effort and _effort(fields) in (None, "none"):
            return
        if fields.pop(field) not in self.defaults:
            edit.dropped.append(name)


def _effort(fields: JsonObject) -> Any:
    """Return the reasoning effort of a chat completions or Responses body."""
    reasoning = fields.get("reasoning")
    return reasoning.get("effort") if isinstance(reasoning, dict) else fields.get("reasoning_effort")


class Refused(msgspec.Struct, frozen=True):
    """The vendor rejects the field, and an answer without it would mean something else.

    A value in `harmless` asks for nothing, so the field is left out without a word.
    """

    why: str
    harmless: tuple[Any, ...] = ()

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Refuse the field; see `Rule.apply`."""
        if fields[field] not in self.harmless:
            raise Unsupported(name, self.why)
        del fields[field]


class Range(msgspec.Struct, frozen=True):
    """The vendor accepts numbers from `least` to `most`. Others are set to the nearest bound, and named."""

    least: float
    most: float

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Clamp the number; see `Rule.apply`."""
        value = fields[field]
        if isinstance(value, bool) or not isinstance(value, int | float) or self.least <= value <= self.most:
            return
        fields[field] = self.least if value < self.least else self.most
        edit.dropped.append(name)


class AtLeast(msgspec.Struct, frozen=True):
    """The vendor accepts whole numbers from `least` on. A smaller one is raised to it, and named."""

    least: int

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Raise the number; see `Rule.apply`."""
        value = fields[field]
        if isinstance(value, int) and not isinstance(value, bool) and value < self.least:
            fields[field] = self.least
            edit.dropped.append(name)


class Inside(msgspec.Struct, frozen=True):
    """A rule for one field of the object in a field: `effort` in `reasoning`."""

    inner: str
    rule: Any

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Apply the rule to a copy of the object; see `Rule.apply`."""
        value = fields[field]
        if isinstance(value, dict) and value.get(self.inner) is not None:
            fields[field] = own = dict(value)
            self.rule.apply(own, self.inner, name, edit)


class AtMost(msgspec.Struct, frozen=True):
    """The vendor accepts lists of at most `count` items. To shorten a longer one would change the meaning."""

    count: int

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Refuse a longer list; see `Rule.apply`."""
        value = fields[field]
        if isinstance(value, list) and len(value) > self.count:
            raise Unsupported(name, f"it accepts at most {self.count} of them")


class Words(msgspec.Struct, frozen=True):
    """The reasoning efforts that the model knows. Another one becomes the nearest, and is named; unknown words stay."""

    known: tuple[str, ...]

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Choose the nearest effort; see `Rule.apply`."""
        value = fields[field]
        if not isinstance(value, str) or (asked := value.lower()) in self.known or asked not in REASONING_EFFORTS:
            return
        place = REASONING_EFFORTS.index(asked)
        nearest = min(self.known, key=lambda word: abs(REASONING_EFFORTS.index(word) - place))
        fields[field] = nearest.upper() if value.isupper() else nearest
        edit.dropped.append(name)


class ThinkingSwitch(msgspec.Struct, frozen=True):
    """The vendor turns reasoning off by `thinking`, not by the effort `none`."""

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Replace the effort `none`; see `Rule.apply`."""
        if fields[field] == "none":
            del fields[field]
            fields.setdefault("thinking", {"type": "disabled"})


class AsEffort(msgspec.Struct, frozen=True):
    """The vendor rejects another vendor's word for reasoning (an object): its effort becomes `reasoning_effort`.

    The object is left out, and named if it asks for anything else.
    """

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Replace the object; see `Rule.apply`."""
        asked = fields.pop(field)
        effort = asked.get("effort") if isinstance(asked, dict) else None
        if isinstance(asked, dict) and (asked.get("type") == "disabled" or asked.get("enabled") is False):
            effort = "none"
        if isinstance(effort, str) and fields.get("reasoning_effort") is None:
            fields["reasoning_effort"] = effort
        elif asked:
            edit.dropped.append(name)


class Hashed(msgspec.Struct, frozen=True):
    """The vendor accepts a text of at most `longest` characters, an identifier: a longer one becomes its hash."""

    longest: int

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Shorten the identifier; see `Rule.apply`."""
        value = fields[field]
        if isinstance(value, str) and len(value) > self.longest:
            fields[field] = sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Labels(msgspec.Struct, frozen=True):
    """The vendor accepts a number of labels with keys and values of limited lengths. Others are left out, and named."""

    count: int
    key: int
    value: int

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave labels out that are too many or too long; see `Rule.apply`."""
        labels = fields[field]
        if not isinstance(labels, dict):
            return
        fitting = [pair for pair in labels.items() if len(pair[0]) <= self.key and len(str(pair[1])) <= self.value]
        if len(fitting) == len(labels) <= self.count:
            return
        fields[field] = dict(fitting[: self.count])
        edit.dropped.append(name)


class BiasRange(msgspec.Struct, frozen=True):
    """The vendor accepts biases from `least` to `most`; others are set to the nearest bound, and named."""

    least: float
    most: float

    def apply(self, fields: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Clamp the biases; see `Rule.apply`."""
        biases = fields[field]
        if not isinstance(biases, dict) or not all(isinstance(value, int | float) for value in biases.values()):
            return
        if any(not self.least <= value <= self.most for value in biases.values()):
            fields[field] = {token: min(max(value, self.least), self.most) for token, value in biases.items()}
            edit.dropped.append(name)


def rows_of(rows: tuple[Row, ...], protocol: str, vendor: str, model: str) -> Iterator[Row]:
    """Yield the rows that apply to this vendor, model and protocol."""
    for row in rows:
        if row.protocol == protocol and row.applies(vendor, model):
            yield row
