"""Assemble callable providers from accounts: URLs and headers, authorizer, protocol codecs, vendors' rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import msgspec

from llm_gateway.domain.catalog import Provider, Target, UpstreamAuthorizer
from llm_gateway.domain.configuration import Account
from llm_gateway.providers.dialect import Dialect
from llm_gateway.providers.registry import choose_codecs, find_dialect
from llm_gateway.providers.vendor_rules.body_rules import rules_of_model


def target_with_key(dialect: Dialect, base_url: str, api_key: str) -> Target:
    """Return the URLs and headers of an account's calls, including the header with the API key."""
    target = dialect.target(base_url)
    return msgspec.structs.replace(target, headers=dialect.static_key.headers(api_key) | target.headers)


def no_authorizer(provider: Provider, api_key: str) -> UpstreamAuthorizer | None:
    """Return None for every provider: the API key in a header authorises its calls (default of `AccountAssembler`)."""
    return None


class AccountAssembler:
    """Makes the provider of a snapshot from an account.

    Args:
        dialects: the dialects, by kind.
        learn: receives every API key, so that logs and messages redact it.
        authorize: returns the authorizer of a provider with this key, None if the key in a header is enough. Called
            once for each (provider, base URL, key) while the authorizer is in use, so that a new snapshot keeps the
            tokens of the previous one.
    """

    def __init__(
        self,
        *,
        dialects: Mapping[str, Dialect],
        learn: Callable[[list[str]], None],
        authorize: Callable[[Provider, str], UpstreamAuthorizer | None] = no_authorizer,
    ) -> None:
        self._dialects = dialects
        self._learn = learn
        self._authorize = authorize
        self._authorizers: WeakValueDictionary[tuple[str, str, str], UpstreamAuthorizer] = WeakValueDictionary()

    def assemble(self, account: Account) -> Provider:
        """Return the provider, ready for calls; one without a target if the account cannot be used.

        Raises:
            ConfigurationError: its kind has no dialect.
        """
        provider, base_url = account.provider, account.base_url
        if base_url is None:
            return provider
        self._learn([account.api_key])
        dialect = find_dialect(self._dialects, provider.kind)
        spoken = choose_codecs(dialect, account.protocols, has_json_mode=account.has_json_mode)
        rules = {
            model: rules_of_model(
                account.vendor, tuple(spoken.codecs), spoken.translation_protocol, model, spoken.required_protocol
            )
            for model in provider.models
        }
        return msgspec.structs.replace(
            provider,
            target=self._target(account, base_url, dialect),
            codecs=spoken.codecs,
            translation_codec=spoken.translation_codec,
            required_codec=spoken.required_codec,
            rules_by_model={model: found for model, found in rules.items() if found is not None},
        )

    def _target(self, account: Account, base_url: str, dialect: Dialect) -> Target:
        authorize = self._authorizer(account, base_url)
        if authorize is None:
            return target_with_key(dialect, base_url, account.api_key)
        return msgspec.structs.replace(dialect.target(base_url), authorize=authorize)

    def _authorizer(self, account: Account, base_url: str) -> UpstreamAuthorizer | None:
        key = (account.provider.id, base_url, account.api_key)
        known = self._authorizers.get(key)
        if known is None:
            known = self._authorize(account.provider, account.api_key)
            if known is not None:
                self._authorizers[key] = known
        return known
