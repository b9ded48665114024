"""Write a completed answer as the response body of POST /api/v1/generate."""

from __future__ import annotations

import msgspec


class GenerateAnswer(msgspec.Struct, gc=False):
    """The fields of the response.

    `finish_reason` and `cost_status` (exact, estimated or unpriced) are additions to the API reference.
    """

    content: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cached: bool
    latency_ms: int
    finish_reason: str
    cost_status: str
