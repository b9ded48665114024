"""Client request in canonical form: its content, deadline, caller and routing options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from llm_gateway.domain.client_presence import ClientPresence
from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.domain.token_estimate import CHARACTERS_PER_TOKEN, FRAMING_TOKENS, InputSize
from llm_gateway.domain.trace_context import TraceContext
from llm_gateway.json_outline import HeldTexts

Tags: TypeAlias = dict[str, str]


class ClientRequest(msgspec.Struct, eq=False):
    """The content of a client's request: a document in the client's protocol, or a conversation.

    The document is parsed into a conversation only when a provider that speaks another protocol needs it: `_read`
    parses it, and is None for a request without a document. A provider of the same protocol gets the document itself,
    including fields that the canonical form cannot express. `protocol` is the protocol's name in the registry of
    `protocols/`. `header_lines` are headers to forward to providers of the same protocol only (`anthropic-beta`).

    Of a large document, `held` has the rests of its long strings (`json_outline`). If it is large without them, too,
    `document` has its small fields only, and `apart` is the `ForkedCalls` (`worker/pipeline/forked_calls.py`) that has
    the rest. `size` is the size of its input, None until a budget needs it (`protocols/input_size.py`).
    """

    protocol: str
    document: dict[str, Any]
    _read: Callable[[dict[str, Any]], tuple[Conversation, tuple[str, ...]]] | None
    header_lines: bytes = b""
    dropped: tuple[str, ...] = ()
    _conversation: Conversation | None = None
    held: HeldTexts | None = None
    apart: Any = None
    size: InputSize | None = None

    @classmethod
    def of(cls, conversation: Conversation) -> ClientRequest:
        """Make the request of a client of the gateway's own API (POST /generate), which expects plain text."""
        return cls("generate", {}, None, b"", (), conversation)

    @property
    def is_canonical(self) -> bool:
        """True if the request has no vendor's document, because it was made by `of`."""
        return self._read is None

    @property
    def known_conversation(self) -> Conversation | None:
        """The conversation, None if it was not parsed."""
        return self._conversation

    def put_conversation(self, conversation: Conversation | None) -> None:
        """Replace the conversation; None has it parsed at the next access."""
        self._conversation = conversation

    @property
    def conversation(self) -> Conversation:
        """The conversation, parsed at the first access; `dropped` then names the fields that it cannot express.

        Raises:
            Unreadable: the document does not conform to its protocol (`protocols/contract.py`).
            Unsupported: the document has a field that no other protocol can express, and that changes the answer.
        """
        if self._conversation is None:
            if self._read is None:
                raise TypeError("A request without a document has a conversation.")
            self._conversation, self.dropped = self._read(self.document)
        return self._conversation


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A client request that passed authentication and validation.

    `id` is the gateway's own (UUIDv7), `client_request_id` the client's. `at_ms` is wall-clock time in milliseconds
    UTC, for the usage record; `started` and `deadline` are `time.monotonic()` seconds. `input_length` is the size of
    the input in equivalent ASCII characters (`token_estimate.py`), `max_tokens` the limit of the output.
    `json_mode`: an answer that is not JSON counts as a failed attempt. `requested_model` is the client's spelling,
    None to let the routing choose. `session` is the client's name for the conversation, `agent` the program that sent
    the request; `beginning` returns the start of the conversation, which replaces the session of a request without
    one. `key` is that of the request, None for keys of the environment. `use_cache` allows an answer from the cache,
    `store_in_cache` storing the answer. `presence` tells whether a client still waits for the answer. `trace` is the
    context of the client's trace, None without one.
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
    store_in_cache: bool = True
    input_length: int = 0
    stream: bool = False
    session: str | None = None
    agent: str | None = None
    beginning: Callable[[], str] | None = None
    requested_model: str | None = None
    key: ServiceKey | None = None
    trace: TraceContext | None = None
    presence: ClientPresence = msgspec.field(default_factory=ClientPresence)

    def estimated_input_tokens(self) -> int:
        """Return the estimated number of input tokens."""
        return self.input_length // CHARACTERS_PER_TOKEN + FRAMING_TOKENS
