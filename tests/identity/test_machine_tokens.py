"""Tokens of machines: what their claims give them, and a gateway that takes them as keys."""

from __future__ import annotations

from datetime import UTC, datetime
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


async def test_a_token_sees_itself_what_it_spent_and_its_budgets(start: Start, mock: MockUpstream) -> None:
    async with identity_provider() as served:
        settings = {
            "jwt_issuer": served.issuer,
            "jwt_audience": "the api",
            "jwt_customer_claim": "customer",
            "jwt_team_claim": "team",
        }
        async with start(**settings) as app:
            admin = Client(app)
            await created(admin, base_url=mock.base_url, models=["m"], prices={"m": {"input": 1000, "output": 1000}})
            team = (await admin.call("POST", "/api/v1/teams", {"name": "core"})).json["id"]
            claims = served.claims(aud="the api", customer="acme", team="core")
            client = Client(app, served.signed(claims))
            ask = {"user_id": "somebody", "service": "s", "prompt": "Hello"}
            assert (await client.call("POST", "/api/v1/generate", ask)).status == 200
            for name, match in (
                ("of the token", {"key": "jwt:1"}),
                ("of the team", {"team": team}),
                ("of the customer", {"user_id": "acme"}),
                ("of others", {"user_id": "other"}),
                ("of another token", {"key": "jwt:2"}),
            ):
                budget = {"name": name, "match": match, "limit_usd": 5, "period": "month"}
                made = await admin.call("POST", "/api/v1/budgets", budget)
                assert made.status == 201, made.body

            response = await client.call("GET", "/api/v1/me")

            assert response.status == 200, response.body
            me = response.json
            ends = datetime.fromtimestamp(claims["exp"] + 60, UTC)
            assert (me["name"], me["source"], me["scopes"], me["team_id"]) == ("jwt:1", "jwt", ["call"], team)
            assert me["customers"] == {"fixed": "acme"}
            in_force = me["in_force"]
            assert (in_force["scopes"], in_force["team_id"], in_force["fixed_customer"]) == (["call"], team, "acme")
            assert [in_force[limit] for limit in ("rpm", "tpm", "max_parallel", "max_request_usd")] == [None] * 4
            assert {datetime.fromisoformat(each["expires_at"]) for each in (me, in_force)} == {ends}
            assert me["spend"]["requests"] == 1
            assert me["spend"]["cost_usd"] > 0
            names = {each["name"] for each in me["budgets"]}
            assert names == {"of the token", "of the team", "of the customer"}
            assert (await admin.call("GET", "/api/v1/keys")).json["keys"][0]["source"] == "env"
            assert (await admin.call("GET", f"/api/v1/keys/{me['id']}")).status == 404
