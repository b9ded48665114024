"""Parts of the OpenAPI document, and whether they describe a value or a response."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from llm_gateway.protocols.registry import VENDOR_PATH_PREFIXES
from tests.application.driver import Response

SPEND_LIMITS = "/v1/organizations/spend_limits"
"""A part of Anthropic's Admin API, whose errors have that vendor's shape."""
ONE_LIMIT = f"{SPEND_LIMITS}/{{spend_limit_id}}"


def operations(document: Any, start: str = "/") -> dict[tuple[str, str], Any]:
    """Return the operations whose path starts with `start`; by default those with problem documents as errors."""
    return {
        (method, path): found
        for path, item in document["paths"].items()
        if path.startswith(start) and path.startswith(VENDOR_PATH_PREFIXES) == start.startswith(VENDOR_PATH_PREFIXES)
        for method, found in item.items()
    }


def resolved(document: Any, part: Any) -> Any:
    """Return the target of a reference."""
    while "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def valid(document: Any, schema: Any, value: object) -> bool:
    whole = msgspec.json.encode({**schema, "components": document["components"]})
    return bool(validator(whole).is_valid(value))


@lru_cache(8)
def validator(schema: bytes) -> Any:
    """Build the validator of a schema as JSON; most are asked for many values in a row."""
    return jsonschema_rs.validator_for(msgspec.json.decode(schema))


def body_schema(document: Any, method: str, path: str) -> Any:
    return document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]


def assert_described(document: Any, method: str, path: str, response: Response) -> None:
    """Assert that the document describes the response's status, content type, headers and body."""
    described = resolved(document, document["paths"][path][method.lower()]["responses"][str(response.status)])
    for name, header in described["headers"].items():
        if resolved(document, header).get("required"):
            assert name in response.headers
    own = {name for name in response.headers if name.startswith(("x-gateway-", "x-ratelimit-")) or name == "location"}
    assert own <= {*described["headers"]}
    if "content" not in described:
        assert response.body == b""
        return
    content = described["content"][response.headers["content-type"].partition(";")[0]]
    if response.headers["content-type"].partition(";")[0] in ("application/json", "application/problem+json"):
        assert valid(document, content["schema"], response.json), response.body
