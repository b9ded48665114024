"""Encode other vendors' signed reasoning as the `encrypted_content` of Responses reasoning items, and decode it again.

Responses clients keep one opaque string per reasoning item and return it unchanged:
https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items.
Anthropic accepts tool results only after the reasoning that preceded the call, with its signature and the exact text
that was signed: https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks.
The string therefore holds both: `gw1.` and the base64url of a JSON object, `{"text", "signature"}` or `{"redacted"}`.
"""

from __future__ import annotations

import base64

import msgspec

from llm_gateway.domain.conversation import Thinking
from llm_gateway.protocols.contract import PARSE_ERRORS

GATEWAY_PREFIX = "gw1."
"""Prefix of the strings that `encode_reasoning` makes."""
OPENAI_PREFIX = "gAAAA"
"""Prefix of OpenAI's strings: version 0x80 and a 64-bit time, https://github.com/fernet/spec/blob/master/Spec.md."""


class _Envelope(msgspec.Struct, gc=False, omit_defaults=True):
    text: str = ""
    signature: str | None = None
    redacted: str | None = None


_decoder = msgspec.json.Decoder(_Envelope)


def encode_reasoning(thought: Thinking) -> str | None:
    """Return the `encrypted_content` for reasoning; None if it has neither a signature nor an encrypted form.

    Strings that OpenAI or another gateway made are returned unchanged, since their maker must recognise them.
    """
    redacted = thought.redacted
    if redacted and redacted.startswith((GATEWAY_PREFIX, OPENAI_PREFIX)):
        return redacted
    if redacted:
        envelope = _Envelope(redacted=redacted)
    elif thought.signature:
        envelope = _Envelope(text=thought.text, signature=thought.signature)
    else:
        return None
    return GATEWAY_PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(envelope)).decode()


def decode_reasoning(content: str) -> Thinking | None:
    """Return the reasoning in an `encrypted_content`; None if it is damaged or not by `encode_reasoning`."""
    if not content.startswith(GATEWAY_PREFIX):
        return None
    try:
        envelope = _decoder.decode(base64.urlsafe_b64decode(content.removeprefix(GATEWAY_PREFIX)))
    except (ValueError, *PARSE_ERRORS):
        return None
    if envelope.redacted:
        return Thinking(redacted=envelope.redacted)
    return Thinking(text=envelope.text, signature=envelope.signature) if envelope.signature else None
