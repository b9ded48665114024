"""Checks of the settings of identity providers, Redis, the journal and the webhook, beyond the range of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_gateway.errors import ConfigurationError
from llm_gateway.redis_client.address import FORM, InvalidAddress, parse_address
from llm_gateway.settings import PREFIX, Settings

MIN_WEBHOOK_SECRET = 16
"""Characters that the webhook's secret must have at least."""
_WEBHOOK_URL = re.compile(r"https?://[A-Za-z0-9._-]+(:\d{1,5})?([/?][!-~]*)?", re.IGNORECASE)
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_ISSUER = re.compile(
    r"(https://[A-Za-z0-9._-]+|http://(localhost|127\.0\.0\.1))(:\d{1,5})?(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?"
)


def unfit_identity_provider(settings: Settings) -> Iterator[str]:
    """Yield an error message for each setting of the identity provider that does not fit."""
    issuer, roles = settings.oidc_issuer, dict[str, str]()
    try:
        roles = settings.roles_of_groups
    except ConfigurationError as error:
        yield str(error)
    else:
        needed = (issuer, settings.oidc_client_id, settings.oidc_roles.strip())
        if any(needed) and not all(needed):
            names = ("ISSUER", "CLIENT_ID", "ROLES")
            yield f"{', '.join(f'{PREFIX}OIDC_{name}' for name in names)} need each other: set all of them, or none."
    if "own" in roles.values() and not settings.oidc_team_claim:
        yield f"The role own in {PREFIX}OIDC_ROLES needs {PREFIX}OIDC_TEAM_CLAIM, which names the team of a person."
    if "openid" not in settings.oidc_scopes.split():
        yield f"{PREFIX}OIDC_SCOPES takes scopes with blanks between them, of which one is openid."
    yield from _unfit_issuer("OIDC_ISSUER", issuer)
    yield from _unfit_tokens(settings)


def unfit_redis(settings: Settings) -> Iterator[str]:
    """Yield an error message if the URL of Redis is not valid; without its text, which can hold a password."""
    if settings.redis_url:
        try:
            parse_address(settings.redis_url)
        except InvalidAddress as error:
            yield f"{PREFIX}REDIS_URL must be {FORM}: {error}."


def unfit_journal(settings: Settings) -> Iterator[str]:
    """Yield an error message if usage shall be in a database that is lost with the host's files."""
    if settings.journal == "database" and settings.url.startswith("sqlite"):
        yield (
            f"{PREFIX}JOURNAL=database needs a Postgres database, since a SQLite file is on this host's disk: set "
            f"{PREFIX}DATABASE_URL to postgresql://…, or unset {PREFIX}JOURNAL."
        )


def unfit_host_name(settings: Settings) -> Iterator[str]:
    """Yield an error message if the host's name has other characters than names of machines."""
    if settings.host_name and not _HOST_NAME.fullmatch(settings.host_name):
        yield f"{PREFIX}HOST_NAME takes up to 253 letters, digits, dots, dashes and underscores, such as gateway-1."


def _unfit_tokens(settings: Settings) -> Iterator[str]:
    """Yield an error message for each setting of tokens that does not fit."""
    try:
        _ = settings.scopes_of_tokens
    except ConfigurationError as error:
        yield str(error)
    if bool(settings.jwt_issuer) != bool(settings.jwt_audience):
        yield f"{PREFIX}JWT_ISSUER and {PREFIX}JWT_AUDIENCE need each other: set both, or none."
    if settings.jwt_issuer and (settings.jwt_issuer, settings.jwt_audience) == (
        settings.oidc_issuer,
        settings.oidc_client_id,
    ):
        yield (
            f"{PREFIX}JWT_AUDIENCE must not be {PREFIX}OIDC_CLIENT_ID at the same issuer: the ID token of each person "
            "who signs in would be a key."
        )
    yield from _unfit_issuer("JWT_ISSUER", settings.jwt_issuer)


def _unfit_issuer(name: str, issuer: str) -> Iterator[str]:
    """Yield an error message if an issuer is no URL that may be called: plain http is for this machine only."""
    if not issuer or _ISSUER.fullmatch(issuer):
        return
    yield (
        f"{PREFIX}{name} must be the issuer as the identity provider spells it, such as "
        "https://id.example.com/realms/all, without query and fragment; http:// is taken for localhost and 127.0.0.1."
    )


def unfit_webhook(settings: Settings) -> Iterator[str]:
    """Yield an error message if the webhook's URL cannot be called, or only one of URL and secret is set."""
    url, secret = settings.webhook_url, settings.webhook_secret
    if (url is None) != (secret is None):
        yield f"{PREFIX}WEBHOOK_URL and {PREFIX}WEBHOOK_SECRET need each other: set both, or none."
    if secret is not None and len(secret) < MIN_WEBHOOK_SECRET:
        yield f"{PREFIX}WEBHOOK_SECRET must have {MIN_WEBHOOK_SECRET} characters or more."
    if url is not None and not _WEBHOOK_URL.fullmatch(url):
        yield (
            f"{PREFIX}WEBHOOK_URL must be a URL such as https://example.com/hooks/llm, without user name, password and "
            "fragment."
        )
