"""Dimensions of the usage reports as SQL: the texts of records, and the sums that hold them.

Which dimensions there are is the table of `domain/report_dimensions.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import func

from llm_gateway.domain.report_dimensions import DIMENSIONS
from llm_gateway.store import cube
from llm_gateway.store.tables import usage_records

TAG_PREFIX = "tag:"
"""Start of the name of a dimension over the values of one tag, such as `tag:project`."""

Text: TypeAlias = sa.ColumnElement[Any]

_of = usage_records.c


class Source(Enum):
    """The sums that hold a dimension's values beside the records themselves."""

    CUBE = "cube"
    CUSTOMERS = "customers"
    RECORDS = "records"


class ReportDimension(NamedTuple):
    """A dimension: its name in the API, the parameter that filters by it, its text in a record, and where its sums are.

    A record without a value has the text "".
    """

    name: str
    parameter: str
    text: Text
    source: Source

    @property
    def is_of_attempts(self) -> bool:
        """True if attempts of one record can differ in it, so that money counts where each attempt spent it."""
        return self.name in _OF_ATTEMPTS


def _text_of(columns: tuple[str, ...]) -> Text:
    """Return a record's value: that of the first column that is not null, else an empty text."""
    found = [_of[name] for name in columns]
    if found[-1].nullable:
        return func.coalesce(*found, "")
    return func.coalesce(*found) if len(found) > 1 else found[0]


_OF_ATTEMPTS = frozenset(dimension.name for dimension in cube.ATTEMPT_DIMENSIONS)

REPORT_DIMENSIONS = tuple(
    ReportDimension(each.name, each.filter, _text_of(each.columns), Source(each.sums)) for each in DIMENSIONS
)
"""All dimensions but tags, in the order in which the API lists them."""

DIMENSION_BY_NAME = {dimension.name: dimension for dimension in REPORT_DIMENSIONS}
DIMENSION_BY_PARAMETER = {dimension.parameter: dimension for dimension in REPORT_DIMENSIONS}


def tag_dimension(tag: str, *, is_sqlite: bool) -> ReportDimension:
    """Return the dimension over the values of one tag."""
    return ReportDimension(f"{TAG_PREFIX}{tag}", "tag", tag_value(tag, is_sqlite=is_sqlite), Source.RECORDS)


def tag_value(tag: str, *, is_sqlite: bool) -> Text:
    """Return a record's value of a tag, "" without it. The tag's name has no double quotes (`gate/headers.py`)."""
    value: Text = (
        func.json_extract(_of.tags, f'$."{tag}"')
        if is_sqlite
        else func.json_extract_path_text(sa.cast(_of.tags, sa.JSON), tag)
    )
    return func.coalesce(value, "")
