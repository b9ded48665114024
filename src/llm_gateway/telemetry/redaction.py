"""What must never leave: provider keys, service keys, and anything that looks like one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

MASK = "[redacted]"
LOOKS_SECRET = re.compile(
    r"(AIza|key=|(?<![a-z0-9])(?:sk-|csk-|gsk_|xai-|pplx-|fw_))[a-z0-9_-]{8,}"
    r"|(Bearer\s+)[a-z0-9._~+/-]{8,}",  # RFC 6750, section 2.1
    re.IGNORECASE,
)
"""How the vendors of the presets make their keys, and how keys travel."""

MARKERS = ("sk-", "aiza", "bearer", "key=", "gsk_", "xai-", "pplx-", "fw_")
"""What every match of LOOKS_SECRET contains, in lower case: looking for these first is some ten times as fast."""

MIN_SECRET_CHARACTERS = 8
"""Keyless servers are given keys such as `ollama` or `EMPTY`, which would blank ordinary words."""


class Redactor:
    """Removes secrets from text: every configured key verbatim, and `sk-…`, `AIza…`, `Bearer …`, `key=…`.

    Configured keys change while the gateway runs: `learn` adds them and forgets none, because an old key can still
    come back in a late message.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: tuple[str, ...] = ()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Remove these from now on, too; those so short that they would blank ordinary words are left out."""
        known = [s for s in secrets if len(s) >= MIN_SECRET_CHARACTERS]
        together = {*self._secrets, *known, *(json.dumps(s)[1:-1] for s in known), *(_json_text(s) for s in known)}
        self._secrets = tuple(sorted(together, key=lambda s: (-len(s), s)))

    def __call__(self, text: str) -> str:
        """`text` without secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        lowered = text.lower()
        if any(marker in lowered for marker in MARKERS):
            return LOOKS_SECRET.sub(_mask, text)
        return text


def _json_text(secret: str) -> str:
    """How a JSON encoder that leaves non-ASCII characters as they are writes it."""
    return json.dumps(secret, ensure_ascii=False)[1:-1]


def _mask(found: re.Match[str]) -> str:
    return (found[1] or found[2]) + MASK
