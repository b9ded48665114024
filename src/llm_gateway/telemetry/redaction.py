"""Remove secrets from text: the configured provider and service keys, and anything that looks like a key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

MASK = "[redacted]"
LOOKS_SECRET = re.compile(
    r"(AIza|key=|(?<![a-z0-9])(?:sk-|csk-|gsk_|xai-|pplx-|fw_))[a-z0-9_-]{8,}"
    r"|(gw_)[a-z2-7]{12}_[a-z0-9]{8,}"  # the gateway's own (`domain/key_secret.py`)
    r"|(Bearer\s+)[a-z0-9._~+/-]{8,}",  # RFC 6750, section 2.1
    re.IGNORECASE,
)
"""Key prefixes of the vendors in the presets, and the forms in which keys are sent: `key=…` and `Bearer …`."""

MARKERS = ("sk-", "aiza", "bearer", "key=", "gsk_", "xai-", "pplx-", "fw_", "gw_")
"""Every match of LOOKS_SECRET contains one of these, in lower case; searching for them first is ten times as fast."""

MIN_SECRET_CHARACTERS = 8
"""Shorter keys are not redacted: servers without authentication get keys such as `ollama` or `EMPTY`, and removing
those would blank ordinary words."""


class Redactor:
    """Redaction of secrets in text: every configured key verbatim, and `sk-…`, `AIza…`, `Bearer …`, `key=…`.

        redact = Redactor(["the-configured-key"])
        redact("Bearer abcdefgh1234")  # "Bearer [redacted]"

    Configured keys change while the gateway runs: `learn` adds keys and removes none, because an old key can still
    appear in a late message.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: tuple[str, ...] = ()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Redact these secrets, too, from now on; those shorter than MIN_SECRET_CHARACTERS are ignored."""
        known = [s for s in secrets if len(s) >= MIN_SECRET_CHARACTERS]
        together = {*self._secrets, *known, *(json.dumps(s)[1:-1] for s in known), *(_json_text(s) for s in known)}
        self._secrets = tuple(sorted(together, key=lambda s: (-len(s), s)))

    def __call__(self, text: str) -> str:
        """Return `text` with every secret replaced by MASK."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        lowered = text.lower()
        for marker in MARKERS:  # `any` takes three times as long, and every reply comes by here
            if marker in lowered:
                return LOOKS_SECRET.sub(_mask, text)
        return text


def _json_text(secret: str) -> str:
    """Return the secret as a JSON encoder writes it that does not escape non-ASCII characters."""
    return json.dumps(secret, ensure_ascii=False)[1:-1]


def _mask(found: re.Match[str]) -> str:
    return (found[1] or found[2] or found[3]) + MASK
