"""Roles of people of an identity provider, by their groups."""

from __future__ import annotations

import pytest

from llm_gateway.domain.person import Identity
from llm_gateway.identity.code_flow import CodeFlow, Rules
from llm_gateway.identity.provider import Provider
from llm_gateway.provider_calls.identity_provider import IdentityProviderCalls

ISSUER = "https://id.example"


def flow_with(roles: dict[str, str], issuer: str = ISSUER) -> CodeFlow:
    calls = IdentityProviderCalls()
    return CodeFlow(Provider(issuer, calls), calls, Rules("client", None, roles, "groups", "team", "openid"))


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ({"admins": "admin", "readers": "viewer"}, "admin"),
        ({"readers": "viewer"}, "viewer"),
        ({"admins": "own"}, "own"),
        ({"others": "admin"}, None),
        ({}, None),
    ],
)
def test_a_session_has_the_role_that_the_settings_give_its_groups_now(
    roles: dict[str, str], expected: str | None
) -> None:
    identity = Identity(issuer=ISSUER, subject="1", role="admin", team_id="t", groups=("admins", "readers"))
    renewed = flow_with(roles).renewed(identity)
    assert (None if renewed is None else (renewed.role, renewed.team_id)) == (
        expected and (expected, "t" if expected == "own" else None)
    )


def test_a_session_without_what_its_role_needs_has_none() -> None:
    flow = flow_with({"team": "own", "admins": "admin"})
    plain = Identity(issuer=ISSUER, subject="1", role="admin", groups=("admins",))
    assert flow.renewed(plain) == plain
    for identity in (
        Identity(issuer=ISSUER, subject="1", role="admin"),  # a session of before groups were kept
        Identity(issuer=ISSUER, subject="1", role="own", groups=("team",)),
        Identity(issuer="https://other.example", subject="1", role="admin", groups=("admins",)),
    ):
        assert flow.renewed(identity) is None
