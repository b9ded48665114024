"""Pydantic field types that several schemas of the management API share.

Validation and the published JSON Schema accept the same values.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from llm_gateway.protocols.generate import LABEL_PATTERN

STRICT = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
"""Model configuration of request bodies: reject unknown fields, convert no types, quote no input in errors."""


def _whole(value: Any) -> Any:
    """Convert 1.0 to 1: it is an integer in JSON Schema, and some languages encode all numbers this way."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Annotation of integer fields. It must follow the limits: pydantic takes the JSON Schema from what precedes it."""


def _not_blank(text: str) -> str:
    """Return the text; a blank one cannot be told from none where it is shown.

    Raises:
        ValueError: it is blank.
    """
    if text.isspace():
        raise ValueError("must not be blank")
    return text


NOT_BLANK = AfterValidator(_not_blank)
CONTROLS, CONTROLS_AND_COMMAS = r"\x00-\x1f\x7f", r"\x00-\x1f\x7f:,"
"""Characters that names do not have, as parts of patterns."""


def pattern_without(characters: str) -> str:
    """Return the pattern of text that is not blank and has none of these characters, for the OpenAPI document."""
    return rf"^[^{characters}]*[^{characters}\s][^{characters}]*$"


Label = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        pattern=r"^[^\x00]*$",
        json_schema_extra={"pattern": LABEL_PATTERN},
        description="1 to 256 characters, none of them NUL, not all of them blanks",
    ),
    NOT_BLANK,
]
"""A customer's or service's name, with the same limits as in POST /generate."""
TEXT_PATTERN = pattern_without(CONTROLS)


def _name(most: int, without: str) -> Any:
    pattern = rf"^[^{without}]*$"
    extra: JsonDict = {"pattern": pattern_without(without)}
    return Field(min_length=1, max_length=most, pattern=pattern, json_schema_extra=extra)


Text = Annotated[str, _name(200, CONTROLS), NOT_BLANK]
BudgetName = Annotated[str, _name(100, CONTROLS), NOT_BLANK]
CallerName = Annotated[str, _name(100, CONTROLS_AND_COMMAS), NOT_BLANK]
"""The name of a key or a person. The settings list keys with colons and commas between their parts."""
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Reference = Annotated[str, Field(pattern="^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
"""An id in a request's body or query. Those of paths need no pattern: what is no id gets 404."""
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="UTC, ISO 8601 with Z")]


def iso(milliseconds: int) -> str:
    """Format milliseconds UTC as ISO 8601 with `Z`."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
