"""Write errors for clients of the Responses API: those of OpenAI's other APIs, but for a budget that is used up.

Codex shows `usage_limit_reached` with the date of `resets_at`, and does not try again:
https://github.com/openai/codex (seen with its client, 2026-11-27).
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.errors import BudgetExceeded, GatewayError
from llm_gateway.protocols.openai_chat import errors as chat

USED_UP = "usage_limit_reached"


def write_error(error: GatewayError, request_id: str) -> bytes:
    """Encode an error response."""
    if not isinstance(error, BudgetExceeded):
        return chat.write_error(error, request_id)
    document: dict[str, Any] = {
        "type": USED_UP,
        "code": error.code,
        "message": error.detail,
        "param": None,
        "request_id": request_id,
    }
    if error.budget is not None and error.budget.resets_s is not None:
        document["resets_at"] = error.budget.resets_s
    return msgspec.json.encode({"error": document})
