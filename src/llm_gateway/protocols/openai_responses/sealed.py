"""The seals of thoughts in the Responses API, whose clients keep one opaque text with a reasoning item.

They send `encrypted_content` back as it came: https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items.
Anthropic takes tools' results only after the thoughts before the call, each with its signature and the very text that
is signed: https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks. So both
go there in an envelope of our own: `gw1.` and the base64url of JSON, `{"text", "signature"}` or `{"redacted"}`.
"""

from __future__ import annotations

import base64

import msgspec

from llm_gateway.domain.conversation import Thinking
from llm_gateway.protocols.contract import PARSE_ERRORS

OURS = "gw1."
FERNET = "gAAAA"
"""How OpenAI's own begin: version 0x80 and a time of 64 bits, https://github.com/fernet/spec/blob/master/Spec.md."""


class _Envelope(msgspec.Struct, gc=False, omit_defaults=True):
    text: str = ""
    signature: str | None = None
    redacted: str | None = None


_decoder = msgspec.json.Decoder(_Envelope)


def seal(thought: Thinking) -> str | None:
    """The `encrypted_content` of a thought; None where nobody sealed it.

    What OpenAI sealed, or a gateway before it, is told again as it came: its maker must know it.
    """
    redacted = thought.redacted
    if redacted and redacted.startswith((OURS, FERNET)):
        return redacted
    if redacted:
        envelope = _Envelope(redacted=redacted)
    elif thought.signature:
        envelope = _Envelope(text=thought.text, signature=thought.signature)
    else:
        return None
    return OURS + base64.urlsafe_b64encode(msgspec.json.encode(envelope)).decode()


def opened(content: str) -> Thinking | None:
    """The thought in an `encrypted_content`; None where the envelope is none of ours, or damaged."""
    if not content.startswith(OURS):
        return None
    try:
        found = _decoder.decode(base64.urlsafe_b64decode(content.removeprefix(OURS)))
    except (ValueError, *PARSE_ERRORS):
        return None
    if found.redacted:
        return Thinking(redacted=found.redacted)
    return Thinking(text=found.text, signature=found.signature) if found.signature else None
