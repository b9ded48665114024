"""The OpenAPI document of the whole API: FastAPI's own for the management plane, with what only this package knows.

That is the data plane, the gate, and the real errors: every status an operation can answer, in the one shape of errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from llm_gateway.control.docs.protocol_paths import (
    header_key_requirements,
    protocol_paths,
    protocol_schemas,
    security_schemes,
)
from llm_gateway.control.management.query import refuses_parameters
from llm_gateway.error_format.responses import PROBLEM, Problem
from llm_gateway.errors import GatewayError
from llm_gateway.gate.authentication import GENERATE_PATH, OPEN_PATHS, opens_with_basic, scope_needed
from llm_gateway.gate.headers import TAGS_PATTERN
from llm_gateway.protocols.generate import GenerateAnswer, GenerateBody

Document: TypeAlias = dict[str, Any]

DESCRIPTION = """\
One API in front of every LLM vendor, with routing, limits, failover and exact accounting.

Every response carries `x-request-id`: yours if you sent one, else the gateway's. Every error is a problem document
(RFC 9457) whose `detail` says what to do, and carries `x-should-retry`. Another method than those listed is answered
405 with `Allow`; GET paths take HEAD too.
"""
TAGS = [
    {"name": "generation", "description": "Ask a model."},
    {"name": "surfaces", "description": "The same gateway for the SDKs of OpenAI, Anthropic and Google."},
    {"name": "providers", "description": "The upstream accounts that calls go to."},
    {"name": "overrides", "description": "Where one customer's calls go first."},
    {"name": "usage", "description": "What was asked and bought, up to the last answer given."},
    {"name": "health", "description": "Whether the gateway, its database and its providers are there."},
    {"name": "documentation", "description": "This description, for programs and for people."},
]
SECURITY_SCHEMES = {
    "ServiceKey": {"type": "apiKey", "in": "header", "name": "X-Service-Key"},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, as OpenAI's SDKs send it."},
    "Browser": {"type": "http", "scheme": "basic", "description": "The key as the password, whatever the name."},
    **security_schemes(),
}
KEYS: list[dict[str, list[str]]] = [{"ServiceKey": []}, {"Bearer": []}, *header_key_requirements()]
ANYWHERE = (400, 408, 413, 431, 500, 503)
"""What any request may be answered, the server's own refusals included."""
SERVER_ERRORS = {
    408: ("request_timeout", "Request timeout", "The request did not arrive in time: send it again, without pauses."),
    431: ("headers_too_large", "Headers too large", "The request line and headers are too large: send less of them."),
}
HEADERS: dict[str, Document] = {
    "x-request-id": {
        "description": "Yours if you sent one, else the gateway's.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "x-should-retry": {
        "description": "Whether sending the same again can help.",
        "required": True,
        "schema": {"type": "boolean"},
    },
    "retry-after": {"description": "Whole seconds, rounded up.", "schema": {"type": "integer", "minimum": 1}},
    "retry-after-ms": {"description": "The same in milliseconds.", "schema": {"type": "integer", "minimum": 1}},
    "x-gateway-provider": {
        "description": "The provider that answered.",
        "required": True,
        "schema": {"type": "string"},
    },
    "x-gateway-route": {
        "description": "Why it answered: by `priority`, since it is the `only` one, since the request names a `model`, "
        "or by an `override`; with `; fallback` behind it if one that comes before it failed or could not be asked.",
        "required": True,
        "schema": {"type": "string", "pattern": "^(priority|only|model|override)(; fallback)?$"},
    },
    "www-authenticate": {
        "description": "Which credentials are taken.",
        "required": True,
        "schema": {"type": "string"},
    },
}


MESSAGE: Document = {
    "type": "object",
    "required": ["role", "content"],
    "additionalProperties": False,
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "additionalProperties": False,
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                },
            ]
        },
    },
}
"""A message of chat completions in its simplest forms; what else that protocol knows is taken, too."""
ASKS: Document = {
    "anyOf": [
        {"required": ["prompt"]},
        {"required": ["messages"], "properties": {"messages": {"type": "array", "items": MESSAGE}}},
    ]
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these errors beside those that any request may be answered."""
    return {status: {} for status in statuses}


def describe(routes: Sequence[BaseRoute], version: str) -> Document:
    """The document for these routes of the management plane, and for the data plane."""
    document = get_openapi(
        title="LLM Gateway",
        version=version,
        description=DESCRIPTION,
        routes=routes,
        tags=TAGS,
        servers=[{"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, of_structs = msgspec.json.schema_components(
        (GenerateBody, GenerateAnswer, Problem), ref_template="#/components/schemas/{name}"
    )
    schemas.update(of_structs)
    schemas["GenerateBody"] |= ASKS
    document["paths"] = {GENERATE_PATH: {"post": _generate()}, **document["paths"]}
    document["security"] = KEYS
    document["components"] |= {
        "securitySchemes": SECURITY_SCHEMES,
        "headers": HEADERS,
        "responses": {_response_name(status): _response(status, codes) for status, codes in _codes().items()},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method.upper(), operation)
    answered = document["paths"][GENERATE_PATH]["post"]["responses"]["200"]
    answered["headers"] |= _headers("x-gateway-provider", "x-gateway-route")
    document["paths"] |= protocol_paths(KEYS)
    schemas.update(protocol_schemas())
    return document


def _complete(path: str, method: str, operation: Document) -> None:
    """Add to an operation what the gate and the server answer, and who may call it."""
    responses = operation["responses"]
    if "content" in responses.get("422", {}):  # FastAPI's guess; a route that means it declares it without content
        del responses["422"]
    errors = {*ANYWHERE, *(int(status) for status in responses if status >= "400")}
    if path in OPEN_PATHS:
        operation["security"] = []
        errors.add(403)  # the host
    else:
        errors |= {401, 403, 422} if refuses_parameters(path) else {401, 403}
        scopes = dict.fromkeys((scope_needed(method, path), "admin"))
        needs = f"Needs a key with the scope {' or '.join(f'`{scope}`' for scope in scopes)}."
        operation["description"] = "\n\n".join(filter(None, (operation.get("description"), needs)))
        if opens_with_basic(method, path):
            operation["security"] = [*KEYS, {"Browser": []}]
    for status, response in responses.items():
        if status < "400":
            response["headers"] = _headers("x-request-id")
            response["description"] = response["description"].replace("Successful Response", "Done.")
    for error in errors:
        responses[str(error)] = {"$ref": f"#/components/responses/{_response_name(error)}"}
    operation["responses"] = dict(sorted(responses.items()))
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["schema"] |= {"format": "uuid"}
        elif alternatives := parameter["schema"].pop("anyOf", None):  # a query has no null: it is left out
            parameter["schema"] |= alternatives[0]


def _codes() -> dict[int, dict[str, tuple[str, str]]]:
    """Every error a caller can get: status → code → (title, detail)."""
    found: dict[int, dict[str, tuple[str, str]]] = {}
    for error in GatewayError.__subclasses__():
        sentence = (error.__doc__ or "").partition("\n")[0]
        found.setdefault(error.status, {})[error.code] = (error.title, sentence)
    for status, (code, title, detail) in SERVER_ERRORS.items():
        found.setdefault(status, {})[code] = (title, detail)
    return dict(sorted(found.items()))


def _response_name(status: int) -> str:
    return f"Problem{status}"


def _response(status: int, codes: dict[str, tuple[str, str]]) -> Document:
    names = ["x-request-id", "x-should-retry"]
    if status == 401:
        names.append("www-authenticate")
    if status in (429, 503):
        names += ["retry-after", "retry-after-ms"]
    narrowed: Document = {"properties": {"status": {"const": status}, "code": {"enum": list(codes)}}}
    if status == 422:
        narrowed["required"] = ["errors"]
    return {
        "description": " ".join(f"`{code}`: {detail}" for code, (_, detail) in codes.items()),
        "headers": _headers(*names),
        "content": {
            PROBLEM.decode(): {
                "schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]},
                "examples": {code: {"value": _example(status, code, *said)} for code, said in codes.items()},
            }
        },
    }


def _example(status: int, code: str, title: str, detail: str) -> Document:
    example: Document = {
        "type": f"urn:llm-gateway:error:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "01a2071e-0531-713a-be7c-f9d6fe52978d",
    }
    if status == 422:
        example |= {
            "detail": "user_id is required.",
            "errors": [{"loc": ["body", "user_id"], "msg": "user_id is required.", "type": "missing"}],
        }
    return example


def _headers(*names: str) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _generate() -> Document:
    return {
        "tags": ["generation"],
        "summary": "Generate",
        "description": "Ask the first provider that can answer: the customer's override, else by priority.",
        "operationId": "generate",
        "parameters": [
            _header("x-request-id", "Echoed in the answer if it is 1 to 128 printable ASCII characters.", {}),
            _header(
                "x-request-timeout-ms",
                "The request's own deadline; it can be earlier than the gateway's, never later.",
                {"type": "integer", "minimum": 1},
            ),
            _header(
                "x-tags",
                "Up to 10 labels for the usage record: `key=value,…`, up to 64 characters each. Values may be UTF-8.",
                {"pattern": TAGS_PATTERN, "examples": ["team=search,stage=beta"]},
            ),
            _header("cache-control", "`no-cache`: no answer from the cache; `no-store`: nor is it kept.", {}),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/GenerateBody"},
                    "examples": {
                        "least": {"value": {"user_id": "customer-1", "service": "chat", "prompt": "Say hello."}}
                    },
                }
            },
        },
        "responses": {
            "200": {
                "description": "The answer.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/GenerateAnswer"}}},
            },
            **{str(status): {} for status in (404, 422, 429, 502, 503, 504)},
        },
    }


def _header(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}
