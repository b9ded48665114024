"""Recognise errors that say that a vendor cannot verify reasoning that the client returned, in each vendor's words.

Each row has the address where the words were found; all were looked up on 2026-11-27.
"""

from __future__ import annotations

import re
from typing import Any

from llm_gateway.domain.upstream_refusal import UpstreamRefusal

UNVERIFIABLE = UpstreamRefusal("request", is_final=True, reason="signature")
CODES = (
    "invalid_encrypted_content",  # OpenAI: https://github.com/openai/codex/issues/8145
)
MESSAGES = re.compile(
    # Anthropic: https://github.com/anthropics/claude-code/issues/10627
    r"invalid `?(?:signature|data)`? in `?(?:redacted_)?thinking`?"
    # Gemini: https://github.com/decolua/9router/issues/301
    r"|thought[ _]?signature is not valid"
    # Gemini: https://github.com/lbjlaq/Antigravity-Manager/pull/3342,
    # https://github.com/google-gemini/gemini-cli/issues/13467
    r"|(?:invalid|corrupted) thought[ _]?signature",
    re.IGNORECASE,
)


def is_unverifiable(error: dict[str, Any]) -> bool:
    """Return whether the error is about the signature or the encryption of returned reasoning.

    OpenRouter has the vendor's own words in `metadata.raw`: https://github.com/massgen/MassGen/issues/665.
    """
    if error.get("code") in CODES:
        return True
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return any(isinstance(text, str) and MESSAGES.search(text) is not None for text in (error.get("message"), raw))
