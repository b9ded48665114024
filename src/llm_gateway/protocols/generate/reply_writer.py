"""The response body of POST /api/v1/generate."""

from __future__ import annotations

import msgspec


class GenerateAnswer(msgspec.Struct, gc=False):
    """The response fields of the reference, then two more: why it ended, and how sure the cost is."""

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
