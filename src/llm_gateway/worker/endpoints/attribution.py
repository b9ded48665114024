"""Attribute a request: read its customer, its session (of an agent or a conversation), and the program that sent it.

A coding agent's user id is no customer: it names a device, an account and a session (`domain/agent_user.py`). Its
account is the customer; without one the request is the service key's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.agent_user import parse_agent_user
from llm_gateway.gate.agent import agent_of
from llm_gateway.gate.headers import MAX_LABEL_CHARACTERS, Headers, label
from llm_gateway.protocols.descriptor import Descriptor

ANONYMOUS = "anonymous"
SESSION_HEADERS = (
    b"x-session-id",
    b"x-claude-code-session-id",
    b"session-id",
    b"session_id",  # Codex until 2026
    b"x-session-affinity",
)
"""Request headers that name the session; the first one present is used."""
_ANY_SESSION = frozenset(SESSION_HEADERS)


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The customer, session and program of a request. `session` and `agent` are None if the request has none."""

    user_id: str
    session: str | None
    agent: str | None


def identify(headers: Headers, document: dict[str, Any], protocol: Descriptor, key_name: str) -> Identity:
    """Return the customer, session and program of a request: from its headers first, then from its document.

    Raises:
        BadRequest: the header x-user-id cannot be read.
    """
    user, session = find_text(document, protocol.user_fields), None
    if user is not None and (agent_user := parse_agent_user(user)) is not None:
        user, session = agent_user.account or key_name, agent_user.session
    return Identity(
        label(headers, b"x-user-id") or user or ANONYMOUS,
        session_in(headers) or find_text(document, protocol.session_fields) or session,
        agent_of(headers.get(b"user-agent")),
    )


def session_in(headers: Headers) -> str | None:
    """Return the session that a header names, None without one.

    Programs send these headers, so a value that cannot be a label is ignored and does not fail the request.
    """
    if _ANY_SESSION.isdisjoint(headers):
        return None
    for name in SESSION_HEADERS:
        value = headers.get(name)
        if value is not None and value.strip() and len(value) <= MAX_LABEL_CHARACTERS and value.isascii():
            return value.decode("ascii")
    return None


def find_text(document: dict[str, Any], fields: tuple[tuple[str, ...], ...]) -> str | None:
    """Return the text of the first of `fields` (paths of keys) that can be a label, None without one."""
    for path in fields:
        found = document.get(path[0])
        if found is None:
            continue
        for name in path[1:]:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, str) and len(found) <= MAX_LABEL_CHARACTERS and "\0" not in found and found.strip():
            return found
    return None
