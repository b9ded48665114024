"""Parse the user id that coding agents send: device, account and session of one installation, joined into one text.

Claude Code sends `user_<64 hex digits>_account_<uuid>_session_<uuid>`, with an empty account if nobody is signed in;
newer versions send the same as a JSON object. Seen in requests of Claude Code 2.1; its documentation of the request:
https://code.claude.com/docs/en/llm-gateway-protocol (read 2026-11-27).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

_JOINED = re.compile(r"user_[0-9a-f]{16,128}(?:_account_([0-9a-f-]{36})?)?(?:_session_([0-9a-f-]{36}))?")
_ACCOUNTS, _SESSIONS = ("account_uuid", "account_id"), ("session_id",)
_LONGEST = 2048
"""Characters of a longer text, which is no user id of an agent."""


class AgentUser(NamedTuple):
    """The account and the session in an agent's user id, None where it names none."""

    account: str | None
    session: str | None


def parse_agent_user(text: str) -> AgentUser | None:
    """Return the account and the session that an agent's user id names; None if the text is no such id."""
    if text[:1] == "{" and len(text) <= _LONGEST:
        try:
            fields = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return None
        return AgentUser(_first(fields, _ACCOUNTS), _first(fields, _SESSIONS)) if "device_id" in fields else None
    found = _JOINED.fullmatch(text)
    return None if found is None else AgentUser(found[1], found[2])


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value
    return None
