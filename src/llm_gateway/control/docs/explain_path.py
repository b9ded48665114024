"""Operation of POST /api/v1/routing/explain in the OpenAPI document."""

from __future__ import annotations

from typing import Any

EXAMPLE = {"body": {"user_id": "customer-1", "service": "chat", "prompt": "Say hello."}, "session": "thread-7"}


def explain_operation() -> dict[str, Any]:
    """Return the operation, without the errors that every request can get."""
    return {
        "tags": ["generation"],
        "summary": "Explain routing",
        "description": "Return which providers a request would be sent to at this moment, in what order, and why some "
        "would be passed over. Nothing is sent, reserved or recorded.",
        "operationId": "explain_routing",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ExplainBody"},
                    "examples": {"generate": {"value": EXAMPLE}},
                }
            },
        },
        "responses": {
            "200": {
                "description": "The candidates in the order in which they would be tried.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Explanation"}}},
            },
            "404": {},
            "422": {},
            "503": {},
        },
    }
