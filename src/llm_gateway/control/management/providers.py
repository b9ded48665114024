"""Endpoints that create, list, get, patch, delete and test providers. API keys are stored and never returned."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema
from pydantic.config import JsonDict

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.management import base_url as base_urls
from llm_gateway.control.management.fields import STRICT, WHOLE, Id, Text, Timestamp, iso
from llm_gateway.control.management.probe import Probe
from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import Invalid
from llm_gateway.providers.presets import Preset
from llm_gateway.providers.prices import KINDS as PRICE_KINDS
from llm_gateway.providers.prices import MAX_USD_PER_MILLION, from_operator
from llm_gateway.providers.registry import DIALECTS, all_protocols, kind_of, protocols_problem
from llm_gateway.store.identifiers import missing
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.suggestions import if_meant
from llm_gateway.upstream.egress import AddressRefused, Egress

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
        description="The base URL as the vendor's own SDK spells it. Required unless the name is a preset's.",
    ),
]
Models = Annotated[list[Model], Field(min_length=1, max_length=1000, description="the first is the default model")]
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

EXAMPLE: JsonDict = {
    "name": "openai",
    "display_name": "OpenAI",
    "api_key": "your-key",
    "models": ["gpt-4o-mini", "gpt-4o"],
    "rate_limit_rpm": 500,
}


class ProviderCreate(BaseModel):
    """Fields of a new provider."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    name: Name
    display_name: Text
    api_key: Key
    models: Models
    base_url: BaseUrl | None = None
    is_enabled: bool = True
    rate_limit_rpm: Limit = 60
    rate_limit_tpm: Limit = 100_000
    priority: Priority = 10
    kind: Kind | None = None
    prices: Prices | None = None
    timeout_s: Timeout = 60.0
    protocols: Protocols | None = None


def _without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from a patch's schema: a field that is not sent does not change."""
    for field in schema["properties"].values():
        field.pop("default", None)


class ProviderPatch(BaseModel):
    """Changes of a provider; fields that are not sent stay. `base_url`, `kind`, `prices`, `protocols` can be null."""

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


class ProviderOut(BaseModel):
    """A provider as the API returns it, without its key."""

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


def _shown(provider: Provider) -> ProviderOut:
    return ProviderOut(
        id=provider.id,
        name=provider.name,
        display_name=provider.display_name,
        base_url=provider.base_url,
        models=list(provider.models),
        is_enabled=provider.is_enabled,
        rate_limit_rpm=provider.rate_limit_rpm,
        rate_limit_tpm=provider.rate_limit_tpm,
        priority=provider.priority,
        created_at=iso(provider.created_at_ms),
        updated_at=iso(provider.updated_at_ms),
        kind=provider.kind,
        prices=provider.prices,
        timeout_s=provider.timeout_s,
        protocols=None if provider.protocols is None else list(provider.protocols),
    )


class ProviderTest(BaseModel):
    """Result of a provider's test; on failure `error` says what is wrong and what to do."""

    success: bool
    error: str | None


class ProviderRules:
    """Validation of a provider beyond the types of its fields: base URL, prices, protocols, reuse of its key."""

    def __init__(self, presets: dict[str, Preset], egress: Egress, local_url: Callable[[], str | None]) -> None:
        self._presets = presets
        self._egress = egress
        self._local_url = local_url

    def kind_of(self, name: str, kind: str | None) -> str:
        """Return the provider's dialect: `kind` if it is given, else that of the preset `name`, else the default."""
        return kind_of(name, kind, self._presets)

    def check(
        self, name: str, kind: str, base_url: str | None, prices: Prices | None, protocols: Sequence[str] | None
    ) -> None:
        """Check the base URL, the prices and the protocols of a provider.

        Raises:
            Invalid: one is not valid; the message says what to change.
        """
        self._check_protocols(kind, protocols or ())
        for model, price in (prices or {}).items():
            try:
                from_operator(price)
            except ValueError as error:
                raise Invalid(f"prices of {model!r}: {error}.", loc=("body", "prices", model)) from None
        preset = self._presets.get(name)
        if base_url is not None:
            self._check_url(base_url)
        elif kind == "local":
            if self._local_url() is None:
                raise Invalid(
                    "The embedded local model is not running: set LLM_GATEWAY_LOCAL_MODEL=true and restart.",
                    loc=("body", "kind"),
                )
        elif preset is None or preset.base_url is None:
            names = ", ".join(sorted(self._presets))
            raise Invalid(
                f"base_url is required, since {name!r} is not the name of a known vendor: set base_url, or use one of "
                f"the names {names}.{if_meant(name, self._presets)}",
                loc=("body", "base_url"),
            )
        elif preset.base_url.startswith("http:"):  # a server of the operator; the others are public
            self._check_url(preset.base_url)

    def _check_protocols(self, kind: str, protocols: Sequence[str]) -> None:
        dialect = DIALECTS.get(kind)  # None: stored by another version; such a provider can still be renamed
        problem = protocols_problem(kind, protocols, dialect) if dialect is not None else None
        if problem is not None:
            raise Invalid(f"protocols: {problem}", loc=("body", "protocols"))

    def _check_url(self, base_url: str) -> None:
        problem = base_urls.problem_of(base_url)
        if problem is None:
            try:
                self._egress.check(base_url)
            except AddressRefused as error:
                problem = str(error)
        if problem is not None:
            raise Invalid(f"base_url: {problem}", loc=("body", "base_url"))

    def needs_key_again(self, before: tuple[str, str | None], after: tuple[str, str | None]) -> bool:
        """Return True if the change of origin requires the API key to be sent again.

        In production a stored key is never sent to an origin other than the one it was entered for. `before` and
        `after` are (name, base_url).
        """
        return self._egress.strict and self._origin(*before) != self._origin(*after)

    def _origin(self, name: str, base_url: str | None) -> tuple[str, str | None, int | None] | None:
        preset = self._presets.get(name)
        url = base_url or (preset.base_url if preset else None)
        if url is None:
            return None
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port


KEY_NEEDED = "api_key is required when the origin of the base URL (scheme, host or port) changes."


def providers_router(store: ProviderStore, config: LiveConfiguration, rules: ProviderRules, probe: Probe) -> APIRouter:
    """Build the endpoints of providers. A change is in force before its response is sent."""
    router = APIRouter(prefix="/api/v1/providers", tags=["providers"])

    @router.get("")
    def list_providers() -> list[ProviderOut]:
        return [_shown(provider) for provider in store.list()]

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_provider(body: ProviderCreate) -> ProviderOut:
        fields = _plain(body.model_dump())
        fields["kind"] = rules.kind_of(body.name, body.kind)
        rules.check(body.name, fields["kind"], body.base_url, body.prices, body.protocols)
        created = store.create(ProviderDraft(**fields))
        config.reload()
        return _shown(created)

    @router.get("/{provider_id}", responses=problems(404))
    def get_provider(provider_id: str) -> ProviderOut:
        return _shown(store.get(provider_id))

    @router.patch("/{provider_id}", responses=problems(404, 409, 422))
    def patch_provider(provider_id: str, body: ProviderPatch) -> ProviderOut:
        before = store.get(provider_id)
        changes = _plain(body.model_dump(exclude_unset=True))
        if "kind" in changes or "name" in changes:
            changes["kind"] = rules.kind_of(changes.get("name", before.name), changes.get("kind", before.kind))
        after = msgspec.structs.replace(before, **{name: changes[name] for name in changes if name != "api_key"})
        # Other changes must not fail because of these fields: a provider whose base_url became invalid can be disabled.
        if changes.keys() & {"name", "kind", "base_url", "prices", "protocols"}:
            rules.check(after.name, after.kind, after.base_url, after.prices, after.protocols)
        moved = rules.needs_key_again((before.name, before.base_url), (after.name, after.base_url))
        if moved and "api_key" not in changes:
            raise Invalid(KEY_NEEDED, loc=("body", "api_key"))
        stored = store.update(provider_id, changes) if changes else before
        config.reload()
        return _shown(stored)

    @router.delete("/{provider_id}", status_code=204, response_class=Response, responses=problems(404))
    def delete_provider(provider_id: str) -> None:
        store.delete(provider_id)
        config.reload()

    @router.post("/{provider_id}/test", responses=problems(404, 422))
    async def test_provider(provider_id: str) -> ProviderTest:
        error = await probe(await run_in_threadpool(_in_force, store, config, provider_id))
        return ProviderTest(success=error is None, error=error)

    return router


def _in_force(store: ProviderStore, config: LiveConfiguration, provider_id: str) -> Provider:
    """Return the provider with its target. Reloads the configuration if another process changed the provider.

    Raises:
        NotFound: no provider has this id.
    """
    stored = store.get(provider_id)
    known = config.snapshot.providers.get(stored.name)
    if known is None or known.updated_at_ms != stored.updated_at_ms:
        known = config.reload().providers.get(stored.name)
    if known is None:
        raise missing("provider")
    return known


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a schema's fields to those of the store: the key as text, lists as tuples."""
    if "api_key" in fields:
        fields["api_key"] = fields["api_key"].get_secret_value()
    for name in ("models", "protocols"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    return fields
