"""Schemas of breakdowns and series of usage: their parameters, and their rows as JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llm_gateway.control.management.calendar_period import Bucket
from llm_gateway.control.management.record_schemas import DimensionFilters
from llm_gateway.control.management.usage import digits
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import Invalid
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME, REPORT_DIMENSIONS, TAG_PREFIX
from llm_gateway.store.rollups import Totals
from llm_gateway.store.usage_reports import NAMED
from llm_gateway.suggestions import if_meant

Digits = BeforeValidator(digits)
GROUP_BY = f"{', '.join(DIMENSION_BY_NAME)}, or {TAG_PREFIX}NAME"
Metric = Literal[
    "cost_usd",
    "requests",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cached_requests",
    "error_requests",
    "saved_cost_usd",
]
MONEY: dict[str, str] = {"cost_usd": "cost_nanos", "saved_cost_usd": "saved_cost_nanos"}
"""Metrics in dollars, with the counters that they are shown from."""
GroupBy = Annotated[str | None, Field(max_length=200, description=f"one of {GROUP_BY}")]


class ReportQuery(DimensionFilters):
    """Parameters that breakdowns and series share: the period, and filters that requests must all meet."""

    model_config = ConfigDict(populate_by_name=True)

    start: Annotated[
        str | None,
        Field(
            alias="from",
            max_length=40,
            description="a date, or a date and time; by default 30 days before `to`, or 7 for what is summed from "
            "records: sessions, tags, and customers with another dimension",
        ),
    ] = None
    end: Annotated[
        str | None,
        Field(alias="to", max_length=40, description="the end of the period, no part of it; by default tomorrow"),
    ] = None
    tz: Annotated[str, Field(max_length=64, description="time zone of days, and of dates without an offset")] = "UTC"

    def filters(self) -> dict[str, str]:
        """Return the given filters by the name of their dimension."""
        values = {each.name: getattr(self, each.parameter) for each in REPORT_DIMENSIONS}
        return {name: value for name, value in values.items() if value is not None}


class BreakdownQuery(ReportQuery):
    """Parameters of a breakdown."""

    group_by: Annotated[str, Field(max_length=200, description=f"one or two, separated by a comma, of {GROUP_BY}")] = (
        "model"
    )
    format: Literal["json", "csv"] = "json"
    cursor: Annotated[str | None, Field(max_length=512, description="`next_cursor` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="maximum number of rows"), Digits] = 100


class SeriesQuery(ReportQuery):
    """Parameters of a series."""

    metric: Metric = "cost_usd"
    group_by: GroupBy = None
    bucket: Bucket = "day"
    limit: Annotated[
        int, Field(ge=1, le=50, description="maximum number of groups; the others are one together"), Digits
    ] = 10


class Figures(BaseModel):
    """Figures of a group. `previous_*` are those of the period before, `cost_change` 0.25 for a quarter more since."""

    requests: int
    cached_requests: int
    error_requests: int
    exact_requests: Annotated[int, Field(description="requests whose cost is exact")]
    estimated_requests: Annotated[int, Field(description="requests whose cost is estimated")]
    unpriced_requests: Annotated[int, Field(description="requests without a price, which cost 0 here")]
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float
    saved_cost_usd: Annotated[float, Field(description="what answers from the cache would have cost")]
    avg_latency_ms: float
    previous_requests: int
    previous_cost_usd: float
    cost_change: Annotated[float | None, Field(description="null if the period before cost nothing")]


class BreakdownRow(Figures):
    """Figures of one group: `group` has the value of each dimension, "" for requests without one."""

    group: dict[str, str]
    names: Annotated[dict[str, str], Field(description="names of a key and a team that `group` has by their ids")]


class Breakdown(BaseModel):
    """Rows sorted by cost, then by requests, highest first. `totals` are those of all rows of all pages."""

    start: Annotated[str, Field(serialization_alias="from")]
    end: Annotated[str, Field(serialization_alias="to")]
    previous_from: str
    tz: str
    totals: Figures
    rows: list[BreakdownRow]
    next_cursor: str | None


class SeriesLine(BaseModel):
    """Values of one group, one for each bucket. `name` is null for all other groups together, or without groups.

    `label` is the name of a key or team, of which `name` is the id.
    """

    name: str | None
    label: str | None
    total: float
    values: list[float]


class Series(BaseModel):
    """A metric over time. `buckets` are the first moments of its hours, days or months."""

    metric: str
    group_by: str | None
    bucket: str
    start: Annotated[str, Field(serialization_alias="from")]
    end: Annotated[str, Field(serialization_alias="to")]
    tz: str
    total: float
    buckets: list[str]
    series: list[SeriesLine]


def figures(totals: Totals, before: Totals) -> dict[str, Any]:
    """Return the figures of a group, and its change since the period before."""
    cost_before = before.cost_nanos
    return {
        **{name: getattr(totals, name) for name in _COUNTS},
        **{name: getattr(totals, counter) / NANOS_PER_USD for name, counter in MONEY.items()},
        "avg_latency_ms": totals.avg_latency_ms,
        "previous_requests": before.requests,
        "previous_cost_usd": cost_before / NANOS_PER_USD,
        "cost_change": (totals.cost_nanos - cost_before) / cost_before if cost_before else None,
    }


def metric_value(metric: Metric, totals: Totals) -> int:
    """Return a metric as an integer: money in nano-dollars."""
    value: int = getattr(totals, MONEY.get(metric, metric))
    return value


def metric_counters(metric: Metric) -> tuple[str, ...]:
    """Return the counters that a metric is made of, and that of the requests, by which a group is known to be there."""
    own = ("input_tokens", "output_tokens") if metric == "total_tokens" else (MONEY.get(metric, metric),)
    return own if "requests" in own else ("requests", *own)


def shown_metric(metric: Metric, value: int) -> float:
    """Return a metric as the API shows it."""
    return value / NANOS_PER_USD if metric in MONEY else value


def unknown_dimension(name: str) -> Invalid:
    """Return the error for a dimension that does not exist."""
    meant = if_meant(name, DIMENSION_BY_NAME)
    return Invalid(
        f"group_by takes {GROUP_BY}; two of them are separated by a comma.{meant}", loc=("query", "group_by")
    )


def csv_row(names: Sequence[str], row: Mapping[str, Any]) -> list[str]:
    """Return a breakdown's row as cells: the group's values, names of keys and teams, figures; money exactly."""
    labels = (csv_text(row["names"].get(name, "")) for name in names if name in NAMED)
    return [*(csv_text(row["group"][name]) for name in names), *labels, *(_cell(name, row[name]) for name in FIGURES)]


def csv_header(names: Sequence[str]) -> list[str]:
    """Return the names of the cells of `csv_row`."""
    return [*names, *(f"{name}_name" for name in names if name in NAMED), *FIGURES]


def csv_text(text: str) -> str:
    """Return a text that a spreadsheet does not run as a formula (OWASP, CSV injection): `'` goes before such a one."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def money(nanos: int) -> str:
    """Return nano-dollars as an exact decimal of dollars."""
    sign, nanos = "-" if nanos < 0 else "", abs(nanos)
    return f"{sign}{nanos // NANOS_PER_USD}.{nanos % NANOS_PER_USD:09d}"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return money(round(value * NANOS_PER_USD)) if name.endswith("cost_usd") else str(value)


FIGURES = tuple(Figures.model_fields)
_COUNTS = (
    *("requests", "cached_requests", "error_requests", "exact_requests", "estimated_requests", "unpriced_requests"),
    *("input_tokens", "output_tokens", "total_tokens"),
)
