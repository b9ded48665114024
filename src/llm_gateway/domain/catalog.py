"""Configuration types: providers, routing overrides, and the immutable snapshot that serves requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from llm_gateway.domain.key_secret import Hashers
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.domain.service_key import ServiceKeys
from llm_gateway.domain.usage import Price
from llm_gateway.json_outline import Piece

TokensOfModels: TypeAlias = int | dict[str, int]
"""A number of tokens for all models of a provider, or for each model by name."""


class NotAuthorized(Exception):
    """An upstream call cannot be authorised, so it is not sent. The message is safe to log: no keys, no tokens."""


class CallToSign(NamedTuple):
    """The parts of an HTTP request that a signature covers, taken just before it is sent. `url` is absolute.

    `body` is a list of its pieces if it is large.
    """

    method: str
    url: str
    body: bytes | list[Piece]


class UpstreamAuthorizer(Protocol):
    r"""Contract of the object that authorises every call of one account: it makes header lines for one call.

    Only accounts whose headers change from call to call have one: a signature over each request, or a token that
    expires (`RefreshedToken` in `providers/upstream_credentials.py`). A static key is in the target's headers instead.

        class Signature:
            async def __call__(self, call: CallToSign) -> bytes:
                return f"x-signature: {sign(call.method, call.url, call.body)}\r\n".encode()

    Call order: `AccountAssembler` (`providers/account_assembler.py`) makes one for each (provider, address, key) and
    puts it into the snapshot; later snapshots keep it. The connection pool awaits it once before each attempt of a
    request and before each request for the model list, when the body is encoded and nothing is sent yet. It is not
    awaited for an answer from the cache, or for an attempt that a rate limit or a circuit breaker rejects.

    Several calls can await it at once. Its time counts towards the timeout of the call, so do slow work in the
    background where possible. Implement it as a class, since `AccountAssembler` holds instances by weak references.
    """

    async def __call__(self, call: CallToSign) -> bytes:
        """Return the header lines for `call`, each ending in CRLF.

        Raises:
            NotAuthorized: the call cannot be authorised now; the attempt counts as not sent.
        """
        ...


class Target(msgspec.Struct, frozen=True, gc=False):
    """The URLs and headers of a provider's calls, computed once per configuration.

    `root` is an absolute URL without a trailing slash; the path of an `UpstreamCall` is appended to it. `headers`
    include the account's key, unless `authorize` makes header lines for each call. `repr()` shows neither.
    """

    root: str
    models_url: str
    headers: dict[str, str]
    authorize: UpstreamAuthorizer | None = None

    def __repr__(self) -> str:
        return f"Target({self.root!r})"


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A configured upstream account.

    `*_ms` are milliseconds UTC, `timeout_s` is the time limit of one attempt in seconds, `prices` are set by the
    operator (model → kind → USD per million tokens). `protocols` None selects the defaults of the preset or kind.
    `model_aliases` are further names of models: name or glob → one of `models`. `trace`: calls carry the
    trace context of the client's request.

    The fields from `target` on are derived: prices and context windows by `providers/account_resolver.py`, the others
    by `providers/account_assembler.py`. `codecs` holds one `providers.dialect.ProtocolCodec` for each protocol that the
    account speaks, by name; requests in other protocols are translated with `translation_codec`, None if the account
    takes no translations. `required_codec` is the codec of requests that the account takes in one of its protocols
    only, None if there are none. A model without an entry in `price_by_model` has no known price. `price_vendor` is the
    key of the price list in the snapshot's `public_prices` for models that the provider reports in its replies, None
    for a provider without a list. A model without an entry in `context_window_by_model` has a context window of unknown
    size. `rules_by_model` holds a `ModelRules` (`providers/vendor_rules/body_rules.py`) for each model whose vendor has
    words or limits of its own. Only `target` contains the API key.
    """

    id: str
    name: str
    display_name: str
    kind: str
    base_url: str | None
    models: tuple[str, ...]
    is_enabled: bool
    rate_limit_rpm: int
    rate_limit_tpm: int
    priority: int
    timeout_s: float
    created_at_ms: int
    updated_at_ms: int
    prices: dict[str, dict[str, float]] | None = None
    protocols: tuple[str, ...] | None = None
    model_aliases: dict[str, str] | None = None
    context_window: TokensOfModels | None = None
    max_output_tokens: TokensOfModels | None = None
    trace: bool = False
    target: Target | None = None
    codecs: Mapping[str, Any] = {}
    translation_codec: Any = None
    required_codec: Any = None
    price_by_model: dict[str, Price] = {}
    price_vendor: str | None = None
    context_window_by_model: dict[str, int] = {}
    rules_by_model: Mapping[str, Any] = {}

    def max_output_of(self, model: str) -> int | None:
        """Return the operator's limit of output tokens for a model, None without one."""
        limit = self.max_output_tokens
        return limit.get(model) if isinstance(limit, dict) else limit

    @property
    def is_embedded(self) -> bool:
        """Whether this is the model inside the gateway, which is small and meant for trying the gateway out."""
        return self.kind == "local" and self.base_url is None


class Override(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A routing rule for one user: try this provider and model first. `service_name` None applies to all services."""

    id: str
    user_id: str
    service_name: str | None
    provider_name: str
    model_name: str
    allow_fallback: bool
    created_at_ms: int
    updated_at_ms: int


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One (provider, model) that a request can be sent to.

    `price` and `context_window` (in tokens) are None if unknown; `cache_part` keys the cache. `is_required` tests
    whether a request must be written with the provider's `required_codec`; None if none must.
    """

    provider: Provider
    model: str
    price: Price | None
    cache_part: bytes
    is_required: Callable[[Any], bool] | None = None
    context_window: int | None = None

    @classmethod
    def of(cls, provider: Provider, model: str) -> Candidate:
        """Make a candidate: look up what is known of its model, and build its part of the cache key."""
        codec = provider.required_codec
        return cls(
            provider=provider,
            model=model,
            price=provider.price_by_model.get(model),
            cache_part=f"{provider.id}\0{provider.kind}\0{provider.base_url}\0{model}".encode(),
            is_required=None if codec is None else codec.required_for(model),
            context_window=provider.context_window_by_model.get(model),
        )


Tiers: TypeAlias = tuple[tuple[Candidate, ...], ...]


class ResolvedModel(NamedTuple):
    """The candidates of a model's name. `is_pinned`: the name includes the provider, so no override applies."""

    tiers: Tiers
    is_pinned: bool


class ModelAliases(Protocol):
    """The aliases of a snapshot's providers (`domain/model_aliases.py`)."""

    def names(self) -> list[str]:
        """Return all aliases, sorted, without repetition."""
        ...

    def __getitem__(self, name: str, /) -> ResolvedModel | None:
        """Return what `name` leads to, None if no provider lists it and no alias matches it."""
        ...


class Snapshot(msgspec.Struct, frozen=True):
    """The whole configuration at one moment, replaced as one object.

    `providers` is keyed by name, `overrides` by (user_id, service_name or None). `tiers` holds the enabled providers
    with their default models: one tier for each priority, highest first, sorted by name within a tier.
    `tiers_by_model` has two kinds of keys: a model's name, for all enabled providers that list it, and
    `provider/model`, for that provider alone; the latter keys are `pinned_models`. The embedded model is in `tiers`
    only if no other provider is enabled. `aliases` is None if no provider is enabled. `public_prices` contains the
    price lists that the providers' `price_vendor` refers to. `service_keys` are those made over the API, and `hashers`
    compares their secrets. `budgets` is a `domain.budget_table.BudgetTable`, None without budgets.
    """

    providers: dict[str, Provider]
    tiers: Tiers
    overrides: dict[tuple[str, str | None], Override]
    tiers_by_model: dict[str, Tiers] = {}
    pinned_models: frozenset[str] = frozenset()
    public_prices: PublicPrices = PublicPrices()
    aliases: ModelAliases | None = None
    service_keys: ServiceKeys = {}
    hashers: Hashers | None = None
    budgets: Any = None

    def resolve(self, name: str) -> ResolvedModel | None:
        """Return what a model's name or alias leads to, None if it leads nowhere."""
        if self.aliases is not None:
            return self.aliases[name]
        tiers = self.tiers_by_model.get(name)
        return None if tiers is None else ResolvedModel(tiers, name in self.pinned_models)
