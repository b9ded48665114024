"""Providers: create, list, get, patch, delete. Keys go in and never come out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from llm_gateway.api.fields import STRICT, Text, Timestamp, Whole, iso
from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import Invalid
from llm_gateway.pipeline.transport import AddressRefused, Egress
from llm_gateway.providers.base import KINDS, Vendor
from llm_gateway.providers.prices import from_operator
from llm_gateway.store.live import Live
from llm_gateway.store.providers import ProviderDraft, ProviderStore

_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


def _sendable(key: SecretStr) -> SecretStr:
    """A key that fits in a header; what does not would fail at every call."""
    if not _SENDABLE.fullmatch(key.get_secret_value()):
        raise ValueError("a key is printable ASCII without blanks around it")
    return key


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="unique short id")]
Model = Text
Key = Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_sendable)]
Models = Annotated[list[Model], Field(min_length=1, max_length=1000, description="the first is the default model")]
Limit = Annotated[Whole, Field(ge=1, le=2**53)]
Priority = Annotated[Whole, Field(ge=-(2**31), le=2**31 - 1, description="higher is preferred")]
Timeout = Annotated[float, Field(gt=0, le=3600, description="seconds for one attempt")]
Prices = dict[str, dict[str, float]]
Kind = Literal["openai", "local"]

# What every parser reads as the same host: the one that is checked is the one that is called.
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


class ProviderCreate(BaseModel):
    """What a new provider needs."""

    model_config = STRICT

    name: Name
    display_name: Text
    api_key: Key
    models: Models
    base_url: str | None = None
    is_enabled: bool = True
    rate_limit_rpm: Limit = 60
    rate_limit_tpm: Limit = 100_000
    priority: Priority = 10
    kind: Kind | None = None
    prices: Prices | None = None
    timeout_s: Timeout = 60.0


class ProviderPatch(BaseModel):
    """What may change; what is not sent stays. Only `base_url`, `kind` and `prices` may be null."""

    model_config = STRICT

    name: Name = Field(default="")
    display_name: Text = Field(default="")
    api_key: Key = Field(default=SecretStr(""))
    models: Models = Field(default=[])
    base_url: str | None = None
    is_enabled: bool = True
    rate_limit_rpm: Limit = 60
    rate_limit_tpm: Limit = 100_000
    priority: Priority = 10
    kind: Kind | None = None
    prices: Prices | None = None
    timeout_s: Timeout = 60.0


class ProviderOut(BaseModel):
    """A provider as it is shown: everything but the key."""

    id: str
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
    )


class ProviderRules:
    """What a provider must be to be saved, beyond the types of its fields."""

    def __init__(self, vendors: dict[str, Vendor], egress: Egress, local_url: Callable[[], str | None]) -> None:
        self._vendors = vendors
        self._egress = egress
        self._local_url = local_url

    def kind_of(self, name: str, kind: str | None) -> str:
        """The dialect: the one that was said, else the preset's, else OpenAI's.

        Raises:
            Invalid: the preset speaks a dialect this version does not.
        """
        vendor = self._vendors.get(name)
        found = kind or (vendor.kind if vendor else "openai")
        if found not in KINDS:
            raise Invalid(
                f"The preset {name!r} speaks {found!r}, which this version does not; it speaks {', '.join(KINDS)}.",
                loc=("body", "name"),
            )
        return found

    def check(self, name: str, kind: str, base_url: str | None, prices: Prices | None) -> None:
        """The base URL and the prices fit.

        Raises:
            Invalid: with a sentence that says what to change.
        """
        for model, price in (prices or {}).items():
            try:
                from_operator(price)
            except ValueError as error:
                raise Invalid(f"prices of {model!r}: {error}.", loc=("body", "prices", model)) from None
        vendor = self._vendors.get(name)
        if base_url is not None:
            self._check_url(base_url)
        elif kind == "local":
            if self._local_url() is None:
                raise Invalid(
                    "The embedded local model is not running: set LLM_GATEWAY_LOCAL_MODEL=true and restart.",
                    loc=("body", "kind"),
                )
        elif vendor is None or vendor.base_url is None:
            names = ", ".join(sorted(self._vendors))
            raise Invalid(f"base_url is needed, unless the name is one of {names}.", loc=("body", "base_url"))
        elif vendor.base_url.startswith("http:"):  # a server of the operator's own; the others are public vendors
            self._check_url(vendor.base_url)

    def _check_url(self, base_url: str) -> None:
        problem = _url_problem(base_url)
        if problem is None:
            try:
                self._egress.check(base_url)
            except AddressRefused as error:
                problem = str(error)
        if problem is not None:
            raise Invalid(f"base_url: {problem}", loc=("body", "base_url"))

    def needs_key_again(self, before: tuple[str, str | None], after: tuple[str, str | None]) -> bool:
        """In production a key is not sent to another origin than the one it was given for.

        `before` and `after` are (name, base_url) each.
        """
        return self._egress.strict and self._origin(*before) != self._origin(*after)

    def _origin(self, name: str, base_url: str | None) -> tuple[str, str | None, int | None] | None:
        vendor = self._vendors.get(name)
        url = base_url or (vendor.base_url if vendor else None)
        if url is None:
            return None
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "it is no URL."
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > 2000:
        return "it must be an absolute http or https URL."
    if "?" in url or "#" in url or "@" in parts.netloc:
        return "it must have no query, fragment or credentials."
    if not url.isascii() or any(ord(character) <= 32 or ord(character) == 127 for character in url):
        return "it must be ASCII without blanks or control characters; an international name starts with xn--."
    if not _HOST.fullmatch(parts.netloc):
        return "its host is not a name or an address."
    return None


def providers_router(store: ProviderStore, live: Live, rules: ProviderRules) -> APIRouter:
    """CRUD of providers. A change is in force for the next request when its answer is sent."""
    router = APIRouter(prefix="/api/v1/providers", tags=["providers"])

    @router.get("")
    def list_providers() -> list[ProviderOut]:
        return [_shown(provider) for provider in store.list()]

    @router.post("", status_code=201)
    def create_provider(body: ProviderCreate) -> ProviderOut:
        fields = _plain(body.model_dump())
        fields["kind"] = rules.kind_of(body.name, body.kind)
        rules.check(body.name, fields["kind"], body.base_url, body.prices)
        created = store.create(ProviderDraft(**fields))
        live.reload()
        return _shown(created)

    @router.get("/{provider_id}")
    def get_provider(provider_id: str) -> ProviderOut:
        return _shown(store.get(provider_id))

    @router.patch("/{provider_id}")
    def patch_provider(provider_id: str, body: ProviderPatch) -> ProviderOut:
        before = store.get(provider_id)
        changes = _plain(body.model_dump(exclude_unset=True))
        name = changes.get("name", before.name)
        if "kind" in changes or "name" in changes:
            changes["kind"] = rules.kind_of(name, changes.get("kind", before.kind))
        base_url = changes.get("base_url", before.base_url)
        # A change that has to do with none of these must not fail for them: disabling what moved, say.
        if changes.keys() & {"name", "kind", "base_url", "prices"}:
            rules.check(name, changes.get("kind", before.kind), base_url, changes.get("prices", before.prices))
        moved = rules.needs_key_again((before.name, before.base_url), (name, base_url))
        if moved and "api_key" not in changes:
            raise Invalid("A new origin needs the api_key again.", loc=("body", "api_key"))
        after = store.update(provider_id, changes) if changes else before
        live.reload()
        return _shown(after)

    @router.delete("/{provider_id}", status_code=204, response_class=Response)
    def delete_provider(provider_id: str) -> None:
        store.delete(provider_id)
        live.reload()

    return router


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as the store takes them."""
    if "api_key" in fields:
        fields["api_key"] = fields["api_key"].get_secret_value()
    if "models" in fields:
        fields["models"] = tuple(fields["models"])
    return fields
