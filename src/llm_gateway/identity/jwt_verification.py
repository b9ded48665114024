"""Verify tokens of an identity provider: signature, issuer, audience, times and nonce (RFC 7519, RFC 8725)."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Any

from llm_gateway.identity.errors import IdentityRefused
from llm_gateway.identity.provider import Document, Provider

KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
"""Algorithms that are taken, with the type of their keys: only signatures that a public key proves. With `none` or
HS256 anybody could sign, with the public key as the secret (RFC 8725, section 2.1)."""
LEEWAY_S = 60
"""Seconds by which clocks may differ."""
LAST_SECOND = 253_402_300_800
"""The end of the year 9999, seconds UTC."""
MOST_CHARACTERS = 16 * 1024
UNREADABLE = "The token cannot be read: it is no JSON Web Token."


async def verified(
    provider: Provider, token: str, audiences: Sequence[str], nonce: str | None = None
) -> dict[str, Any]:
    """Return the claims of a token of this provider for one of these audiences.

    Raises:
        IdentityRefused: it is not valid.
        ProviderUnusable: the provider's keys cannot be fetched.
    """
    header = _header(token)
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in KEY_TYPES:
        raise IdentityRefused(f"The token is signed with the algorithm {str(algorithm)[:20]!r}, which is not taken.")

    def fits(key: Document) -> bool:
        is_named = key_id is None or key.get("kid") == key_id
        return is_named and key.get("kty") == KEY_TYPES[algorithm] and key.get("alg", algorithm) == algorithm

    keys = await provider.keys(fits)
    if not keys:
        raise IdentityRefused("The token is signed with a key that the identity provider does not publish.")
    claims = await asyncio.to_thread(_signed_claims, token, keys, algorithm)
    _check(claims, header, provider.issuer, audiences, nonce)
    return claims


def _header(token: str) -> Document:
    if token.count(".") != 2 or len(token) > MOST_CHARACTERS:
        raise IdentityRefused(UNREADABLE)
    part = token.partition(".")[0]
    try:
        found = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise IdentityRefused(UNREADABLE) from None
    if not isinstance(found, dict):
        raise IdentityRefused(UNREADABLE)
    return found


def _signed_claims(token: str, keys: list[Document], algorithm: str) -> dict[str, Any]:
    """Return the claims of a token that one of the keys has signed.

    Raises:
        IdentityRefused: none has.
    """
    from joserfc import jwt  # noqa: PLC0415 - see the package
    from joserfc.errors import JoseError  # noqa: PLC0415 - as above
    from joserfc.jwk import import_key  # noqa: PLC0415 - as above

    for key in keys:
        try:
            public = {name: value for name, value in key.items() if name != "alg"}
            return jwt.decode(token, import_key(public), algorithms=[algorithm]).claims
        except (JoseError, ValueError, TypeError, KeyError):  # the next one may have
            continue
    raise IdentityRefused("The token's signature is not that of the identity provider.")


def _check(claims: dict[str, Any], header: Document, issuer: str, audiences: Sequence[str], nonce: str | None) -> None:
    from authlib.oauth2.claims import JWTClaims  # noqa: PLC0415 - see the package
    from authlib.oidc.core import CodeIDToken  # noqa: PLC0415 - as above
    from joserfc.errors import JoseError  # noqa: PLC0415 - as above

    options: Any = {
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "values": list(audiences)},
        "sub": {"essential": True},
        "exp": {"essential": True},
    }
    now = int(time.time())  # not the database's: the identity provider has a clock of its own
    try:
        if nonce is None:
            JWTClaims(claims, header, options).validate(now, LEEWAY_S)
        else:
            CodeIDToken(claims, header, options, {"nonce": nonce, "client_id": audiences[0]}).validate(now, LEEWAY_S)
    except JoseError as error:
        raise IdentityRefused(f"The token is not valid: {error.description or error.error}.") from None
    except (ValueError, TypeError, OverflowError):
        raise IdentityRefused("The token is not valid: a claim has the wrong type.") from None
    if not 0 < claims["exp"] < LAST_SECOND:  # also what is no number: JSON of Python has NaN
        raise IdentityRefused("The token is not valid: exp is no time.")


def claim(claims: dict[str, Any], path: str) -> Any:
    """Return a claim, or one within another by a path with dots, such as `realm_access.roles`; None without it."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def texts(value: Any) -> list[str]:
    """Return the texts of a claim, which is one text with blanks between them, or a list."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
