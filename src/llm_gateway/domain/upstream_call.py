"""One upstream call, its result, and the success that a request is answered with."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.reply import Reply

Fault: TypeAlias = Literal["not_sent", "timeout", "broken"]
"""Why there is no response: provably never sent; too late; or cut after sending, so possibly billed."""


class UpstreamCall(msgspec.Struct, frozen=True, gc=False):
    """One upstream call as it is sent: `path` is appended to the target's root (percent-encoded already).

    A path may hold the model's name but nothing else of a request: the transport remembers every path of a provider.
    `is_native`: the body is the client's own document, in the protocol that the provider speaks, too. `fields` are
    header lines of this call, each with its line end. `dropped` names the hints that the provider cannot be told.
    """

    path: str
    body: bytes
    is_native: bool = False
    fields: bytes = b""
    dropped: tuple[str, ...] = ()


class UpstreamResult(msgspec.Struct, frozen=True, gc=False):
    """The result of one upstream call: a response (`status`, `body`), or a `fault` and its `message`.

    `retry_after_s` is the response's Retry-After in seconds. `is_ours`: the fault is this machine's (no more files),
    and says nothing about the provider.
    """

    status: int = 0
    body: bytes = b""
    retry_after_s: float | None = None
    fault: Fault | None = None
    message: str = ""
    is_ours: bool = False


class Success(msgspec.Struct, frozen=True, gc=False):
    """A complete success: the reply, the names of who gave it, and what that attempt cost (nano-dollars).

    `cache_part` is the candidate's, under which the reply is kept.
    """

    reply: Reply
    provider: str
    model: str
    cost_nanos: int
    cache_part: bytes
