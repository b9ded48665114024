"""Test of a provider: request its model list, which is free, and explain a failure in a sentence.

A test writes no usage record and counts against no rate limit or circuit breaker. A provider that passes is used
again at once, even if an earlier error had paused it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.providers.dialect import Dialect

TIMEOUT_S = 9.5
"""Seconds to wait for the provider, so that the gateway's response is complete within 10 s."""
SAID_CHARACTERS = 200
"""Characters of the provider's own error message that are quoted."""
ERROR_CHARACTERS = 500
"""Maximum length of the whole explanation, in characters."""

ListModels: TypeAlias = Callable[[Provider, float], Awaitable[UpstreamResult]]


class Probe:
    """Tests of providers, enabled or not.

    `list_models(provider, timeout in seconds)` sends the request; `dialects` are keyed by kind; `redact` removes keys
    from messages; `unusable` maps the name of a provider without a target to the reason; `passed` is awaited with a
    provider that passes.
    """

    def __init__(
        self,
        list_models: ListModels,
        dialects: Mapping[str, Dialect],
        redact: Callable[[str], str],
        unusable: Mapping[str, str],
        passed: Callable[[Provider], Awaitable[None]],
    ) -> None:
        self._list_models = list_models
        self._dialects = dialects
        self._redact = redact
        self._unusable = unusable
        self._passed = passed

    async def __call__(self, provider: Provider) -> str | None:
        """Return None if the provider answered with its models, else what is wrong and what to do about it."""
        if provider.target is None:
            reason = self._unusable.get(provider.name, "Set its api_key again.")
            error: str | None = f"The gateway cannot use this provider. {reason}"
        else:
            result = await self._list_models(provider, TIMEOUT_S)
            error = self._fault(result) if result.fault else self._answer(provider, result)
        if error is None:
            await self._passed(provider)
            return None
        return self._redact(error)[:ERROR_CHARACTERS]

    def _fault(self, result: UpstreamResult) -> str:
        if result.fault == "timeout":
            return "No answer within 10 s: check base_url, or try again."
        return f"{result.message.rstrip('.')}. Check base_url and the network in between."

    def _answer(self, provider: Provider, result: UpstreamResult) -> str | None:
        """Return None for a model list, else what the status means and what the provider's own error message is."""
        status = result.status
        if 200 <= status < 300:
            if _lists_models(result.body):
                return None
            return f"The provider answered {status}, but with no list of models: check base_url."
        if status in (401, 403):
            advice = f"The provider refused the key ({status}): set a valid api_key."
        elif status in (404, 405):
            advice = f"The provider has no model list at that address ({status}): check base_url."
        elif status == 429:
            advice = "The provider is limiting requests (429): check the account's quota, or try again later."
        elif 300 <= status < 400:
            advice = f"The provider redirects ({status}), which is not followed: set base_url to where it leads."
        elif status >= 500:
            advice = f"The provider failed ({status}): try again later."
        else:
            advice = f"The provider refused to list its models ({status}): check base_url and api_key."
        # Redact before cutting: half a key would not be recognised.
        said = self._redact(self._dialects[provider.kind].decode_error(result.body))[:SAID_CHARACTERS]
        return f"{advice} It said: {said}" if said else advice


def _lists_models(body: bytes) -> bool:
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if isinstance(document, dict):
        document = document.get("data", document.get("models"))
    return isinstance(document, list)
