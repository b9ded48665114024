"""Headers that tell a client the provider's rate limits, and how long its request waited for them."""

from __future__ import annotations

import math
from functools import lru_cache

from llm_gateway.domain.rate_limits import WindowState
from llm_gateway.error_format.responses import Headers

_REMEMBERED = 1024
"""Encoded limits that are remembered: a provider has up to 62 resets."""


def rate_limit_headers(state: WindowState | None, queued_ms: int) -> Headers:
    """Return the x-ratelimit-* headers, spelled as OpenAI's, and x-gateway-queued-ms if the request waited.

    The resets are the time until the whole window is free again.
    """
    headers: Headers = []
    if state is not None:
        headers = [
            *_limits_and_resets(state.limit_requests, state.limit_tokens, math.ceil(state.reset_s)),
            (b"x-ratelimit-remaining-requests", b"%d" % state.remaining_requests),
            (b"x-ratelimit-remaining-tokens", b"%d" % state.remaining_tokens),
        ]
    if queued_ms:
        headers.append((b"x-gateway-queued-ms", b"%d" % queued_ms))
    return headers


@lru_cache(maxsize=_REMEMBERED)
def _limits_and_resets(requests: int, tokens: int, reset_s: int) -> Headers:
    """Return the headers that most answers of a provider share."""
    reset = b"%ds" % reset_s
    return [
        (b"x-ratelimit-limit-requests", b"%d" % requests),
        (b"x-ratelimit-limit-tokens", b"%d" % tokens),
        (b"x-ratelimit-reset-requests", reset),
        (b"x-ratelimit-reset-tokens", reset),
    ]
