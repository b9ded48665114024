"""Fields of alert targets in the API: their types and bounds, and the schemas of requests and responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.config import JsonDict

from llm_gateway.control.management import base_url
from llm_gateway.control.management.fields import STRICT, WHOLE, Id, Text, Timestamp
from llm_gateway.domain.alert_target import EVENTS, PORTS, AlertTarget, Mailbox, Security

URL_PATTERN = rf"{base_url.PATTERN.removesuffix('$')}(\?[!-\"$-~]*)?$"
"""A base URL that may have a query: some receivers have their token in it."""
HOST_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9.:_-]{0,251}[A-Za-z0-9])?$"
ADDRESS_PATTERN = (
    r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"
)
GLOB_PATTERN = r"^[a-z_.*]{1,64}$"
MOST_RECIPIENTS, MOST_GLOBS = 20, 20

Kind = Literal["webhook", "slack", "email"]
Glob = Annotated[str, Field(pattern=GLOB_PATTERN)]
Globs = Annotated[
    list[Glob],
    Field(min_length=1, max_length=MOST_GLOBS, description=f"globs of types of events: {', '.join(EVENTS)}"),
]
Url = Annotated[
    SecretStr, Field(min_length=1, max_length=base_url.MAX_CHARACTERS, json_schema_extra={"pattern": URL_PATTERN})
]
Secret = Annotated[SecretStr, Field(min_length=8, max_length=500)]
Password = Annotated[SecretStr, Field(min_length=1, max_length=500)]
Host = Annotated[str, Field(pattern=HOST_PATTERN)]
Port = Annotated[int, Field(ge=1, le=65535), WHOLE]
Address = Annotated[str, Field(max_length=254, pattern=ADDRESS_PATTERN)]
Recipients = Annotated[list[Address], Field(min_length=1, max_length=MOST_RECIPIENTS)]
User = Annotated[str, Field(min_length=1, max_length=320, pattern=r"^[^\x00-\x1f\x7f]*$")]

EXAMPLE: JsonDict = {
    "name": "operations",
    "kind": "slack",
    "url": "https://hooks.slack.com/services/T000/B000/XXXX",
    "events": ["budget.*", "provider.*"],
}


class _Fields(BaseModel):
    """Fields of a target that its kind has or has not. `url`, `secret` and `password` are never returned."""

    model_config = ConfigDict(**STRICT)

    url: Annotated[Url | None, Field(description="webhook, slack: where messages are posted")] = None
    secret: Annotated[Secret | None, Field(description="webhook: signs the messages; null: they are not signed")] = None
    host: Annotated[Host | None, Field(description="email: the mail server")] = None
    port: Annotated[Port | None, Field(description="email: by default 587, 465 or 25, as `security` is")] = None
    security: Annotated[Literal["starttls", "tls", "none"] | None, Field(description="email: starttls by default")] = (
        None
    )
    user: Annotated[User | None, Field(description="email: with a password")] = None
    password: Annotated[Password | None, Field(description="email: of the user")] = None
    sender: Annotated[Address | None, Field(description="email: the From address")] = None
    recipients: Annotated[Recipients | None, Field(description="email: the To addresses")] = None


class AlertTargetCreate(_Fields):
    """Fields of a new target."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": [EXAMPLE]})

    name: Text
    kind: Kind
    events: Globs = Field(default_factory=lambda: ["*"])
    is_enabled: bool = True


class AlertTargetPatch(_Fields):
    """Fields to change. The kind of a target stays."""

    name: Text = ""
    events: Globs = Field(default_factory=lambda: ["*"])
    is_enabled: bool = True


class AlertTargetOut(BaseModel):
    """A target as the API returns it: without its secrets, but with the host of its URL."""

    id: Id
    name: str
    kind: Kind
    events: list[str]
    is_enabled: bool
    host: str
    port: int | None
    security: str | None
    user: str | None
    sender: str | None
    recipients: list[str] | None
    has_secret: Annotated[bool, Field(description="whether messages are signed, or the mail server gets a password")]
    waiting: Annotated[int, Field(description="messages that are to be sent to it")]
    last_delivered_at: Timestamp | None
    last_error: Annotated[str | None, Field(description="null once it takes messages again")]
    last_error_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp


class AlertTargetTest(BaseModel):
    """The result of a test: whether the receiver took the message, and what it answered."""

    success: bool
    answer: str


def mailbox_fields(target: AlertTarget) -> dict[str, Any]:
    """Return the fields of a target's mail server, None for other kinds."""
    names = ("port", "security", "user", "sender")
    box = target.mailbox
    fields = {name: None if box is None else getattr(box, name) for name in names}
    return fields | {"recipients": None if box is None else list(box.recipients)}


def mailbox_of(fields: dict[str, Any]) -> Mailbox:
    """Return the mail server of a target of the kind `email`, whose required fields are given."""
    security: Security = fields.get("security") or "starttls"
    return Mailbox(
        host=fields["host"],
        port=fields.get("port") or PORTS[security],
        security=security,
        sender=fields["sender"],
        recipients=tuple(fields["recipients"]),
        user=fields.get("user"),
    )
