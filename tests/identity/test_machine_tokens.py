"""Tokens of machines: what their claims give them, and a gateway that takes them as keys."""

from __future__ import annotations

from typing import Any

from llm_gateway.identity.machine_tokens import MachineTokens, TokenRules
from llm_gateway.identity.provider import Provider
from llm_gateway.provider_calls.identity_provider import IdentityProviderCalls
from tests.application.driver import Client, assert_problem
from tests.application.fixtures import Start
from tests.control.management.test_providers import created
from tests.identity_provider import CLIENT, identity_provider
from tests.upstream import MockUpstream

RULES = TokenRules("the api", "org.team", "customer", "scope", {"llm.call": "call", "llm.all": "admin"})
CLAIMS = {"aud": ["the api", "x"], "org": {"team": "core"}, "customer": "acme", "scope": "openid llm.call llm.all"}


async def test_claims_give_scopes_team_and_customer_or_a_sentence() -> None:
    rows: list[tuple[dict[str, Any], int, str]] = [
        ({"aud": CLIENT}, 401, "aud"),
        ({"scope": "openid"}, 403, "none of llm.call, llm.all in the claim scope"),
        ({"scope": None}, 403, "none of llm.call"),
        ({"org": "core"}, 403, "no text in the claim org.team"),
        ({"org": {"team": "other"}}, 403, "the team 'other', which this gateway does not have"),
        ({"customer": 5}, 403, "no text in the claim customer"),
        ({"customer": ""}, 403, "no text in the claim customer"),
        ({"customer": " "}, 403, "no text in the claim customer"),
        ({"sub": "x" * 300}, 401, "subject is longer"),
        ({"sub": "a\nb"}, 401, "not printable"),
        ({"exp": 10**400}, 401, "exp"),
    ]
    async with identity_provider() as served:
        served.metadata = {"authorization_endpoint": None, "token_endpoint": None}  # such as that of a cluster
        provider = Provider(served.issuer, IdentityProviderCalls())
        tokens = MachineTokens(provider, RULES, {"core": "the-id"}.get)
        token = served.claims(**CLAIMS)
        verdict = await tokens.verify(served.signed(token).encode())
        assert verdict.caller is not None, verdict
        assert (verdict.caller.name, verdict.caller.scopes) == ("jwt:1", frozenset({"call", "admin"}))
        assert (verdict.caller.team_id, verdict.caller.customer) == ("the-id", "acme")
        assert verdict.caller.until_ms == (token["exp"] + 60) * 1000
        for changes, status, words in rows:
            refused = await tokens.verify(served.signed(served.claims(**{**CLAIMS, **changes})).encode())
            assert (refused.caller, refused.status, words in refused.problem) == (None, status, True), refused
        assert (await tokens.verify(b"eyJ\xff.a.b")).status == 401
        plain = MachineTokens(provider, TokenRules("the api", None, None, "scope", {}), lambda _: None)
        simple = await plain.verify(served.signed(served.claims(aud="the api")).encode())
        assert simple.caller is not None
        assert (simple.caller.scopes, simple.caller.team_id, simple.caller.customer) == (
            frozenset({"call"}),
            None,
            None,
        )


async def test_a_gateway_takes_tokens_as_keys_and_known_ones_while_control_is_away(
    start: Start, mock: MockUpstream
) -> None:
    async with identity_provider() as served:
        settings = {"jwt_issuer": served.issuer, "jwt_audience": "the api", "jwt_customer_claim": "customer"}
        async with start(**settings) as app:
            admin = Client(app)
            await created(admin, base_url=mock.base_url, models=["m"])
            claims = served.claims(aud="the api", customer="acme")
            token, second = served.signed(claims), served.signed({**claims, "sub": "2"})
            ask = {"user_id": "somebody", "service": "s", "prompt": "Hello"}
            for headers in ({"x-service-key": token}, {"authorization": f"Bearer {token}"}):
                response = await Client(app, None).call("POST", "/api/v1/generate", ask, headers=headers)
                assert response.status == 200, response.body
            records = (await admin.call("GET", "/api/v1/usage/records")).json["records"]
            assert {(each["key"], each["user_id"]) for each in records} == {("jwt:1", "acme")}, records[0]
            assert_problem(await Client(app, token).call("GET", "/api/v1/keys"), 403, "forbidden")
            wrong = await Client(app, served.unsigned(claims)).call("POST", "/api/v1/generate", ask)
            assert "algorithm 'none'" in assert_problem(wrong, 401, "unauthorized")["detail"]
            inside = {"x-gateway-internal-token": token}
            for client in (admin, Client(app, None)):
                response = await client.call("GET", "/internal/token", headers=inside)
                assert response.status == (401 if client.key is None else 404)
            await app.stop_control()
            known = await Client(app, token).call("POST", "/api/v1/generate", {**ask, "prompt": "again"})
            assert known.status == 200, known.body
            unknown = await Client(app, second).call("POST", "/api/v1/generate", ask)
            assert_problem(unknown, 503, "management_unavailable")
            assert "retry-after" in unknown.headers
