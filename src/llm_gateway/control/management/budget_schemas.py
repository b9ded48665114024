"""Fields of budgets in the API: their types and bounds, and the schemas of requests and responses."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from llm_gateway.control.management.fields import STRICT, WHOLE, BudgetName, Id, Timestamp
from llm_gateway.control.management.key_schemas import MAX_CHARACTERS, MAX_COUNT, MOST_WILDCARDS, Moment
from llm_gateway.domain.budget import DIMENSIONS
from llm_gateway.suggestions import if_meant

MAX_USD = 1_000_000_000
MONEY_DIGITS = 9
"""Decimals of an amount in USD: the last one is a nano-dollar."""
MOST_CONDITIONS, MOST_THRESHOLDS = 10, 10
TAG = "tag:"
PART_DIGITS = 4
"""Decimals of a part of the limit in `notify_at`."""
_TAG = re.compile(rf"{TAG}[A-Za-z0-9_.-]{{1,64}}")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]*")
_DECIMAL = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")
_KNOWN = f"use {', '.join(DIMENSIONS)} or {TAG}NAME"


def _dimension(value: Any) -> str:
    """Return the name of a dimension.

    Raises:
        ValueError: there is no such dimension.
    """
    if isinstance(value, str) and (value in DIMENSIONS or _TAG.fullmatch(value)):
        return value
    shown = f"{value!r} " if isinstance(value, str) and len(value) <= MAX_CHARACTERS else ""
    hint = if_meant(value, DIMENSIONS) if isinstance(value, str) else ""
    raise ValueError(f"{shown}is no dimension: {_KNOWN}{'.' + hint if hint else ''}")


def _match(value: Any) -> dict[str, str]:
    """Return globs by dimension.

    Raises:
        ValueError: a dimension is not known, or a glob is empty, too long, or has too many wildcards.
    """
    if not isinstance(value, dict) or len(value) > MOST_CONDITIONS:
        raise ValueError(f'must be an object of at most {MOST_CONDITIONS} globs, such as {{"model": "gpt-*"}}')
    for name, glob in value.items():
        _dimension(name)
        if not isinstance(glob, str) or not 1 <= len(glob) <= MAX_CHARACTERS or not _PLAIN.fullmatch(glob):
            raise ValueError(
                f"{name} takes a glob of 1 to {MAX_CHARACTERS} characters, without control characters, such as gpt-*; "
                "leave it out to match all"
            )
        if glob.count("*") > MOST_WILDCARDS:
            raise ValueError(f"{name} takes a glob of at most {MOST_WILDCARDS} wildcards")
    return value


def _nanos(value: Any, least: int = 1) -> int:
    """Return nano-dollars of an amount in USD: a number, or a text, which is exact for any number of digits.

    Raises:
        ValueError: it is no amount, less than `least`, or not a whole number of nano-dollars.
    """
    bound = "above 0" if least else "of at least 0"
    message = f"must be an amount in USD {bound}, up to {MAX_USD:,}, with at most {MONEY_DIGITS} decimals, such as 12.5"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(message)  # noqa: TRY004 -- pydantic reports a ValueError as an invalid field
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError(message)
    try:
        nanos = Decimal(str(value)).scaleb(MONEY_DIGITS)
    except InvalidOperation:
        raise ValueError(message) from None
    if not nanos.is_finite() or not least <= nanos <= MAX_USD * 10**MONEY_DIGITS or nanos != nanos.to_integral_value():
        raise ValueError(message)
    return int(nanos)


def _zone(value: Any) -> str:
    """Return the name of a time zone.

    Raises:
        ValueError: the IANA database has no such zone.
    """
    try:
        if isinstance(value, str) and len(value) <= MAX_CHARACTERS:
            ZoneInfo(value)
            return value
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    message = "is not a time zone: use a name of the IANA database, such as UTC, Europe/Berlin or America/New_York"
    raise ValueError(message)


def _parts(value: Any) -> tuple[float, ...]:
    """Return parts of the limit in ascending order.

    Raises:
        ValueError: there are too many, or one is no number, out of range, or there twice.
    """
    message = f"takes up to {MOST_THRESHOLDS} parts of the limit, above 0 and up to 10, such as [0.5, 0.8, 1.0]"
    if not isinstance(value, list) or len(value) > MOST_THRESHOLDS:
        raise ValueError(message)
    for each in value:
        is_number = isinstance(each, int | float) and not isinstance(each, bool)
        if not is_number or not 0 < each <= 10 or round(each, PART_DIGITS) != each:
            raise ValueError(f"{message}, with at most {PART_DIGITS} decimals")
    if len(set(value)) < len(value):
        raise ValueError("names a part twice: name each once")
    return tuple(sorted(map(float, value)))


_USD: JsonDict = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_USD},
        {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"},
    ],
    "description": "USD with at most nine decimals, as a number or as a text",
}
_USD_OR_ZERO: JsonDict = {
    **_USD,
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": MAX_USD},
        {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"},
    ],
}
_DIMENSION: JsonDict = {
    "anyOf": [{"type": "string", "enum": list(DIMENSIONS)}, {"type": "string", "pattern": f"^{_TAG.pattern}$"}]
}
_GLOB: JsonDict = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_CHARACTERS,
    "pattern": rf"^([^*\x00-\x1f\x7f]*\*){{0,{MOST_WILDCARDS}}}[^*\x00-\x1f\x7f]*$",
}
Usd = Annotated[Any, BeforeValidator(_nanos), WithJsonSchema(_USD)]
Amount = Annotated[int, Field(ge=1, le=MAX_COUNT), WHOLE]
UsdOrZero = Annotated[Any, BeforeValidator(partial(_nanos, least=0)), WithJsonSchema(_USD_OR_ZERO)]
AmountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT), WHOLE]
Dimension = Annotated[Any, BeforeValidator(_dimension), WithJsonSchema(_DIMENSION)]
Match = Annotated[
    Any,
    BeforeValidator(_match),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MOST_CONDITIONS,
            "propertyNames": _DIMENSION,
            "additionalProperties": _GLOB,
            "description": "Globs by dimension, in which * stands for any characters. A request must match all.",
            "examples": [{"model": "gpt-*", "tag:project": "apollo"}],
        }
    ),
]
Zone = Annotated[
    Any,
    BeforeValidator(_zone),
    WithJsonSchema({"type": "string", "description": "a name of the IANA database", "examples": ["Europe/Berlin"]}),
]
Thresholds = Annotated[
    Any,
    BeforeValidator(_parts),
    WithJsonSchema(
        {
            "type": "array",
            "maxItems": MOST_THRESHOLDS,
            "uniqueItems": True,
            "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
            "description": "Parts of the limit at which the webhook gets a message.",
        }
    ),
]
PeriodName = Literal["hour", "day", "week", "month", "quarter", "total"]
EXAMPLE: JsonDict = {"name": "core", "match": {"model": "gpt-*"}, "limit_usd": 100, "notify_at": [0.8, 1.0]}


def _without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from a patch's schema: a field that is not sent does not change."""
    for field in schema["properties"].values():
        field.pop("default", None)


class BudgetPatch(BaseModel):
    """Changes of a budget; fields that are not sent stay. Only `per` can be set to null."""

    model_config = ConfigDict(**STRICT, json_schema_extra=_without_defaults)

    name: BudgetName = Field(default="")
    match: Match = Field(default={})
    per: Annotated[Dimension | None, Field(description="an account for each value; null: one account")] = None
    limit_usd: Usd = Field(default=0)
    limit_tokens: Amount = Field(default=0)
    limit_requests: Amount = Field(default=0)
    period: PeriodName = "month"
    timezone: Zone = Field(default="UTC")
    anchor: Annotated[
        int, Field(ge=0, le=28, description="first day of a month, quarter or week, or hour of a day"), WHOLE
    ] = 0
    carry: Annotated[float, Field(ge=0, le=1, description="part of what is left that is carried over")] = 0.0
    mode: Literal["hard", "soft", "observe"] = "hard"
    hold: Literal["expected", "bound"] = "expected"
    unpriced: Literal["reject", "allow"] = "reject"
    overdraft_usd: UsdOrZero = Field(default=0)
    overdraft_tokens: AmountOrZero = Field(default=0)
    overdraft_requests: AmountOrZero = Field(default=0)
    notify_at: Thresholds = Field(default=())


class BudgetCreate(BudgetPatch):
    """Fields of a new budget. Exactly one of `limit_usd`, `limit_tokens` and `limit_requests` is given."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    name: BudgetName


class OverrideBody(BaseModel):
    """Another limit until a moment, in the unit of the budget."""

    model_config = ConfigDict(
        **STRICT, json_schema_extra={"examples": [{"amount_usd": 150, "until": "2099-01-31T12:00:00Z"}]}
    )

    amount_usd: Usd = Field(default=0)
    amount_tokens: Amount = Field(default=0)
    amount_requests: Amount = Field(default=0)
    until: Moment


class OverrideOut(BaseModel):
    """The limit that holds until a moment."""

    amount: Annotated[float, Field(description="in the unit of the budget")]
    until: Timestamp


class BudgetOut(BaseModel):
    """A budget as the API returns it. Of the limits and overdrafts, the one in its unit is set."""

    id: Id
    name: str
    match: dict[str, str]
    per: str | None
    limit_usd: float | None
    limit_tokens: int | None
    limit_requests: int | None
    period: PeriodName
    timezone: str
    anchor: int | None
    carry: float
    mode: str
    hold: str
    unpriced: str
    overdraft_usd: float | None
    overdraft_tokens: int | None
    overdraft_requests: int | None
    notify_at: list[float]
    override: OverrideOut | None
    counts_from: Annotated[Timestamp, Field(description="all matching requests since then are counted")]
    created_at: Timestamp
    updated_at: Timestamp


class BudgetMade(BudgetOut):
    """A budget after a change, with what is odd about it, such as a match without any request."""

    warnings: list[str]


class BudgetPage(BaseModel):
    """A page of budgets in the order of their creation."""

    budgets: list[BudgetOut]
    next_cursor: str | None


class LeaseOut(BaseModel):
    """A part of an account that one of several hosts may still use, requests in flight and not yet stored included."""

    host: Annotated[str, Field(description="id of the host, as `/hosts` lists it")]
    amount: float


class AccountOut(BaseModel):
    """An account in the current period. `spent`, `limit` and `remaining` are in the unit of the budget."""

    value: Annotated[str, Field(description="value of `per`, empty without one")]
    name: Annotated[str | None, Field(description="name of the key or team whose id is the value")]
    spent: float
    limit: float
    remaining: float
    held: Annotated[float, Field(description="what requests in flight at this host may still cost, in the same unit")]
    spent_usd: float
    spent_tokens: int
    spent_requests: int
    notified: Annotated[float, Field(description="highest part of the limit that a message was sent for; 0: none")]
    leased: Annotated[list[LeaseOut], Field(description="what hosts may still use, if several share the budget")]


class AccountPage(BaseModel):
    """A page of the accounts with spending in the current period, those that spent most first.

    `resets_at` is when the next period begins, null for a budget without an end.
    """

    unit: Literal["usd", "tokens", "requests"]
    period: PeriodName
    period_start: Timestamp
    resets_at: Timestamp | None
    counts_from: Timestamp
    accounts: list[AccountOut]
    next_cursor: str | None
