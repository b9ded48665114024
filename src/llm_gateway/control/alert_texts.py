"""Texts of events for people: a headline, and a sentence that says what to do. Pure functions.

Names in events come from strangers: customers, models, keys. Each ends up in one line of printable characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias

import msgspec

from llm_gateway.domain.alert_target import AlertMessage, Mailbox

TEST = "alert.test"
"""Type of the message that a test sends; no glob selects it."""
MOST_CHARACTERS = 300

Data: TypeAlias = Mapping[str, Any]


class AlertText(NamedTuple):
    """A headline, and what to do."""

    headline: str
    advice: str


def text_of(message: AlertMessage) -> AlertText:
    """Return the text of a message. A type that this version does not know is shown with its data."""
    event = msgspec.json.decode(message.body)
    write = _TEXTS.get(event["type"])
    if write is None:
        return AlertText(plain(f"{event['type']}: {event['data']}"), "")
    return AlertText(*map(plain, write(event["data"])))


def plain(value: object) -> str:
    """Return a value in one line of printable characters, not too long."""
    text = "".join(each if each.isprintable() else " " for each in str(value))
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def slack_body(message: AlertMessage) -> bytes:
    """Return the body of a Slack-compatible incoming webhook.

    `&`, `<` and `>` are escaped (docs.slack.dev/messaging/formatting-message-text), so that no name makes a link or
    calls everybody with `<!channel>`.
    """
    text = text_of(message)
    whole = f"{text.headline} {text.advice}".strip()
    escaped = whole.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return msgspec.json.encode({"text": escaped})


def mail_of(message: AlertMessage, mailbox: Mailbox) -> EmailMessage:
    """Return a mail. Its Message-ID follows from the event, so that mail programs know a repetition."""
    text = text_of(message)
    mail = EmailMessage()
    mail["Subject"] = f"[LLM Gateway] {text.headline}"
    mail["From"] = mailbox.sender
    mail["To"] = ", ".join(mailbox.recipients)
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.at_ms / 1000, UTC))
    domain = mailbox.sender.rpartition("@")[2]
    mail["Message-ID"] = f"<{sha256(message.id.encode()).hexdigest()[:32]}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no program answers it
    event = msgspec.json.format(message.body.encode(), indent=2).decode()
    mail.set_content(f"{text.headline}\n\n{text.advice}\n\n{event}\n".replace("\n\n\n", "\n"))
    return mail


def _budget(data: Data) -> tuple[str, str]:
    whose = f" of {data['per']} {data['value']}" if data.get("per") else ""
    spent, limit = (f"{data[name]:,.2f}" if data["unit"] == "usd" else f"{data[name]:,}" for name in ("spent", "limit"))
    unit = data["unit"].upper() if data["unit"] == "usd" else data["unit"]
    reset = f" It resets {data['resets_at']}." if data.get("resets_at") else ""
    what = {"hard": "Requests beyond the limit are refused.", "soft": "Requests go on."}.get(data["mode"], "")
    return (
        f"Budget {data['budget']!r}{whose} has spent {data['threshold']:.0%} of its limit: {spent} of {limit} {unit}.",
        f"{what}{reset}".strip(),
    )


def _key(data: Data) -> tuple[str, str]:
    owner = f" of {data['owner']}" if data.get("owner") else ""
    return (
        f"Service key {data['key']!r}{owner} expires at {data['expires_at']}, within {_days(data['within_days'])}.",
        "Rotate it with an overlap, or set a later expires_at: its requests get 401 afterwards.",
    )


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _unpriced(data: Data) -> tuple[str, str]:
    return (
        f"Model {data['model']!r} of provider {data['provider']!r} was used without a known price.",
        "Its calls count as free: give the provider prices for it, then run llm-gateway reprice.",
    )


def _breaker(data: Data) -> tuple[str, str]:
    return (
        f"Model {data['model']!r} of provider {data['provider']!r} is not called: its circuit breaker is open.",
        "Its calls failed several times in a row. Other providers get its requests, if there are any.",
    )


def _paused(data: Data) -> tuple[str, str]:
    return (
        f"Provider {data['provider']!r} is not called: it refuses its account.",
        "Its key is wrong or its credit used up. Mend the account, then test the provider.",
    )


def _on_host(data: Data) -> str:
    return f" on host {data['host']}" if data.get("host") else ""


def _unwritable(data: Data) -> tuple[str, str]:
    return (
        f"The usage journal of {data['worker']}{_on_host(data)} cannot be written.",
        "Its calls are refused with 503, since their usage could not be recorded. Free space, or mend the disk.",
    )


def _delayed(data: Data) -> tuple[str, str]:
    return (
        f"Usage has waited for the database for {data['seconds']} seconds{_on_host(data)}.",
        "Calls go on and nothing is lost, but reports lag. See the database and the log.",
    )


def _test(data: Data) -> tuple[str, str]:
    return f"This is a test of the alert target {data['target']!r}.", "Nothing is wrong: alerts arrive here."


_TEXTS: Mapping[str, Callable[[Data], tuple[str, str]]] = {
    "budget.threshold": _budget,
    "key.expiring": _key,
    "model.unpriced": _unpriced,
    "provider.breaker_open": _breaker,
    "provider.paused": _paused,
    "journal.unwritable": _unwritable,
    "journal.delayed": _delayed,
    TEST: _test,
}
