"""Fields of service keys and teams in the API: their types and bounds, and the schemas of requests and responses."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from llm_gateway.control.management.fields import (
    STRICT,
    TEXT_PATTERN,
    WHOLE,
    CallerName,
    Id,
    Reference,
    Text,
    Timestamp,
)
from llm_gateway.domain.stored_key import Allowed, Fixed
from llm_gateway.gate.headers import MAX_TAG_CHARACTERS, MAX_TAGS

MOST_GLOBS, MOST_WILDCARDS, MAX_CHARACTERS = 100, 8, 256
"""Globs of a list, wildcards of a glob, and characters of a glob or value at most: each call compares them."""
MAX_COUNT = 2**53
MAX_USD = 1_000_000
MAX_OVERLAP_S = 90 * 24 * 3600
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]*")
_TAG_KEY = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}")
_TAG_VALUE = re.compile(rf"[^,=\x00-\x1f\x7f]{{0,{MAX_TAG_CHARACTERS}}}")
_LAST_SECOND = datetime(9999, 1, 1, tzinfo=UTC)

Scope = Literal["call", "read", "admin", "own"]


def _value(value: Any) -> str:
    """Return a glob or a value.

    Raises:
        ValueError: it is too long, or has control characters.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CHARACTERS or not _PLAIN.fullmatch(value):
        message = f"takes texts of 1 to {MAX_CHARACTERS} characters, without control characters"
        raise ValueError(message)
    return value


def _allowed(value: Any) -> Allowed:
    """Return an allow-list.

    Raises:
        ValueError: it is neither a list of globs nor a fixed value, or too long.
    """
    if isinstance(value, Fixed):
        return value
    if isinstance(value, dict):
        if value.keys() != {"fixed"}:
            raise ValueError('must be a list of globs, or {"fixed": "a value"}')
        fixed = _value(value["fixed"])
        if fixed.isspace():
            raise ValueError("fixed must not be blank")
        return Fixed(fixed)
    if not isinstance(value, list | tuple):
        message = 'must be a list of globs, or {"fixed": "a value"}'
        raise ValueError(message)  # noqa: TRY004 -- pydantic reports a ValueError as an invalid field
    if not 1 <= len(value) <= MOST_GLOBS:
        raise ValueError(f"takes 1 to {MOST_GLOBS} globs, such as team-*; null allows all")
    for glob in value:
        if _value(glob).count("*") > MOST_WILDCARDS:
            raise ValueError(f"a glob has at most {MOST_WILDCARDS} wildcards")
    return tuple(value)


def _tags(value: Any) -> dict[str, str]:
    """Return tags, within the limits of the header x-tags.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(value, dict) or len(value) > MAX_TAGS:
        raise ValueError(f"must be an object of at most {MAX_TAGS} tags")
    for name, text in value.items():
        if not _TAG_KEY.fullmatch(name) or not isinstance(text, str) or not _TAG_VALUE.fullmatch(text):
            message = (
                f"takes names of 1 to {MAX_TAG_CHARACTERS} letters, digits, '.', '_' or '-', and values of up to "
                f"{MAX_TAG_CHARACTERS} characters without ',', '=' and control characters"
            )
            raise ValueError(message)
    return value


def _moment(value: Any) -> int:
    """Return the milliseconds UTC of a date and time.

    Raises:
        ValueError: it is not one, or has no time zone.
    """
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None and moment < _LAST_SECOND:
            return int(moment.timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        pass
    message = "must be a date and time with its time zone, such as 2027-01-31T12:00:00Z"
    raise ValueError(message)


_VALUE: JsonDict = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_CHARACTERS,
    "pattern": r"^[^\x00-\x1f\x7f]*$",
}
_ALLOW_LIST = WithJsonSchema(
    {
        "anyOf": [
            {
                "type": "array",
                "minItems": 1,
                "maxItems": MOST_GLOBS,
                "items": {
                    **_VALUE,
                    "pattern": rf"^([^*\x00-\x1f\x7f]*\*){{0,{MOST_WILDCARDS}}}[^*\x00-\x1f\x7f]*$",
                },
            },
            {
                "type": "object",
                "properties": {"fixed": {**_VALUE, "pattern": TEXT_PATTERN}},
                "required": ["fixed"],
                "additionalProperties": False,
            },
        ],
        "description": "Globs, in which * stands for any characters, or the one value of all requests.",
        "examples": [["team-*"], {"fixed": "batch"}],
    }
)
AllowList = Annotated[Any, BeforeValidator(_allowed), _ALLOW_LIST]
ShownAllowList = Annotated[Any, _ALLOW_LIST]
Tags = Annotated[
    Any,
    BeforeValidator(_tags),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_TAGS,
            "propertyNames": {"pattern": f"^{_TAG_KEY.pattern}$"},
            "additionalProperties": {"type": "string", "pattern": f"^{_TAG_VALUE.pattern}$"},
            "description": "Labels of all usage records of the key. They win over those of x-tags.",
        }
    ),
]
Moment = Annotated[
    Any,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "ISO 8601, with its time zone"}),
]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), WHOLE]
Scopes = Annotated[
    list[Scope],
    Field(min_length=1, max_length=4, json_schema_extra={"uniqueItems": True}),
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""REASONING_EFFORTS of `domain/conversation.py`."""
EXAMPLE: JsonDict = {"name": "shop", "scopes": ["call"], "models": ["gpt-4o-mini"], "rpm": 600}


def _without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from a patch's schema: a field that is not sent does not change."""
    for field in schema["properties"].values():
        field.pop("default", None)


class KeyFields(BaseModel):
    """Rights and limits of a key."""

    model_config = ConfigDict(**STRICT)

    name: CallerName = Field(default="")
    scopes: Scopes = Field(default=["call"])
    owner: Text | None = None
    customers: AllowList | None = None
    services: AllowList | None = None
    models: AllowList | None = None
    rpm: Annotated[Count | None, Field(description="requests in any 60 seconds")] = None
    tpm: Annotated[Count | None, Field(description="tokens in any 60 seconds")] = None
    max_parallel: Annotated[Count | None, Field(description="requests at once")] = None
    max_tokens: Annotated[Count | None, Field(description="output tokens of a request")] = None
    max_reasoning_effort: Effort | None = None
    max_request_usd: Annotated[float | None, Field(gt=0, le=MAX_USD, description="most that a request may cost")] = None
    tags: Tags = Field(default={})
    expires_at: Moment | None = None
    disabled: bool = False


class KeyPatch(KeyFields):
    """Changes of a key; fields that are not sent stay. Fields whose default is null can be set to null."""

    model_config = ConfigDict(**STRICT, json_schema_extra=_without_defaults)

    team_id: Reference | None = None
    parent_id: Annotated[Reference | None, Field(description="a key that this one cannot exceed")] = None


class KeyCreate(KeyPatch):
    """Fields of a new key."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    name: CallerName


class KeyOut(BaseModel):
    """A key as the API returns it, without its secret. Those with `source` `env` cannot be changed here.

    `source` is `jwt` for a token of an identity provider, which `/me` shows as a key; lists have none.
    """

    id: Id
    name: str
    source: Literal["api", "env", "jwt"]
    scopes: list[str]
    team_id: str | None
    parent_id: str | None
    owner: str | None
    customers: ShownAllowList | None
    services: ShownAllowList | None
    models: ShownAllowList | None
    rpm: int | None
    tpm: int | None
    max_parallel: int | None
    max_tokens: int | None
    max_reasoning_effort: str | None
    max_request_usd: float | None
    tags: dict[str, str]
    expires_at: Timestamp | None
    disabled: bool
    last4: str | None
    last_used_at: Timestamp | None
    created_at: Timestamp | None
    updated_at: Timestamp | None


class KeySpend(BaseModel):
    """Usage of a key since the start of the month (UTC)."""

    since: Timestamp
    cost_usd: float
    tokens: int
    requests: int


class KeyBudget(BaseModel):
    """A budget that requests of a key can count in. `spent`, `limit` and `remaining` are in its unit.

    `spent` is null if the account depends on the request, such as with one for each session.
    """

    name: str
    match: dict[str, str]
    per: str | None
    mode: str
    unit: str
    limit: float
    spent: float | None
    remaining: float | None
    period: str
    resets_at: Timestamp | None


AllOf = Annotated[list[list[str]], Field(description="lists of globs: a value must match one of each")]


class KeyInForce(BaseModel):
    """Rights of a key with what its parents leave it: the tightest of their limits, and all of their lists.

    The requests of a parent's other descendants count in that parent's `rpm`, `tpm` and `max_parallel`, too.
    """

    scopes: list[str]
    team_id: str | None
    customers: AllOf
    services: AllOf
    models: AllOf
    fixed_customer: str | None
    fixed_service: str | None
    fixed_model: str | None
    rpm: int | None
    tpm: int | None
    max_parallel: int | None
    max_tokens: int | None
    max_reasoning_effort: str | None
    max_request_usd: float | None
    tags: dict[str, str]
    expires_at: Timestamp | None


class KeyMe(KeyOut):
    """The key of the request, with what is in force of it and what it spent.

    `spend` is null while older usage is still being summed.
    """

    in_force: KeyInForce
    spend: KeySpend | None
    budgets: list[KeyBudget]


class KeyMade(KeyOut):
    """A key with its new secret, which is shown only now."""

    secret: str


class KeyPage(BaseModel):
    """A page of keys in the order of their creation, those of the environment first."""

    keys: list[KeyOut]
    next_cursor: str | None


class Rotation(BaseModel):
    """Seconds for which the secrets before stay valid: 0 ends them at once."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [{"overlap_s": 3600}]})

    overlap_s: Annotated[float, Field(ge=0, le=MAX_OVERLAP_S)]


class TeamPatch(BaseModel):
    """Changes of a team; fields that are not sent stay."""

    model_config = ConfigDict(**STRICT, json_schema_extra=_without_defaults)

    name: Text = Field(default="")
    description: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")] = ""


class TeamCreate(TeamPatch):
    """Fields of a new team."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [{"name": "core"}]})

    name: Text


class TeamOut(BaseModel):
    """A team as the API returns it."""

    id: Id
    name: str
    description: str
    created_at: Timestamp
    updated_at: Timestamp


class TeamPage(BaseModel):
    """A page of teams in the order of their creation."""

    teams: list[TeamOut]
    next_cursor: str | None
