"""Apply the table of vendors' words and limits to the body of a call: compiled once for each (provider, model)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from llm_gateway.protocols.contract import JsonObject
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.providers.vendor_rules.rule import Edit, Row, Rule, rows_of
from llm_gateway.providers.vendor_rules.table import ROWS

CONFIG = "generationConfig"
"""The object of a Gemini request with most of its settings; clients may also spell it `generation_config`."""
LISTS = ("messages", "input", "tools")
"""Fields of a body that hold the parts that a row's path names: `messages[].role`, `tools[]`."""


class _Named(NamedTuple):
    """A rule with the name of its field in `Conversation`."""

    rule: Rule
    name: str


class BodyRules:
    """The rules for bodies of one protocol to one model of one provider."""

    __slots__ = ("_by_field", "_by_list", "_in_config")

    def __init__(self, rows: Iterable[Row]) -> None:
        self._by_field: dict[str, list[_Named]] = {}
        self._in_config: dict[str, list[_Named]] = {}
        self._by_list: dict[str, list[_Named]] = {}
        for row in rows:
            where, _, field = row.field.partition(".")
            named = _Named(row.rule, row.name or _canonical(row))
            if (name := row.field.partition("[")[0]) in LISTS:
                self._by_list.setdefault(name, []).append(named)
            elif where == CONFIG:
                self._in_config.setdefault(field, []).append(named)
            else:
                self._by_field.setdefault(row.field, []).append(named)

    def __bool__(self) -> bool:
        """Return whether there are any rules."""
        return bool(self._by_field or self._in_config or self._by_list)

    def apply(self, body: JsonObject) -> Edit:
        """Change the body as the rules say. The body itself may be changed; the values in it are copied first.

        Raises:
            Unsupported: the vendor cannot be sent a value, and the request would mean something else without it.
        """
        edit = Edit()
        _apply(self._by_field, body, edit)
        if self._in_config:
            for name in (CONFIG, "generation_config"):
                config = body.get(name)
                if isinstance(config, dict):
                    body[name] = config = dict(config)
                    _apply(self._in_config, config, edit)
        for name, rules in self._by_list.items():
            if body.get(name):
                for rule, field in rules:
                    rule.apply(body, name, field, edit)
        return edit


def _apply(by_field: Mapping[str, list[_Named]], fields: JsonObject, edit: Edit) -> None:
    for field, rules in by_field.items():  # in the table's order: a rule may set a field of a later row
        for rule, name in rules if field in fields else ():
            if fields.get(field) is not None:
                rule.apply(fields, field, name, edit)


def _canonical(row: Row) -> str:
    """Return the name in `Conversation` of the row's field."""
    names = PROTOCOLS[row.protocol].field_names
    return next((name for name, path in names.items() if path == row.field), row.field)


class ModelRules(NamedTuple):
    """The rules of one model: for bodies that pass through, by protocol, and for translated bodies.

    `required` are those of bodies that are translated into the protocol that the model takes some requests in only.
    """

    passed: Mapping[str, BodyRules]
    translated: BodyRules | None
    required: BodyRules | None = None


@lru_cache(maxsize=4096)
def rules_of_model(
    vendor: str, protocols: tuple[str, ...], translation: str | None, model: str, required: str | None = None
) -> ModelRules | None:
    """Return the rules for a model, None if no row applies to it.

    `vendor` is the name of the vendor's preset, "" if unknown. `translation` is the protocol of translated bodies,
    `required` that of requests that the model takes in one protocol only.
    """
    compiled = {protocol: BodyRules(rows_of(ROWS, protocol, vendor, model)) for protocol in protocols}
    passed = {protocol: rules for protocol, rules in compiled.items() if rules}
    return ModelRules(passed, passed.get(translation or ""), passed.get(required or "")) if passed else None
