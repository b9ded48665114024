"""Signed thoughts of other vendors in Google's parts.

Google's clients return `thoughtSignature` as they got it, except that SDKs decode its base64 and encode it again in
the URL-safe alphabet. So the seal of another vendor travels in the envelope that the Responses API gets
(`openai_responses/sealed.py`), once more in base64. A signature that is none of ours is Gemini's.
"""

from __future__ import annotations

import base64

from llm_gateway.domain.conversation import Thinking
from llm_gateway.protocols.openai_responses.sealed import FERNET, OURS, opened, seal


def signature_of(thought: Thinking) -> str | None:
    """Return the `thoughtSignature` that brings a thought back whole; None if its maker did not sign it."""
    sealed = seal(thought)
    return None if sealed is None else base64.urlsafe_b64encode(sealed.encode()).decode()


def thought_of(text: str, signature: str | None) -> Thinking:
    """Return the thought in a part. Gemini's own signature is left out: only a Gemini model could read it."""
    content = _sealed(signature) if signature else ""
    if content.startswith(FERNET):
        return Thinking(redacted=content)
    return opened(content) or Thinking(text=text)


def is_of_another_vendor(signature: str) -> bool:
    """Whether `signature_of` made it, so that no Gemini model could read it."""
    return _sealed(signature).startswith((FERNET, OURS))


def _sealed(signature: str) -> str:
    try:
        return base64.urlsafe_b64decode(signature.replace("+", "-").replace("/", "_")).decode("ascii")
    except ValueError:
        return ""
