"""Response headers that protect a page and the files it loads, such as its Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib


def security_headers(allowed: str, *, cache_control: str) -> dict[str, str]:
    """Return the headers of a response that can use only the `allowed` sources of a Content-Security-Policy."""
    policy = f"default-src 'none'; {allowed}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": cache_control,
    }


def hash_source(content: bytes) -> str:
    """Return the source that allows an inline script or style with this content and no other (CSP Level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
