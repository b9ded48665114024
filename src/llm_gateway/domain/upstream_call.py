"""Upstream call types: the HTTP call to a provider, its result, and a successful reply with its cost."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from llm_gateway.domain.rate_limits import ReportedLimits
from llm_gateway.domain.reply import Reply
from llm_gateway.json_outline import Outline, Piece

Fault: TypeAlias = Literal["not_sent", "timeout", "broken"]
"""Reason that a call has no response. `not_sent` is certain; a `timeout` or `broken` call can have been billed."""


class UpstreamCall(msgspec.Struct, frozen=True, gc=False):
    """An HTTP call to a provider, ready to send. `path` is percent-encoded and appended to the target's root.

    The only part of a request that `path` may contain is the model's name: the transport caches every path of a
    provider. `codec` is the `providers.dialect.ProtocolCodec` that reads the reply.
    `is_native`: the body is the client's own document, since the provider speaks the client's protocol.
    `header_lines` are extra headers, each line ending in CRLF. `dropped` names the request fields that the provider's
    protocol cannot express. `pieces`: a large body in pieces, of which `body` is the outline (`json_outline`) or a
    digest; None if `body` is what is sent. `renamed` holds pairs of JSON strings: a tool's name that the provider was
    sent, and the client's name for it, which has to stand in the answer.
    """

    path: str
    body: bytes
    is_native: bool = False
    header_lines: bytes = b""
    dropped: tuple[str, ...] = ()
    codec: Any = None
    renamed: tuple[tuple[bytes, bytes], ...] = ()
    pieces: list[Piece] | None = None

    @property
    def content(self) -> bytes | list[Piece]:
        """The bytes to send, in pieces if the body is large."""
        return self.body if self.pieces is None else self.pieces

    def restored(self, answer: bytes) -> bytes:
        """Return a provider's answer, or a part of it, with the client's names of tools."""
        for sent, own in self.renamed:
            answer = answer.replace(sent, own)
        return answer


class UpstreamResult(msgspec.Struct, frozen=True, gc=False):
    """The result of one upstream call: a response (`status`, `body`), or a `fault` with a `message`.

    `retry_after_s` is the wait in seconds that a response with an error status asks for, `limits` are the provider's
    rate limits as the response's headers report them. `is_ours`: this machine is at fault (for example out of
    file descriptors), so the provider's circuit breaker ignores the result. `outline` is that of a large body.
    """

    status: int = 0
    body: bytes = b""
    retry_after_s: float | None = None
    fault: Fault | None = None
    message: str = ""
    is_ours: bool = False
    limits: ReportedLimits | None = None
    outline: Outline | None = None


class Success(msgspec.Struct, frozen=True, gc=False):
    """A successful attempt: the reply, its provider and model, and the attempt's cost in nano-dollars.

    `cache_part` is the candidate's part of the key under which the reply is cached. `queued_ms` is the time that the
    request waited for a rate limit.
    """

    reply: Reply
    provider: str
    model: str
    cost_nanos: int
    cache_part: bytes
    queued_ms: int = 0
