"""Endpoints that create, list, get, patch, delete and test targets of alerts."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import SecretStr

from llm_gateway import wall_clock
from llm_gateway.control.alert_sender import AlertSender
from llm_gateway.control.alert_texts import TEST
from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.alert_target_rules import COMMON, change_target, check_address, new_target
from llm_gateway.control.management.alert_target_schemas import (
    AlertTargetCreate,
    AlertTargetOut,
    AlertTargetPatch,
    AlertTargetTest,
    mailbox_fields,
)
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.router import Router
from llm_gateway.domain.alert_target import AlertMessage, AlertTarget
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError, Invalid
from llm_gateway.store.alert_deliveries import AlertDeliveries
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.unchanged import tried_again
from llm_gateway.upstream.egress import Egress


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
        target, secret = new_target(fields)
        check_address(target, secret, egress)
        return _shown(store.create(target, secret), 0)

    @router.get("/{alert_target_id}", responses=problems(404))
    def get_alert_target(alert_target_id: str) -> AlertTargetOut:
        target = store.get(alert_target_id)
        return _shown(target, deliveries.waiting().get(target.id, 0))

    @router.patch("/{alert_target_id}", responses=problems(404, 409, 422))
    def patch_alert_target(alert_target_id: str, body: AlertTargetPatch) -> AlertTargetOut:
        """Change a target. Secrets that are not given stay; another mail server needs its password again."""
        changes = _plain(body.model_dump(exclude_unset=True))

        def change() -> AlertTarget:
            before, secret = store.with_secret(alert_target_id)
            changed = change_target(before, secret, changes)
            if not changes.keys() <= COMMON:
                check_address(*changed, egress)  # it looks the host up, which no transaction should wait for
            return store.update(alert_target_id, lambda *_: changed, unchanged_since_ms=before.updated_at_ms)

        if not changes:
            return get_alert_target(alert_target_id)
        try:
            target = tried_again(change)
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
        now_ms = wall_clock.now_ms()
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
