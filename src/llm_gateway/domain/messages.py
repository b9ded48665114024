"""The canonical request and reply: what every surface decodes into and every dialect encodes from."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.conversation import Completion, Conversation
from llm_gateway.domain.usage import Usage

Tags: TypeAlias = dict[str, str]


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7) in canonical text: sorts by the millisecond it was made in.

    Its random bits are unique, not secret: the operating system seeds the generator once, since asking it for every id
    takes a tenth of a request's time.
    """
    ms = time.time_ns() // 1_000_000
    tail = random.getrandbits(80)
    value = (ms << 80) | 0x7000_8000_0000_0000_0000 | (tail & 0x0FFF_3FFF_FFFF_FFFF_FFFF)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Ask:
    """What a client asks for: a document of the protocol that it speaks, or a conversation.

    The conversation in a document is read when a provider that speaks another protocol needs it, so that what only one
    protocol knows passes through to a provider of the same. `protocol` is its name in the registry of `protocols/`.
    `fields` are header lines that only those who speak it understand.
    """

    __slots__ = ("_conversation", "_read", "document", "dropped", "fields", "protocol")

    def __init__(
        self,
        protocol: str,
        document: dict[str, Any],
        read: Callable[[dict[str, Any]], tuple[Conversation, tuple[str, ...]]] | None,
        fields: bytes = b"",
    ) -> None:
        self.protocol = protocol
        self.document = document
        self.fields = fields
        self.dropped: tuple[str, ...] = ()
        self._read = read
        self._conversation: Conversation | None = None

    @classmethod
    def of(cls, conversation: Conversation) -> Ask:
        """Make the request of a client that speaks no vendor's protocol (POST /generate): it wants text back."""
        ask = cls("generate", {}, None)
        ask._conversation = conversation
        return ask

    @property
    def is_canonical(self) -> bool:
        """Whether it was made by `of`."""
        return self._read is None

    @property
    def conversation(self) -> Conversation:
        """The conversation; what it has no place for is in `dropped` from then on.

        Raises:
            Unreadable, Unsupported: (protocols/base.py) the document is none, or holds what no other protocol knows.
        """
        if self._conversation is None:
            if self._read is None:
                raise TypeError("A request without a document has a conversation.")
            self._conversation, self.dropped = self._read(self.document)
        return self._conversation


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call as a caller made it.

    `id` is ours (UUIDv7); `at_ms` is wall-clock milliseconds UTC for the record; `started` and `deadline` are seconds
    of `time.monotonic()`. The texts of `ask` weigh `input_weight` ASCII characters, its answer at most `max_tokens`.
    `json_mode`: an answer that is not JSON counts as failed. `requested_model` is as the client spelled it; None:
    what the routing gives.
    """

    id: str
    at_ms: int
    started: float
    deadline: float
    key_name: str
    surface: str
    user_id: str
    service: str
    ask: Ask
    task_type: str = "general"
    max_tokens: int = 1000
    json_mode: bool = False
    client_request_id: str | None = None
    tags: Tags = {}
    use_cache: bool = True
    keep_in_cache: bool = True
    input_weight: int = 0
    stream: bool = False
    requested_model: str | None = None

    def estimated_input_tokens(self) -> int:
        """Tokens the input will take: four ASCII characters or three UTF-8 bytes each, plus the messages' framing."""
        return self.input_weight // 4 + 8


def weight(text: str) -> int:
    """How many ASCII characters would take as many tokens."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) * 4 // 3


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a provider answered. `upstream_model` is the name it reported, `usage_estimated` that it counted nothing.

    A client is answered with a `body`, the provider's own document in the client's protocol, with a `completion`, or,
    if it wants text, with `content`.
    `dropped` names the hints that the provider could not be told. `may_be_kept`: not where it holds what only its own
    protocol knows, which can be handed on as it came, but not be told again.
    """

    content: str
    usage: Usage
    finish_reason: str = "stop"
    upstream_model: str | None = None
    upstream_request_id: str | None = None
    usage_estimated: bool = False
    completion: Completion | None = None
    body: bytes = b""
    dropped: tuple[str, ...] = ()
    may_be_kept: bool = True


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the caller gets: the reply, who gave it and why, and what it cost (integer nano-dollars).

    `route` is as `Plan.route_to` returns it.
    """

    reply: Reply
    provider: str
    model: str
    cost_nanos: int
    cost_status: str
    cached: bool = False
    route: bytes = b"priority"
