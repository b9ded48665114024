"""Identity providers of the settings: where people sign in."""

from __future__ import annotations

from llm_gateway.identity.code_flow import CodeFlow, Rules
from llm_gateway.identity.provider import Provider
from llm_gateway.provider_calls.identity_provider import IdentityProviderCalls
from llm_gateway.settings import Settings


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
