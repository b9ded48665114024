"""Targets of alerts: who gets messages about which events, and where. Their texts are in `control/alert_texts.py`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, TypeAlias

import msgspec

Kind: TypeAlias = Literal["webhook", "slack", "email"]
Security: TypeAlias = Literal["starttls", "tls", "none"]

EVENTS = (
    "budget.threshold",
    "journal.delayed",
    "journal.unwritable",
    "key.expiring",
    "model.unpriced",
    "provider.breaker_open",
    "provider.paused",
)
"""Types of events."""
PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
"""Default port of each kind of connection to a mail server (RFC 6409, RFC 8314, RFC 5321)."""


class Mailbox(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A mail server, and from whom to whom it sends."""

    host: str
    port: int
    security: Security
    sender: str
    recipients: tuple[str, ...]
    user: str | None = None


class AlertSecret(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Parts of a target that are encrypted at rest: the URL, which has a token in it as a rule, and the secrets.

    `secret` signs messages to a webhook, `password` is the mail server's. `repr()` shows none of them.
    """

    url: str | None = None
    secret: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "AlertSecret(…)"

    def texts(self) -> list[str]:
        """Return what must never be shown."""
        return [each for each in (self.url, self.secret, self.password) if each]


class AlertTarget(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A target without its secrets. `*_ms` are milliseconds UTC.

    Attributes:
        events: globs of the types of events that it gets.
        host: of its URL, to show it without the token; of the mail server.
        mailbox: of a target of the kind `email`.
        has_secret: whether messages to it are signed, or the mail server gets a password.
        delivered_ms: when it last took a message.
        failed_ms: when it last failed to, with `error` as the reason. Null once it takes messages again.
    """

    id: str
    name: str
    kind: Kind
    events: tuple[str, ...]
    is_enabled: bool
    host: str
    mailbox: Mailbox | None
    has_secret: bool
    created_at_ms: int
    updated_at_ms: int
    delivered_ms: int | None = None
    failed_ms: int | None = None
    error: str | None = None

    def hears(self, kind: str) -> bool:
        """Return whether the target gets events of a type."""
        return self.is_enabled and any(fnmatchcase(kind, glob) for glob in self.events)


class Sent(NamedTuple):
    """Result of a message: whether the server took it, and what it said or what went wrong, as a sentence."""

    success: bool
    sentence: str


class AlertMessage(msgspec.Struct, frozen=True, gc=False):
    """A message about an event: its id, the event's time (milliseconds UTC), and its JSON text."""

    id: str
    at_ms: int
    body: str
