"""Rules of alert targets: which fields go together, and where a target may be."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from llm_gateway.control.management.alert_target_schemas import URL_PATTERN, mailbox_of
from llm_gateway.domain.alert_target import EVENTS, AlertSecret, AlertTarget
from llm_gateway.errors import Invalid
from llm_gateway.upstream.egress import AddressRefused, Egress

OF_KIND = {
    "webhook": frozenset({"url", "secret"}),
    "slack": frozenset({"url"}),
    "email": frozenset({"host", "port", "security", "user", "password", "sender", "recipients"}),
}
"""Fields that only some kinds of targets have."""
REQUIRED = {"webhook": ("url",), "slack": ("url",), "email": ("host", "sender", "recipients")}
COMMON = frozenset({"name", "events", "is_enabled"})
_URL = re.compile(URL_PATTERN.removeprefix("^").removesuffix("$"))

Fields: TypeAlias = Mapping[str, Any]


def new_target(fields: Fields) -> tuple[AlertTarget, AlertSecret]:
    """Return a new target and its secrets.

    Raises:
        Invalid: a field is missing, or does not fit the kind or the others.
    """
    kind = fields["kind"]
    check_fields(kind, fields)
    _check_login(fields["user"], has_password=fields["password"] is not None)
    box = mailbox_of(dict(fields)) if kind == "email" else None
    secret = AlertSecret(url=fields["url"], secret=fields["secret"], password=fields["password"])
    target = AlertTarget(
        id="",
        name=fields["name"],
        kind=kind,
        events=tuple(fields["events"]),
        is_enabled=fields["is_enabled"],
        host=_host(secret) if box is None else box.host,
        mailbox=box,
        has_secret=_has_secret(secret),
        created_at_ms=0,
        updated_at_ms=0,
    )
    return target, secret


def change_target(target: AlertTarget, secret: AlertSecret, changes: Fields) -> tuple[AlertTarget, AlertSecret]:
    """Return a target and its secrets with changed fields.

    Raises:
        Invalid: as for `new_target`, or a mail server's password is to be sent to another server.
    """
    _check_kind(target.kind, changes.keys() - COMMON)
    for name in REQUIRED[target.kind]:
        if name in changes and changes[name] is None:
            raise Invalid(f"{name} is required for targets of kind {target.kind}.", loc=("body", name))
    _check_events(changes.get("events", target.events))
    new_secret = msgspec.structs.replace(
        secret, **{name: changes[name] for name in ("url", "secret", "password") if name in changes}
    )
    box = target.mailbox
    if box is not None:
        after = mailbox_of({**msgspec.structs.asdict(box), **changes})
        if (after.host, after.port) != (box.host, box.port) and secret.password and "password" not in changes:
            raise Invalid("password is required when host or port changes.", loc=("body", "password"))
        _check_login(after.user, has_password=new_secret.password is not None)
        box = after
    common = {name: changes[name] for name in COMMON if name in changes}
    if "events" in common:
        common["events"] = tuple(common["events"])
    host = _host(new_secret) if box is None else box.host
    after_target = msgspec.structs.replace(target, **common, host=host, mailbox=box, has_secret=_has_secret(new_secret))
    return after_target, new_secret


def check_fields(kind: str, fields: Fields, optional: Collection[str] = ()) -> None:
    """Check that a target has the fields of its kind, besides those that are `optional`.

    Raises:
        Invalid: one is missing or too much, or no event has one of the names.
    """
    _check_kind(kind, {name for name, value in fields.items() if value is not None})
    for name in REQUIRED[kind]:
        if fields.get(name) is None and name not in optional:
            raise Invalid(f"{name} is required for targets of kind {kind}.", loc=("body", name))
    _check_events(fields["events"])


def _check_kind(kind: str, given: set[str]) -> None:
    for name in sorted(given & frozenset().union(*OF_KIND.values()) - OF_KIND[kind]):
        kinds = " and ".join(each for each, names in OF_KIND.items() if name in names)
        raise Invalid(f"{name} is only for targets of kind {kinds}: leave it out.", loc=("body", name))


def _check_events(globs: tuple[str, ...] | list[str]) -> None:
    for number, glob in enumerate(globs):
        if not any(fnmatchcase(event, glob) for event in EVENTS):
            known = ", ".join(EVENTS)
            raise Invalid(f"events: {glob!r} matches no event; there are {known}.", loc=("body", "events", number))


def _check_login(user: str | None, *, has_password: bool) -> None:
    if (user is None) == has_password:
        missing = "user" if has_password else "password"
        raise Invalid(f"user and password go together: {missing} is missing.", loc=("body", missing))


def check_address(target: AlertTarget, secret: AlertSecret, egress: Egress) -> None:
    """Check where a target is.

    Raises:
        Invalid: the URL is malformed, or the address must not be called.
    """
    box = target.mailbox
    field = "url" if box is None else "host"
    if box is None and not _URL.fullmatch(secret.url or ""):
        raise Invalid("url must be an absolute http or https URL in ASCII, without credentials.", loc=("body", "url"))
    host = target.host if box is None or ":" not in box.host else f"[{box.host}]"
    try:
        pinned = egress.check(secret.url or "" if box is None else f"https://{host}:{box.port}")
    except AddressRefused as error:
        raise Invalid(f"{field}: {error}", loc=("body", field)) from None
    if pinned is not None and box is not None and box.security == "none":
        raise Invalid("security: mail goes over TLS in production: starttls or tls.", loc=("body", "security"))


def _host(secret: AlertSecret) -> str:
    try:
        return urlsplit(secret.url or "").hostname or ""
    except ValueError:
        return ""


def _has_secret(secret: AlertSecret) -> bool:
    return secret.secret is not None or secret.password is not None
