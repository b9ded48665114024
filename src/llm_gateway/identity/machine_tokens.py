"""Verify tokens (JWT) that machines send in the place of service keys, and say what they may do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm_gateway.domain.jwt_verdict import LONGEST_NAME, TokenCaller, Verdict
from llm_gateway.identity.errors import IdentityRefused
from llm_gateway.identity.jwt_verification import LEEWAY_S, claim, texts, verified
from llm_gateway.identity.provider import Provider


class TokenRules(NamedTuple):
    """The settings of tokens: who they must be for, and the claims with team, customer and scopes.

    `scopes` are the gateway's scopes by the values of the claim; without any, each token may make calls.
    """

    audience: str
    team_claim: str | None
    customer_claim: str | None
    scopes_claim: str
    scopes: Mapping[str, str]


class MachineTokens:
    """Tokens of `provider`. `team_id` returns the id of the team with a name or an id, None without one; it blocks."""

    def __init__(self, provider: Provider, rules: TokenRules, team_id: Callable[[str], str | None]) -> None:
        self._provider = provider
        self._rules = rules
        self._team_id = team_id

    async def verify(self, token: bytes) -> Verdict:
        """Return who sends a token, or why it is refused. Never raises for what the token or the provider is."""
        try:
            claims = await verified(self._provider, token.decode("latin-1"), [self._rules.audience])
            return Verdict(caller=await self._caller(claims))
        except IdentityRefused as error:
            return Verdict(problem=str(error), status=error.status)

    async def _caller(self, claims: dict[str, Any]) -> TokenCaller:
        rules = self._rules
        name = f"jwt:{claims['sub']}"
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise IdentityRefused(f"The token's subject is longer than {LONGEST_NAME} characters, or not printable.")
        scopes = {"call"}
        if rules.scopes:
            scopes = {rules.scopes[each] for each in texts(claim(claims, rules.scopes_claim)) if each in rules.scopes}
            if not scopes:
                words = ", ".join(rules.scopes)
                raise IdentityRefused(f"The token has none of {words} in the claim {rules.scopes_claim}.", 403)
        team_id = None
        if rules.team_claim is not None:
            team = _text(claims, rules.team_claim, "team")
            team_id = await asyncio.to_thread(self._team_id, team)
            if team_id is None:
                raise IdentityRefused(f"The token names the team {team[:50]!r}, which this gateway does not have.", 403)
        customer = None if rules.customer_claim is None else _text(claims, rules.customer_claim, "customer")
        until_ms = int((claims["exp"] + LEEWAY_S) * 1000)
        return TokenCaller(name, frozenset(scopes), until_ms, team_id, customer)


def _text(claims: dict[str, Any], path: str, what: str) -> str:
    """Return a claim that must be there: without it, requests would be counted for nobody."""
    found = claim(claims, path)
    if not isinstance(found, str) or not found.strip() or len(found) > 256 or "\x00" in found:
        raise IdentityRefused(f"The token has no text in the claim {path}, which names its {what}.", 403)
    return found
