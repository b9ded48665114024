"""Validate a configuration document: each section is a list of entries, each entry is named once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError

from llm_gateway.control.declared_configuration.section import Section, Wanted, shown_label
from llm_gateway.control.declared_configuration.sections import SECTIONS
from llm_gateway.control.management.field_errors import place_of, sentence
from llm_gateway.error_format.validation import MOST_ERRORS
from llm_gateway.errors import Invalid
from llm_gateway.suggestions import if_meant

MOST_ENTRIES = 5000
"""Entries of a section at most: they are compared with what is stored, some 0.1 ms each."""
NAMES = tuple(section.name for section, _ in SECTIONS)

WantedSections: TypeAlias = dict[str, dict[str, Wanted]]
"""Entries by label, by section. Sections that the document does not have are absent."""


def document_schema() -> dict[str, Any]:
    """Return the JSON Schema of a document."""
    return {
        "type": "object",
        "additionalProperties": False,
        "description": "Sections that are absent are left alone.",
        "properties": {
            section.name: {"type": "array", "maxItems": MOST_ENTRIES, "items": section.schema.model_json_schema()}
            for section, _ in SECTIONS
        },
    }


def wanted_of(document: Mapping[str, Any], sections: Sequence[Section]) -> WantedSections:
    """Return the entries of a document.

    Raises:
        Invalid: a section or an entry is not valid; the error lists up to 20 mistakes, each with its place.
    """
    mistakes: list[Invalid] = [_unknown(name) for name in document if name not in NAMES]
    found: WantedSections = {}
    for section in sections:
        if section.name not in document:
            continue
        entries = document[section.name]
        loc = ("body", "document", section.name)
        if not isinstance(entries, list):
            mistakes.append(Invalid(f"{section.name}: must be a list of entries, such as - name: a.", loc=loc))
        elif len(entries) > MOST_ENTRIES:
            mistakes.append(Invalid(f"{section.name}: takes up to {MOST_ENTRIES:,} entries.", loc=loc))
        else:
            found[section.name] = {}
            mistakes.extend(_read(section, entries, found[section.name]))
    if mistakes:
        raise Invalid.all_of(mistakes[:MOST_ERRORS])
    return found


def _read(section: Section, entries: list[Any], found: dict[str, Wanted]) -> Iterator[Invalid]:
    """Fill `found` with the entries of a section, and yield their mistakes."""
    for position, entry in enumerate(entries):
        try:
            wanted = section.wanted(section.schema.model_validate(entry), position)
        except ValidationError as error:
            yield from _mistakes(section, entry, position, error)
            continue
        except Invalid as error:
            yield section.mistake(entry["name"], position, error.detail, *error.path)
            continue
        if wanted.label in found:
            yield section.mistake(
                wanted.label,
                position,
                f"is there twice: entries {found[wanted.label].position + 1} and {position + 1}.",
            )
        found[wanted.label] = wanted


def _unknown(name: str) -> Invalid:
    shown = name[:60]
    return Invalid(
        f"There is no section {shown!r}: choose from {', '.join(NAMES)}.{if_meant(shown, NAMES)}",
        loc=("body", "document", shown),
    )


def _mistakes(section: Section, entry: object, position: int, error: ValidationError) -> Iterator[Invalid]:
    """Yield an error for each mistake of an entry."""
    for found in error.errors(include_url=False)[:MOST_ERRORS]:
        path, kind = place_of(found), found["type"]
        where = ".".join(str(part) for part in path)
        if not path:
            told = "must be an entry with fields, such as name: a."
        elif kind == "missing":
            told = f"{where} is required."
        elif kind == "extra_forbidden":
            told = f"there is no field {where[:60]!r}.{if_meant(str(path[-1]), section.schema.model_fields)}"
        else:
            told = sentence(where, found)
        loc = ("body", "document", section.name, position, *path)
        yield Invalid(f"{section.name} {_named(section, entry, position)}: {told}", loc=loc, kind=kind)


def _named(section: Section, entry: object, position: int) -> str:
    """Return how messages name an entry that is not valid: by its name if it has one, else by its number."""
    name = entry.get("name", entry.get("user_id")) if isinstance(entry, dict) else None
    return shown_label(name[:100]) if isinstance(name, str) and name else f"number {position + 1}"
