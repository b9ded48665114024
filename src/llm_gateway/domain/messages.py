"""The canonical request and reply: what every surface decodes into and every dialect encodes from."""

from __future__ import annotations

import random
import time
from typing import TypeAlias

import msgspec

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


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call as a caller made it.

    `id` is ours (UUIDv7); `at_ms` is wall-clock milliseconds UTC for the record; `started` and `deadline` are seconds
    of `time.monotonic()`.
    """

    id: str
    at_ms: int
    started: float
    deadline: float
    key_name: str
    surface: str
    user_id: str
    service: str
    prompt: str
    task_type: str = "general"
    system: str = ""
    max_tokens: int = 1000
    temperature: float = 0.7
    json_mode: bool = False
    client_request_id: str | None = None
    tags: Tags = {}
    use_cache: bool = True
    keep_in_cache: bool = True

    def estimated_input_tokens(self) -> int:
        """Tokens the prompt will take: four ASCII characters or three UTF-8 bytes each, plus the messages' framing."""
        return (_weight(self.prompt) + _weight(self.system)) // 4 + 8


def _weight(text: str) -> int:
    """How many ASCII characters would take as many tokens."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) * 4 // 3


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a provider answered. `upstream_model` is the name it reported, `usage_estimated` that it counted nothing."""

    content: str
    usage: Usage
    finish_reason: str = "stop"
    upstream_model: str | None = None
    upstream_request_id: str | None = None
    usage_estimated: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the caller gets: the reply, who gave it, and what it cost (integer nano-dollars)."""

    content: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    finish_reason: str
    cost_nanos: int
    cost_status: str
    cached: bool = False
