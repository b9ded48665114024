"""Field types that several management schemas share. A schema and its JSON Schema accept the same values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
"""Of a request body: no unknown field, no conversion of types."""


def _whole(value: Any) -> Any:
    """JSON Schema's integers include 1.0, and some languages write every number so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""For an integer; stands after its limits, which the JSON Schema takes from the type before it."""
Label = Annotated[
    str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$", description="1 to 256 characters, none of them NUL")
]
"""A customer's or service's name, as POST /generate takes it."""
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="UTC, ISO 8601 with Z")]


def iso(milliseconds: int) -> str:
    """Milliseconds UTC as ISO 8601 with `Z`."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
