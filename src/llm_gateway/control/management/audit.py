"""Endpoints of the audit trail: entries of what management writes changed, and failed authentications by address."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.calendar_period import read_moment, read_zone
from llm_gateway.control.management.cursor import open_cursor, seal
from llm_gateway.control.management.fields import Text, Timestamp, iso
from llm_gateway.control.management.router import Router
from llm_gateway.control.management.usage import digits
from llm_gateway.domain.audit import AuditEntry
from llm_gateway.errors import Invalid
from llm_gateway.store.audit import AuditFilter, AuditTrail, Position
from llm_gateway.telemetry.failed_authentications import OTHER, FailedCount

_POSITION = re.compile(r"(\d{1,15}) (\d{1,15}) ([0-9a-f-]{36})")

FailedCounts = Callable[[], Awaitable[Sequence[tuple[str, FailedCount]]]]
"""Return failed authentications by address, most first."""


class AuditQuery(BaseModel):
    """Parameters of a search for entries; all given ones must match."""

    model_config = ConfigDict(populate_by_name=True)

    start: Annotated[str | None, Field(alias="from", max_length=40, description="the first moment of the period")] = (
        None
    )
    end: Annotated[str | None, Field(alias="to", max_length=40, description="the end of the period, no part of it")] = (
        None
    )
    tz: Annotated[str, Field(max_length=64, description="time zone of dates without an offset")] = "UTC"
    actor: Annotated[Text | None, Field(description="name or id of the key that made the change")] = None
    action: Annotated[Text | None, Field(description="such as key.create")] = None
    resource: Annotated[Text | None, Field(description="type of the resource, such as key, or its id, or its name")] = (
        None
    )
    cursor: Annotated[str | None, Field(max_length=512, description="`next_cursor` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=500, description="maximum number of entries"), BeforeValidator(digits)] = 50


class AuditActor(BaseModel):
    """The key or the command that made a change."""

    name: Annotated[str, Field(description="name of the key, or of the command")]
    key_id: Annotated[str | None, Field(description="null for a key of the environment, and for a command")]
    address: Annotated[str, Field(description='the client\'s address, "" if there is none')]
    request_id: Annotated[str | None, Field(description="the gateway's id of the request")]


class AuditResource(BaseModel):
    """The changed resource."""

    type: str
    id: str | None
    name: str | None


class AuditEntryOut(BaseModel):
    """An entry as the API returns it. Secrets are never in it."""

    chain: str
    number: int
    at: Timestamp
    action: str
    actor: AuditActor
    resource: AuditResource
    before: Annotated[dict[str, Any] | None, Field(description="fields before, of an update only those that changed")]
    after: Annotated[dict[str, Any] | None, Field(description="fields after")]
    hash: Annotated[str, Field(description="SHA-256 over the hash before it and this entry")]


class AuditPage(BaseModel):
    """Entries, newest first."""

    entries: list[AuditEntryOut]
    next_cursor: str | None


class FailedAddress(BaseModel):
    """Failed authentications from one address."""

    address: str
    count: int
    last_at: Timestamp


class FailedAuthenticationList(BaseModel):
    """Failed authentications by the client's address, most first."""

    addresses: list[FailedAddress]
    other: Annotated[int, Field(description="those from further addresses")]


def audit_router(trail: AuditTrail, failed: FailedCounts) -> Router:
    """Build the endpoints of the audit trail."""
    router = Router("/api/v1/audit", "audit")

    @router.get("", responses=problems(422))
    def list_audit_entries(query: Annotated[AuditQuery, Query()]) -> AuditPage:
        given = query.model_dump(exclude={"cursor", "limit"})
        before = None if query.cursor is None else _position(open_cursor(query.cursor, given))
        found = trail.page(_wanted(query), query.limit + 1, before)
        shown = found[: query.limit]
        last = shown[-1] if len(found) > query.limit else None
        cursor = None if last is None else seal(given, f"{last.at_ms} {last.number} {last.chain}")
        return AuditPage(entries=list(map(_shown, shown)), next_cursor=cursor)

    @router.get("/failed-authentications")
    async def failed_authentications() -> FailedAuthenticationList:
        """Return failed authentications since the management process started."""
        counts = await failed()
        return FailedAuthenticationList(
            addresses=[
                FailedAddress(address=address, count=count, last_at=iso(round(last_s * 1000)))
                for address, (count, last_s) in counts
                if address != OTHER
            ],
            other=sum(each.number for address, each in counts if address == OTHER),
        )

    return router


def _wanted(query: AuditQuery) -> AuditFilter:
    zone = read_zone(query.tz)
    start_ms = None if query.start is None else read_moment(query.start, zone, "from")
    end_ms = None if query.end is None else read_moment(query.end, zone, "to")
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise Invalid("from must be before to, which is no part of the period.", loc=("query", "from"))
    return AuditFilter(start_ms, end_ms, query.actor, query.action, query.resource)


def _position(text: str) -> Position:
    match = _POSITION.fullmatch(text)
    if match is None:
        raise Invalid("cursor is not one that this API returned: leave it out.", loc=("query", "cursor"))
    return int(match[1]), int(match[2]), match[3]


def _shown(entry: AuditEntry) -> AuditEntryOut:
    return AuditEntryOut(
        chain=entry.chain,
        number=entry.number,
        at=iso(entry.at_ms),
        action=entry.action,
        actor=AuditActor(name=entry.actor, key_id=entry.key_id, address=entry.address, request_id=entry.request_id),
        resource=AuditResource(type=entry.action.partition(".")[0], id=entry.resource_id, name=entry.resource_name),
        before=_object(entry.before),
        after=_object(entry.after),
        hash=entry.hash,
    )


def _object(text: str | None) -> dict[str, Any] | None:
    """Return a JSON object, or the text itself if someone changed it in the database into another one."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        return {"unreadable": text}
