"""Headers that tell a client the provider's rate limits, and how long its request waited for them."""

from __future__ import annotations

import math

from llm_gateway.domain.rate_limits import WindowState
from llm_gateway.error_format.responses import Headers


def rate_limit_headers(state: WindowState | None, queued_ms: int) -> Headers:
    """Return the x-ratelimit-* headers, spelled as OpenAI's, and x-gateway-queued-ms if the request waited.

    The resets are the time until the whole window is free again.
    """
    queued = [(b"x-gateway-queued-ms", b"%d" % queued_ms)] if queued_ms else []
    if state is None:
        return queued
    reset = b"%ds" % math.ceil(state.reset_s)
    return [
        (b"x-ratelimit-limit-requests", b"%d" % state.limit_requests),
        (b"x-ratelimit-limit-tokens", b"%d" % state.limit_tokens),
        (b"x-ratelimit-remaining-requests", b"%d" % state.remaining_requests),
        (b"x-ratelimit-remaining-tokens", b"%d" % state.remaining_tokens),
        (b"x-ratelimit-reset-requests", reset),
        (b"x-ratelimit-reset-tokens", reset),
        *queued,
    ]
