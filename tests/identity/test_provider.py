"""Documents of an identity provider: when they are fetched, new keys, and providers that are down, slow or wrong."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from llm_gateway.identity.code_flow import CodeFlow, Rules
from llm_gateway.identity.errors import IdentityRefused, ProviderUnusable
from llm_gateway.identity.jwt_verification import claim, verified
from llm_gateway.identity.provider import AGAIN_S, FAILED_S, KEPT_S, LONGEST_KEPT_S, Provider
from llm_gateway.provider_calls.identity_provider import IdentityProviderCalls
from tests.identity_provider import CLIENT, as_json, identity_provider

METADATA, KEYS = "/.well-known/openid-configuration", "/jwks"
RULES = Rules(CLIENT, None, {}, "groups", None, "openid")
NO_METADATA: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({METADATA: (500, {}, b"")}, {}, "status 500"),
    ({METADATA: (302, {"location": "http://127.0.0.1:1/"}, b"{}")}, {}, "status 302"),
    ({METADATA: (200, {}, b"<html>")}, {}, "no JSON object"),
    ({METADATA: (200, {}, b"[" * 100_000)}, {}, "no JSON object"),
    ({METADATA: as_json(200, {"x": "y" * 2_000_000})}, {}, "does not answer"),
    ({METADATA: None}, {}, "No complete answer in time"),
    ({}, {"issuer": "https://evil.example"}, "another issuer"),
    ({}, {"token_endpoint": None}, "no token_endpoint"),
    ({}, {"token_endpoint": "file:///etc/passwd"}, "no token_endpoint"),
    ({}, {"response_types_supported": None}, "metadata is not valid"),
]


async def test_a_provider_without_valid_metadata_is_unusable_until_it_has_some() -> None:
    now = 0.0
    async with identity_provider() as served:
        flow = CodeFlow(Provider(served.issuer, calls := IdentityProviderCalls(0.3), lambda: now), calls, RULES)
        for faults, metadata, words in NO_METADATA:
            served.faults, served.metadata = faults, metadata
            with pytest.raises(ProviderUnusable, match=words):
                await flow.begin("http://localhost/back")
            served.behave()
            if faults:  # others need not wait for a provider that was down a moment ago
                with pytest.raises(ProviderUnusable, match=words):
                    await flow.begin("http://localhost/back")
            now += FAILED_S
        address, _ = await flow.begin("http://localhost/back")
        assert "code_challenge_method=S256" in address
    gone = CodeFlow(Provider(served.issuer, calls), calls, RULES)
    with pytest.raises(ProviderUnusable, match="does not answer"):
        await gone.begin("http://localhost/back")


async def test_new_keys_are_fetched_when_a_token_names_one_but_not_for_each_made_up_name() -> None:
    now = 0.0
    async with identity_provider() as served:
        provider = Provider(served.issuer, IdentityProviderCalls(), lambda: now)
        token = served.signed(served.claims())
        assert (await verified(provider, token, [CLIENT]))["sub"] == "1"
        served.turn_key()
        turned = served.signed(served.claims())
        for after, fetches, is_known in ((1.0, 1, False), (AGAIN_S, 2, True), (1.0, 2, True), (KEPT_S, 3, True)):
            now += after
            with nullcontext() if is_known else pytest.raises(IdentityRefused, match="does not publish"):
                await verified(provider, turned, [CLIENT])
            assert served.counts[KEYS] == fetches, after
        with pytest.raises(IdentityRefused, match="does not publish"):
            await verified(provider, token, [CLIENT])
        now += KEPT_S + 1
        served.faults = {KEYS: as_json(200, {"keys": 5})}
        assert (await verified(provider, turned, [CLIENT]))["sub"] == "1", "known keys last while the provider is away"
        now += LONGEST_KEPT_S
        with pytest.raises(ProviderUnusable, match="set of keys"):
            await verified(provider, turned, [CLIENT])


def test_a_claim_can_be_within_another() -> None:
    claims = {"realm_access": {"roles": ["a"]}, "https://x.example/groups": ["b"], "odd": 5}
    for path, value in (
        ("realm_access.roles", ["a"]),
        ("https://x.example/groups", ["b"]),
        ("odd.x", None),
        ("no", None),
    ):
        assert claim(claims, path) == value, path
