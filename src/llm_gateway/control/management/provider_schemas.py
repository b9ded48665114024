"""Fields of providers in the API: their types and bounds, and the schemas of requests and responses."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from llm_gateway.control.management import base_url as base_urls
from llm_gateway.control.management.fields import STRICT, TEXT_PATTERN, WHOLE, Id, Text, Timestamp
from llm_gateway.providers.prices import KINDS as PRICE_KINDS
from llm_gateway.providers.prices import MAX_USD_PER_MILLION
from llm_gateway.providers.registry import DIALECTS, all_protocols
from llm_gateway.routing.route import AUTO
from llm_gateway.suggestions import if_meant

_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


def _sendable(key: SecretStr) -> SecretStr:
    """Return the key if it is a valid header value; requests to the provider would all fail with another.

    Raises:
        ValueError: it is not printable ASCII, or has leading or trailing blanks.
    """
    if not _SENDABLE.fullmatch(key.get_secret_value()):
        raise ValueError("must be printable ASCII without blanks at either end")
    return key


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="unique short id")]
Model = Text
Key = Annotated[
    SecretStr,
    Field(min_length=1, max_length=4096, json_schema_extra={"pattern": f"^{_SENDABLE.pattern}$"}),
    AfterValidator(_sendable),
]
BaseUrl = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": base_urls.PATTERN, "maxLength": base_urls.MAX_CHARACTERS},
        description="The base URL as the vendor's own SDK spells it; null: that of the preset or of the kind's vendor.",
    ),
]


def _each_model_once(models: list[str]) -> list[str]:
    """Return the models; one that is listed twice would be tried twice.

    Raises:
        ValueError: the list names a model twice.
    """
    if len({*models}) < len(models):
        twice = next(model for place, model in enumerate(models) if model in models[:place])
        raise ValueError(f"{twice!r} is named twice; name it once")
    return models


Models = Annotated[
    list[Model],
    Field(
        min_length=1,
        max_length=1000,
        description="the first is the default model",
        json_schema_extra={"uniqueItems": True},
    ),
    AfterValidator(_each_model_once),
]
Limit = Annotated[int, Field(ge=1, le=2**53), WHOLE]
Priority = Annotated[int, Field(ge=-(2**31), le=2**31 - 1, description="higher is preferred"), WHOLE]
Timeout = Annotated[float, Field(ge=0.001, le=3600, description="seconds for one attempt")]
MOST_PRICES = 1000


def _few(prices: Any) -> Any:
    """Reject too many prices before pydantic validates each of them.

    Raises:
        ValueError: there are more than `MOST_PRICES`.
    """
    if isinstance(prices, dict) and len(prices) > MOST_PRICES:
        raise ValueError(f"at most {MOST_PRICES} models have prices")
    return prices


Prices = Annotated[
    dict[str, dict[str, float]],
    BeforeValidator(_few),
    WithJsonSchema(
        {
            "type": "object",
            "description": "USD per million tokens, by model, then by kind of token.",
            "maxProperties": MOST_PRICES,
            "additionalProperties": {
                "type": "object",
                "properties": {
                    kind: {"type": "number", "minimum": 0, "maximum": MAX_USD_PER_MILLION} for kind in PRICE_KINDS
                },
                "required": ["input", "output"],
                "additionalProperties": False,
            },
            "examples": [{"gpt-4o-mini": {"input": 0.15, "output": 0.6}}],
        }
    ),
]


def _listed(name: str, known: Collection[str]) -> str:
    """Return the known names, without a full stop, or followed by a question that suggests one."""
    return f"{', '.join(known)}.{if_meant(name, known)}".removesuffix(".")


def _known_kind(kind: str) -> str:
    if kind not in DIALECTS:
        raise ValueError(f"there is no provider kind {kind[:60]!r}: choose from {_listed(kind, DIALECTS)}")
    return kind


def _each_once(protocols: list[str]) -> list[str]:
    for place, protocol in enumerate(protocols):
        if protocol not in all_protocols():
            raise ValueError(
                f"there is no protocol {protocol[:60]!r}: choose from {_listed(protocol, all_protocols())}"
            )
        if protocol in protocols[:place]:
            raise ValueError(f"{protocol} is named twice; name it once")
    return protocols


Kind = Annotated[
    str,
    AfterValidator(_known_kind),
    WithJsonSchema({"type": "string", "enum": list(DIALECTS), "description": "The provider's API dialect."}),
]
Protocols = Annotated[
    list[str],
    Field(min_length=1),
    AfterValidator(_each_once),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "enum": list(all_protocols())},
            "minItems": 1,
            "uniqueItems": True,
            "description": "Protocols of its kind that the provider supports; null: those of its preset or kind.",
        }
    ),
]

NAME_SCHEMA: JsonDict = {"minLength": 1, "maxLength": 200, "pattern": TEXT_PATTERN}
"""The limits of `Text`, for JSON Schemas that pydantic does not derive."""
MAX_ALIASES = 100
MAX_TOKENS = 1_000_000_000


def _aliases(aliases: Any) -> Any:
    """Reject too many aliases before pydantic validates each of them.

    Raises:
        ValueError: there are more than `MAX_ALIASES`, or one is a reserved name.
    """
    if isinstance(aliases, dict):
        if len(aliases) > MAX_ALIASES:
            raise ValueError(f"at most {MAX_ALIASES} aliases; a glob such as claude-* stands for many names")
        if AUTO in aliases:
            raise ValueError(f"{AUTO!r} cannot be an alias: it leaves the choice to the gateway")
    return aliases


Aliases = Annotated[
    dict[Text, Model],
    BeforeValidator(_aliases),
    WithJsonSchema(
        {
            "type": "object",
            "description": "Further names of its models: a name, or a glob in which * stands for any characters.",
            "maxProperties": MAX_ALIASES,
            "propertyNames": NAME_SCHEMA | {"not": {"const": AUTO}},
            "additionalProperties": {"type": "string"} | NAME_SCHEMA,
            "examples": [{"claude-*-haiku*": "gpt-5-mini"}],
        }
    ),
]
_Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), WHOLE]


def _token_limit(value: Any) -> Any:
    """Reject what is neither a number nor an object, with one message instead of one for each type.

    Raises:
        ValueError: the value is neither, or names too many models.
    """
    if isinstance(value, dict):
        if len(value) > MOST_PRICES:
            raise ValueError(f"at most {MOST_PRICES} models")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        message = "must be a whole number of tokens, or an object of model names and numbers of tokens"
        raise ValueError(message)  # noqa: TRY004 -- pydantic reports a ValueError as an invalid field
    return value


def _kind_of_limit(value: Any) -> str:
    return "by_model" if isinstance(value, dict) else "all_models"


TokenLimit = Annotated[
    Annotated[_Tokens, Tag("all_models")] | Annotated[dict[Model, _Tokens], Tag("by_model")],
    Discriminator(_kind_of_limit),
    BeforeValidator(_token_limit),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS},
                {
                    "type": "object",
                    "maxProperties": MOST_PRICES,
                    "propertyNames": NAME_SCHEMA,
                    "additionalProperties": {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS},
                },
            ],
            "description": "Tokens, for all its models or by model.",
        }
    ),
]

EXAMPLE: JsonDict = {
    "name": "openai",
    "display_name": "OpenAI",
    "api_key": "your-key",
    "models": ["gpt-4o-mini", "gpt-4o"],
    "rate_limit_rpm": 500,
}


def _without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from a patch's schema: a field that is not sent does not change."""
    for field in schema["properties"].values():
        field.pop("default", None)


class ProviderPatch(BaseModel):
    """Changes of a provider; fields that are not sent stay. Fields whose default is null can be set to null."""

    model_config = ConfigDict(**STRICT, json_schema_extra=_without_defaults)

    name: Name = Field(default="")
    display_name: Text = Field(default="")
    api_key: Key = Field(default=SecretStr(""))
    models: Models = Field(default=[])
    base_url: BaseUrl | None = None
    is_enabled: bool = True
    rate_limit_rpm: Limit = 60
    rate_limit_tpm: Limit = 100_000
    priority: Priority = 10
    kind: Kind | None = None
    prices: Prices | None = None
    timeout_s: Timeout = 60.0
    protocols: Protocols | None = None
    model_aliases: Aliases | None = None
    context_window: TokenLimit | None = None
    max_output_tokens: TokenLimit | None = None
    trace: bool = False


class ProviderCreate(ProviderPatch):
    """Fields of a new provider."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    # Required here; a field that is declared again keeps its place in the schema.
    name: Name
    display_name: Text
    api_key: Key
    models: Models


class ProviderOut(BaseModel):
    """A provider as the API returns it, without its key. `warnings` are sentences about a likely mistake."""

    id: Id
    name: str
    display_name: str
    base_url: str | None
    models: list[str]
    is_enabled: bool
    rate_limit_rpm: int
    rate_limit_tpm: int
    priority: int
    created_at: Timestamp
    updated_at: Timestamp
    kind: str
    prices: Prices | None
    timeout_s: float
    protocols: Protocols | None
    effective_base_url: str | None
    model_aliases: Aliases | None
    context_window: TokenLimit | None
    max_output_tokens: TokenLimit | None
    trace: bool
    warnings: list[str]


class ProviderTest(BaseModel):
    """Result of a provider's test; on failure `error` says what is wrong and what to do."""

    success: bool
    error: str | None
