"""Identity providers of the settings: where people sign in, and whose tokens machines send."""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.identity.code_flow import CodeFlow, Rules
from llm_gateway.identity.machine_tokens import MachineTokens, TokenRules
from llm_gateway.identity.provider import Provider
from llm_gateway.provider_calls.identity_provider import IdentityProviderCalls
from llm_gateway.settings import Settings


def machine_tokens_of(settings: Settings, team_id: Callable[[str], str | None]) -> MachineTokens | None:
    """Return the verification of tokens that are taken as keys, None if the settings name no issuer of any."""
    if not settings.jwt_issuer:
        return None
    rules = TokenRules(
        audience=settings.jwt_audience,
        team_claim=settings.jwt_team_claim or None,
        customer_claim=settings.jwt_customer_claim or None,
        scopes_claim=settings.jwt_scopes_claim,
        scopes=settings.scopes_of_tokens,
    )
    return MachineTokens(Provider(settings.jwt_issuer, IdentityProviderCalls()), rules, team_id)


def code_flow_of(settings: Settings) -> CodeFlow | None:
    """Return the sign-in over the identity provider of the settings, None without one."""
    if not settings.oidc_issuer:
        return None
    calls = IdentityProviderCalls()
    rules = Rules(
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret,
        roles=settings.roles_of_groups,
        groups_claim=settings.oidc_groups_claim,
        team_claim=settings.oidc_team_claim or None,
        scope=settings.oidc_scopes,
    )
    return CodeFlow(Provider(settings.oidc_issuer, calls), calls, rules)
