"""Endpoints that create, list, get, patch, delete and test targets of alerts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

import msgspec
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import SecretStr

from llm_gateway.control.alert_sender import AlertSender
from llm_gateway.control.alert_texts import TEST
from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.alert_target_schemas import (
    URL_PATTERN,
    AlertTargetCreate,
    AlertTargetOut,
    AlertTargetPatch,
    AlertTargetTest,
    mailbox_fields,
    mailbox_of,
)
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.router import Router
from llm_gateway.domain.alert_target import EVENTS, AlertMessage, AlertSecret, AlertTarget
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError, Invalid
from llm_gateway.store.alert_deliveries import AlertDeliveries
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.retention import system_clock_ms
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

Fields = Mapping[str, Any]


def alert_targets_router(store: AlertTargetStore, deliveries: AlertDeliveries, egress: Egress) -> Router:
    """Build the endpoints of targets. `egress` decides which addresses may be called."""
    router = Router("/api/v1/alert-targets", "alerts")

    @router.get("")
    def list_alert_targets() -> list[AlertTargetOut]:
        waiting = deliveries.waiting()
        return [_shown(target, waiting.get(target.id, 0)) for target in store.list()]

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_alert_target(body: AlertTargetCreate) -> AlertTargetOut:
        fields = _plain(body.model_dump())
        target, secret = _made(fields)
        _check_address(target, secret, egress)
        return _shown(store.create(target, secret), 0)

    @router.get("/{alert_target_id}", responses=problems(404))
    def get_alert_target(alert_target_id: str) -> AlertTargetOut:
        target = store.get(alert_target_id)
        return _shown(target, deliveries.waiting().get(target.id, 0))

    @router.patch("/{alert_target_id}", responses=problems(404, 409, 422))
    def patch_alert_target(alert_target_id: str, body: AlertTargetPatch) -> AlertTargetOut:
        """Change a target. Secrets that are not given stay; another mail server needs its password again."""
        changes = _plain(body.model_dump(exclude_unset=True))

        def changed(target: AlertTarget, secret: AlertSecret) -> tuple[AlertTarget, AlertSecret]:
            after, new_secret = _changed(target, secret, changes)
            if not changes.keys() <= COMMON:
                _check_address(after, new_secret, egress)
            return after, new_secret

        if not changes:
            return get_alert_target(alert_target_id)
        try:
            target = store.update(alert_target_id, changed)
        except ConfigurationError as error:
            raise Invalid(f"Its stored secrets cannot be read: delete it and make it anew. {error}") from None
        return _shown(target, deliveries.waiting().get(target.id, 0))

    @router.delete("/{alert_target_id}", status_code=204, response_class=Response, responses=problems(404))
    def delete_alert_target(alert_target_id: str) -> None:
        store.delete(alert_target_id)

    return router


def alert_test_router(store: AlertTargetStore, sender: AlertSender) -> Router:
    """Build the endpoint that tests a target."""
    router = Router("/api/v1/alert-targets/{alert_target_id}/test", "alerts")

    @router.post("", responses=problems(404, 422))
    async def test_alert_target(alert_target_id: str) -> AlertTargetTest:
        """Send a test message now, and return what the receiver answered."""
        target = await run_in_threadpool(store.get, alert_target_id)
        now_ms = system_clock_ms()
        message_id = f"{TEST}:{new_id()}"
        event = {"id": message_id, "type": TEST, "at_ms": now_ms, "data": {"target": target.name}}
        message = AlertMessage(message_id, now_ms, msgspec.json.encode(event).decode())
        try:
            secret = await run_in_threadpool(store.unseal, target.id)
        except ConfigurationError as error:
            return AlertTargetTest(success=False, answer=f"Its secrets cannot be read. {error}")
        success, answer = await sender.send(target, secret, message)
        await run_in_threadpool(store.note_test, target, answer, success=success)
        return AlertTargetTest(success=success, answer=answer)

    return router


def _made(fields: Fields) -> tuple[AlertTarget, AlertSecret]:
    """Return a new target and its secrets.

    Raises:
        Invalid: a field is missing, or does not fit the kind or the others.
    """
    kind, given = fields["kind"], {name for name, value in fields.items() if value is not None}
    _check_kind(kind, given)
    for name in REQUIRED[kind]:
        if fields[name] is None:
            raise Invalid(f"{name} is required for targets of kind {kind}.", loc=("body", name))
    _check_events(fields["events"])
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


def _changed(target: AlertTarget, secret: AlertSecret, changes: Fields) -> tuple[AlertTarget, AlertSecret]:
    """Return a target and its secrets with changed fields. Raises as `_made`."""
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


def _check_address(target: AlertTarget, secret: AlertSecret, egress: Egress) -> None:
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


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a schema's fields with secrets as texts."""
    return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in fields.items()}


def _shown(target: AlertTarget, waiting: int) -> AlertTargetOut:
    return AlertTargetOut(
        id=target.id,
        name=target.name,
        kind=target.kind,
        events=list(target.events),
        is_enabled=target.is_enabled,
        host=target.host,
        **mailbox_fields(target),
        has_secret=target.has_secret,
        waiting=waiting,
        last_delivered_at=None if target.delivered_ms is None else iso(target.delivered_ms),
        last_error=target.error,
        last_error_at=None if target.failed_ms is None else iso(target.failed_ms),
        created_at=iso(target.created_at_ms),
        updated_at=iso(target.updated_at_ms),
    )
