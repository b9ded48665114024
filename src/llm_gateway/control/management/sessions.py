"""Endpoints that list and end sessions of the dashboard: everybody their own, admins all."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.requests import Request

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.fields import Id, Reference, Timestamp, iso
from llm_gateway.control.management.router import Router
from llm_gateway.gate.request_context import REQUEST_CONTEXT, Person, RequestContext
from llm_gateway.store.identifiers import stored_id
from llm_gateway.store.sessions import Owner, Session, SessionStore

Own = Annotated[bool, Query(description="only the caller's own, also for an admin")]
Keep = Annotated[Reference | None, Query(description="the id of a session that goes on")]


class SessionOut(BaseModel):
    """A session of the dashboard."""

    id: Id
    kind: Literal["key", "person", "oidc"] = Field(description="what was signed in with")
    name: str = Field(description="name of the key or the person")
    address: str
    client: str = Field(description="what the browser calls itself")
    created_at: Timestamp
    used_at: Timestamp = Field(description="its last use, to the minute")
    ends_at: Timestamp = Field(description="when it ends even if it is used")


class SessionList(BaseModel):
    """Sessions that have not ended, the newest first."""

    sessions: list[SessionOut]


class Ended(BaseModel):
    """Number of sessions that a request ended."""

    ended: int


def sessions_router(store: SessionStore) -> Router:
    """Build the endpoints of sessions."""
    router = Router("/api/v1/sessions", "sessions")

    @router.get("", responses=problems(422))
    def list_sessions(request: Request, own: Own = False) -> SessionList:
        """Return the caller's sessions; for an admin, those of all."""
        owner, is_admin = _asker(request)
        found = store.living(None if is_admin and not own else owner)
        return SessionList(sessions=[_shown(session) for session in found])

    @router.delete("", responses=problems(422))
    def end_sessions(request: Request, keep: Keep = None) -> Ended:
        """End all sessions of the caller, but the one to keep."""
        owner, _ = _asker(request)
        return Ended(ended=store.close_others(owner, keep))

    @router.delete("/{session_id}", status_code=204, response_class=Response, responses=problems(404))
    def end_session(request: Request, session_id: str) -> None:
        """End a session: one's own, or as an admin any."""
        owner, is_admin = _asker(request)
        store.close(stored_id(session_id, "session"), None if is_admin else owner)

    return router


def _asker(request: Request) -> tuple[Owner, bool]:
    """Return whose sessions are the caller's own, and whether the caller may see and end all."""
    context: RequestContext = request.scope[REQUEST_CONTEXT]
    caller = context.caller
    if isinstance(caller, Person):
        owner = Owner(caller.name, None, caller.person_id, caller.identity)
    else:
        owner = Owner(caller.name, caller.key_id)
    return owner, "admin" in caller.scopes


def _shown(session: Session) -> SessionOut:
    kind: Literal["key", "person", "oidc"] = "key"
    if session.person_id is not None or session.identity is not None:
        kind = "oidc" if session.person_id is None else "person"
    return SessionOut(
        id=session.id,
        kind=kind,
        name=session.key_name,
        address=session.address,
        client=session.client,
        created_at=iso(session.created_at_ms),
        used_at=iso(session.used_at_ms),
        ends_at=iso(session.ends_at_ms),
    )
