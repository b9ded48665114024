"""A client's request in canonical form, whichever protocol the client speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.token_estimate import estimated_tokens

Tags: TypeAlias = dict[str, str]


class ClientRequest:
    """The content of a client's request: a document of the protocol that it speaks, or a conversation.

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
    def of(cls, conversation: Conversation) -> ClientRequest:
        """Make the request of a client that speaks no vendor's protocol (POST /generate): it wants text back."""
        client_request = cls("generate", {}, None)
        client_request._conversation = conversation
        return client_request

    @property
    def is_canonical(self) -> bool:
        """Whether it was made by `of`."""
        return self._read is None

    @property
    def conversation(self) -> Conversation:
        """The conversation; what it has no place for is in `dropped` from then on.

        Raises:
            Unreadable, Unsupported: (protocols/contract.py) the document is no request of its protocol, or holds
                what no other protocol can express.
        """
        if self._conversation is None:
            if self._read is None:
                raise TypeError("A request without a document has a conversation.")
            self._conversation, self.dropped = self._read(self.document)
        return self._conversation


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call as a caller made it.

    `id` is ours (UUIDv7); `at_ms` is wall-clock milliseconds UTC for the record; `started` and `deadline` are seconds
    of `time.monotonic()`. The texts of `client_request` weigh `input_weight` ASCII characters, its answer at most
    `max_tokens`.
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
    client_request: ClientRequest
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
        """Estimate the tokens of the input."""
        return estimated_tokens(self.input_weight)
