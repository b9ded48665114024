"""Sign people in over an identity provider: the authorization code flow with PKCE, state and nonce.

Sources: OpenID Connect Core 1.0, section 3.1; RFC 7636 (PKCE, S256); RFC 9207 (`iss` in the response).
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Awaitable, Iterable, Mapping
from hmac import compare_digest
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from llm_gateway.domain.person import ROLE_SCOPES, Identity
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.identity.errors import IdentityRefused, ProviderUnusable
from llm_gateway.identity.jwt_verification import claim, texts, verified
from llm_gateway.identity.provider import Calls, Document, Provider, decoded

RANK = ("admin", "viewer", "own")
"""Roles from the most to the least rights: of several, a person gets the first."""
NAME_CLAIMS = ("preferred_username", "email", "name", "sub")
LONGEST_NAME = 100
LONGEST_SUBJECT = 255
"""Characters of a subject (OpenID Connect Core 1.0, section 2)."""
BEGUN_ELSEWHERE = "This sign-in was begun in another browser, or too long ago: begin again."


class FormCalls(Calls, Protocol):
    """Calls to the provider, forms included."""

    def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Awaitable[UpstreamResult]:
        """POST a form."""


class Rules(NamedTuple):
    """The settings of the client: `roles` by group, the claims with groups and team, and the scopes to request."""

    client_id: str
    client_secret: str | None
    roles: Mapping[str, str]
    groups_claim: str
    team_claim: str | None
    scope: str


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in that has begun; the browser keeps it in a cookie."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str


class Named(NamedTuple):
    """A person as the provider names it: who it is, and the team's name or id, if there is one."""

    name: str
    identity: Identity
    team: str | None


class CodeFlow:
    """Sign-ins over `provider`."""

    def __init__(self, provider: Provider, calls: FormCalls, rules: Rules) -> None:
        self.provider = provider
        self._calls = calls
        self._rules = rules

    async def begin(self, redirect_uri: str) -> tuple[str, Flow]:
        """Return the address to send the browser to, and what it has to keep.

        Raises:
            ProviderUnusable: the provider's metadata cannot be had.
        """
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # noqa: PLC0415 - see the package
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415 - as above

        metadata = await self.provider.metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        address = prepare_grant_uri(
            metadata["authorization_endpoint"],
            self._rules.client_id,
            "code",
            redirect_uri=redirect_uri,
            scope=self._rules.scope,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return address, Flow(state=state, nonce=nonce, verifier=verifier, redirect_uri=redirect_uri)

    async def finish(self, flow: Flow, answer: Mapping[str, str]) -> Named:
        """Return who signed in, given the parameters that the provider sent the browser back with.

        Raises:
            IdentityRefused: the sign-in is not valid, or nothing gives the person a role.
            ProviderUnusable: the provider does not answer, or not as it should.
        """
        if not compare_digest(flow.state.encode(), answer.get("state", "").encode()):
            raise IdentityRefused(BEGUN_ELSEWHERE)
        if answer.get("iss", self.provider.issuer) != self.provider.issuer:
            raise IdentityRefused("The answer is from another identity provider than that of this sign-in.")
        if "error" in answer:
            words = " ".join((answer["error"], answer.get("error_description", ""))).strip()[:200]
            raise IdentityRefused(f"The identity provider refused the sign-in: {words}")
        if not answer.get("code"):
            raise IdentityRefused("The identity provider sent no code: begin again.")
        token = await self._exchange(answer["code"], flow)
        claims = await verified(self.provider, token, [self._rules.client_id], flow.nonce)
        return self._named(claims)

    def role_of(self, groups: Iterable[str]) -> str | None:
        """Return the role with the most rights that the settings give one of the groups, None without one."""
        found = {self._rules.roles[group] for group in groups if group in self._rules.roles}
        return next((role for role in RANK if role in found), None)

    def renewed(self, identity: Identity) -> Identity | None:
        """Return the identity with the role that its groups have now; None if they have none, or the team is missing.

        Settings can change during a session.
        """
        role = self.role_of(identity.groups) if identity.issuer == self.provider.issuer else None
        if role is None or (role == "own" and identity.team_id is None):
            return None
        team_id = identity.team_id if role == "own" else None
        return msgspec.structs.replace(identity, role=role, team_id=team_id)

    async def _exchange(self, code: str, flow: Flow) -> str:
        """Return the ID token for a code."""
        metadata = await self.provider.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": flow.redirect_uri,
            "code_verifier": flow.verifier,
        }
        headers = self._authenticate(metadata, form)
        result = await self._calls.post(metadata["token_endpoint"], form, headers)
        if result.fault is not None:
            raise ProviderUnusable(f"The identity provider does not answer ({result.message}): begin again later.")
        found = decoded(result)
        if result.status != 200 or found is None or not isinstance(found.get("id_token"), str):
            reason = str((found or {}).get("error", f"status {result.status}"))[:100]
            raise ProviderUnusable(f"The identity provider gave no ID token for the code ({reason}): begin again.")
        return str(found["id_token"])

    def _authenticate(self, metadata: Document, form: dict[str, str]) -> dict[str, str]:
        """Return the header that proves who the client is, or add that to the form (RFC 6749, section 2.3.1)."""
        rules = self._rules
        if rules.client_secret is None:
            form["client_id"] = rules.client_id
            return {}
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" not in methods:
            form |= {"client_id": rules.client_id, "client_secret": rules.client_secret}
            return {}
        pair = f"{quote(rules.client_id, safe='')}:{quote(rules.client_secret, safe='')}"
        return {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    def _named(self, claims: dict[str, Any]) -> Named:
        rules, subject = self._rules, claims["sub"]
        if not isinstance(subject, str) or len(subject) > LONGEST_SUBJECT or not subject.isprintable():
            raise IdentityRefused(f"The token's sub is no text of at most {LONGEST_SUBJECT} printable characters.")
        groups = claim(claims, rules.groups_claim)
        named = sorted({*([groups] if isinstance(groups, str) else texts(groups))} & rules.roles.keys())
        role = self.role_of(named)
        name = next((str(claims[each]) for each in NAME_CLAIMS if isinstance(claims.get(each), str)), "")
        name = "".join(each if each.isprintable() else "?" for each in name)[:LONGEST_NAME]
        if role is None:
            raise IdentityRefused(
                f"You are signed in at the identity provider as {name}, but none of your groups has a role here: ask "
                f"the operator of this gateway. It looks for groups in the claim {rules.groups_claim}.",
                403,
            )
        assert role in ROLE_SCOPES  # noqa: S101 - the settings were checked
        team = None if rules.team_claim is None else claim(claims, rules.team_claim)
        identity = Identity(issuer=self.provider.issuer, subject=subject, role=role, groups=tuple(named))
        return Named(name, identity, team if isinstance(team, str) else None)
