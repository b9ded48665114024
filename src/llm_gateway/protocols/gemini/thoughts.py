"""Encode signed thoughts of other vendors as Gemini's `thoughtSignature`, and decode them again.

Clients return `thoughtSignature` unchanged, except that Google's SDKs decode its base64 and encode it in the URL-safe
alphabet. So the gateway puts the other vendor's signature into the envelope that it uses for the Responses API, too
(`encrypted_reasoning.py`), and encodes that in base64. Any other signature is Gemini's own.
"""

from __future__ import annotations

import base64

from llm_gateway.domain.conversation import Thinking
from llm_gateway.protocols.encrypted_reasoning import (
    OPENAI_PREFIX,
    RESPONSES_PREFIX,
    decode_reasoning,
    encode_reasoning,
    is_marked,
)


def signature_of(thought: Thinking) -> str | None:
    """Return a `thoughtSignature` that contains the thought; None if its vendor did not sign it."""
    encoded = encode_reasoning(thought)
    return None if encoded is None else base64.urlsafe_b64encode(encoded.encode()).decode()


def thought_of(text: str, signature: str | None) -> Thinking:
    """Return the thought of a part, decoded from its signature. Drops Gemini's own: other vendors cannot read it."""
    content = _decoded(signature) if signature else ""
    if content.startswith((OPENAI_PREFIX, RESPONSES_PREFIX)):
        return Thinking(redacted=content)
    return decode_reasoning(content) or Thinking(text=text)


def is_of_another_vendor(signature: str) -> bool:
    """Return whether `signature_of` made this signature, so that Gemini would reject it."""
    return is_marked(_decoded(signature))


def _decoded(signature: str) -> str:
    try:
        return base64.urlsafe_b64decode(signature.replace("+", "-").replace("/", "_")).decode("ascii")
    except ValueError:
        return ""
