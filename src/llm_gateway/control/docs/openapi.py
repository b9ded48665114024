"""OpenAPI document of the whole API: FastAPI's document of the management API, completed by hand.

FastAPI does not know the data plane, authentication, and the error responses of each operation; this module adds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from llm_gateway.control.docs.explain_path import explain_operation
from llm_gateway.control.docs.protocol_paths import (
    BUDGET_HEADERS,
    PROVIDER_HEADERS,
    ROUTE,
    WAITING,
    describe_errors_of_vendor,
    header_key_requirements,
    header_references,
    headers_if_known,
    protocol_paths,
    protocol_schemas,
    security_schemes,
)
from llm_gateway.control.management.query import refuses_parameters
from llm_gateway.domain.explanation import EXPLAIN_PATH, ExplainBody, Explanation
from llm_gateway.error_format.responses import PROBLEM, Problem
from llm_gateway.errors import GatewayError
from llm_gateway.gate.authentication import OPEN_PATHS, scope_needed
from llm_gateway.gate.headers import TAGS_PATTERN
from llm_gateway.protocols.generate import GenerateAnswer, GenerateBody
from llm_gateway.protocols.registry import GENERATE_PATH, MANAGEMENT_PREFIXES

Document: TypeAlias = dict[str, Any]

DESCRIPTION = """\
One API in front of every LLM vendor, with routing, limits, failover and exact accounting.

Responses carry `x-request-id`: yours if you sent one, else the gateway's. Errors are problem documents (RFC 9457) whose
`detail` says what to do, and carry `x-should-retry`. Methods that are not listed get 405 with `Allow`; GET paths accept
HEAD too.
"""
TAGS = [
    {"name": "generation", "description": "Generate text with the gateway's own request format."},
    {"name": "surfaces", "description": "Endpoints for the SDKs of OpenAI, Anthropic and Google."},
    {"name": "providers", "description": "The upstream accounts that requests are sent to."},
    {"name": "overrides", "description": "The provider and model that one customer's requests try first."},
    {"name": "keys", "description": "The keys of clients: what they may do, and how much."},
    {"name": "teams", "description": "Groups of keys, by which usage is reported."},
    {"name": "people", "description": "Who signs in to the dashboard with a password, and as what. For admins."},
    {"name": "sessions", "description": "Who is signed in to the dashboard."},
    {"name": "hosts", "description": "The gateways on one database."},
    {
        "name": "configuration",
        "description": "All that is configured, from providers to alert targets, as one document.",
    },
    {"name": "audit", "description": "What management requests changed, and failed authentications. For admins."},
    {"name": "budgets", "description": "What requests may spend in a period, and what they have spent."},
    {
        "name": "alerts",
        "description": "Targets that get messages when something is wrong: webhooks, Slack-compatible ones, e-mail.",
    },
    {"name": "usage", "description": "Requests, tokens and cost, up to the last response sent."},
    {"name": "health", "description": "Health of the gateway, its database and its providers."},
    {"name": "documentation", "description": "This description as JSON and as a page."},
]
SECURITY_SCHEMES = {
    "ServiceKey": {"type": "apiKey", "in": "header", "name": "X-Service-Key"},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, as OpenAI's SDKs send it."},
    **security_schemes(),
}
KEYS: list[dict[str, list[str]]] = [{"ServiceKey": []}, {"Bearer": []}, *header_key_requirements()]
ANYWHERE = (400, 408, 413, 431, 500, 503)
"""Error statuses that any request can get, those of the HTTP server included."""
WITH_BODY = (415,)
"""Error statuses that any request with a body can get."""
SERVER_ERRORS = {
    408: ("request_timeout", "Request timeout", "The request did not arrive in time: send it again, without pauses."),
    431: ("headers_too_large", "Headers too large", "The request line and headers are too large: send less of them."),
}
FROM_PROVIDERS = (429, 502, 503, 504)
"""Error statuses that only a call of a model has, or that one has among others."""
RATE_LIMITS = {
    "limit": "The limit of the provider that answered, in one minute's",
    "remaining": "What is left of the limit of",
    "reset": "The reset of the limit of",
}
"""Meanings of the x-ratelimit-* headers."""
STREAM = (
    "With `stream`: events `delta`, each with a `text`; then `result`, with the other fields of the answer, or "
    "`error`, with a problem."
)
HEADERS: dict[str, Document] = {
    "x-request-id": {
        "description": "Yours if you sent one, else the gateway's.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "x-gateway-request-id": {
        "description": "The gateway's own id of the request, with all responses to calls: that of its usage record.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "location": {
        "description": "The path of what was created.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "x-should-retry": {
        "description": "True if the same request can succeed later.",
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
        "description": "Why it answered: by `priority`, since it is the `only` usable one, since the request names a "
        "`model`, or by an `override`; with `; fallback` behind it if another one was asked first and failed, or none "
        "of those that come first could be asked.",
        "required": True,
        "schema": {"type": "string", "pattern": "^(priority|only|model|override)(; fallback)?$"},
    },
    **{
        f"x-ratelimit-{what}-{of}": {
            "description": f"{meaning} {of}; for `reset`, when the whole limit is free again.",
            "required": True,
            "schema": {"type": "string", "pattern": "^[0-9]+s?$"},
        }
        for what, meaning in RATE_LIMITS.items()
        for of in ("requests", "tokens")
    },
    "x-gateway-queued-ms": {
        "description": "Milliseconds that the request waited for a rate limit; absent if it did not.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-gateway-model": {"description": "The configured name of the model that answered.", "schema": {"type": "string"}},
    "x-gateway-cache": {
        "description": "Whether the gateway's cache answered; not with a stream.",
        "schema": {"enum": ["hit", "miss"]},
    },
    "x-gateway-cost-usd": {
        "description": "The cost of the answer in US dollars; not with a stream.",
        "schema": {"type": "string", "pattern": "^[0-9]+[.][0-9]{9}$"},
    },
    "x-gateway-dropped": {
        "description": "Fields of the request that the provider did not get.",
        "schema": {"type": "string"},
    },
    "x-gateway-budget": {
        "description": "The budget that has the least left, what that is, and when it begins anew.",
        "schema": {"type": "string", "examples": ["core-monthly; remaining=12.31; resets=2026-12-01T00:00:00+01:00"]},
    },
    "x-gateway-budget-warning": {
        "description": "A soft budget that is exceeded.",
        "schema": {"type": "string", "examples": ["core-monthly; spent=101.20; limit=100.00"]},
    },
    "www-authenticate": {
        "description": "The accepted authentication schemes.",
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
"""A message of chat completions in its simplest forms. The endpoint accepts the other forms of that protocol, too."""
ASKS: Document = {
    "anyOf": [
        {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
        {"required": ["messages"], "properties": {"messages": {"type": "array", "items": MESSAGE}}},
    ]
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses` with these error statuses, in addition to those that any request can get."""
    return {status: {} for status in statuses}


def openapi_document(routes: Sequence[BaseRoute], version: str, root_path: str = "") -> Document:
    """Build the document for these routes of the management API and for the data plane, all below `root_path`."""
    document = get_openapi(
        title="LLM Gateway",
        version=version,
        description=DESCRIPTION,
        routes=routes,
        tags=TAGS,
        servers=[{"url": root_path or "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, of_structs = msgspec.json.schema_components(
        (GenerateBody, GenerateAnswer, ExplainBody, Explanation, Problem), ref_template="#/components/schemas/{name}"
    )
    schemas.update(of_structs)
    schemas["GenerateBody"] |= ASKS
    document["paths"] = {
        GENERATE_PATH: {"post": _generate()},
        EXPLAIN_PATH: {"post": explain_operation()},
        **document["paths"],
    }
    document["security"] = KEYS
    document["components"] |= {
        "securitySchemes": SECURITY_SCHEMES,
        "headers": HEADERS | _if_known(),
        "responses": {_response_name(status): _response(status, codes) for status, codes in _codes().items()},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method.upper(), operation)
            if path.startswith(MANAGEMENT_PREFIXES):
                describe_errors_of_vendor(path, operation)
    answered = document["paths"][GENERATE_PATH]["post"]["responses"]["200"]
    limits = [name for name in HEADERS if name.startswith("x-ratelimit-")]
    answered["headers"] |= header_references(
        *("x-gateway-request-id", "x-gateway-provider", "x-gateway-route", "x-gateway-queued-ms", *limits),
        *BUDGET_HEADERS,
    )
    document["paths"] |= protocol_paths(KEYS)
    schemas.update(protocol_schemas())
    return document


def _complete(path: str, method: str, operation: Document) -> None:
    """Add the errors of authentication and of the HTTP server, and the required scope, to an operation."""
    responses = operation["responses"]
    if "content" in responses.get("422", {}):  # FastAPI's default; routes that have it declare it without content
        del responses["422"]
    errors = {*ANYWHERE, *WITH_BODY} if "requestBody" in operation else {*ANYWHERE}
    errors |= {*(int(status) for status in responses if status >= "400")}
    if path in OPEN_PATHS:
        operation["security"] = []
        errors.add(403)  # the host
    else:
        errors |= {401, 403, 422} if refuses_parameters(path) else {401, 403}
        scope = scope_needed(method, path)
        scopes = " or ".join(f"`{each}`" for each in dict.fromkeys((scope, "admin")))
        needs = "Any key may call it." if scope is None else f"Needs a key with the scope {scopes}."
        operation["description"] = "\n\n".join(filter(None, (operation.get("description"), needs)))
    for status, response in responses.items():
        if status < "400":
            response["headers"] = header_references("x-request-id", *(["location"] if status == "201" else ()))
            response["description"] = response["description"].replace("Successful Response", "Done.")
    for error in errors:
        responses[str(error)] = {"$ref": f"#/components/responses/{_response_name(error)}"}
    operation["responses"] = dict(sorted(responses.items()))
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            is_uuid = not path.startswith(MANAGEMENT_PREFIXES) and "maxLength" not in parameter["schema"]
            if is_uuid:  # not a client's own id, a customer or a vendor's kind of id
                parameter["schema"] |= {"format": "uuid"}
        elif alternatives := parameter["schema"].pop("anyOf", None):  # a query parameter cannot be null
            parameter["schema"] |= alternatives[0]


def _codes() -> dict[int, dict[str, tuple[str, str]]]:
    """Return the errors that a client can get: status → code → (title, detail)."""
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
    names = ["x-request-id", "x-gateway-request-id", "x-should-retry"]
    if status == 401:
        names.append("www-authenticate")
    if status in WAITING:
        names += ["retry-after", "retry-after-ms"]
    narrowed: Document = {"properties": {"status": {"const": status}, "code": {"enum": list(codes)}}}
    if status == 422:
        narrowed["required"] = ["errors"]
    return {
        "description": " ".join(f"`{code}`: {detail}" for code, (_, detail) in codes.items()),
        "headers": header_references(*names) | (headers_if_known() if status in FROM_PROVIDERS else {}),
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


def _if_known() -> Document:
    """Return the descriptions of the headers of a provider that an error has if they are known."""
    found = {
        f"{name}-if-known": {key: HEADERS[name][key] for key in ("description", "schema")}
        for name in (*PROVIDER_HEADERS, ROUTE)
    }
    found["x-gateway-provider-if-known"]["description"] = "The provider that answered, also with an error."
    return found


def _generate() -> Document:
    return {
        "tags": ["generation"],
        "summary": "Generate",
        "description": "Send the request to the customer's override, else to the available providers by priority.",
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
            _header("cache-control", "`no-cache`, `max-age=0`: skip the cache; `no-store`: nor fill it.", {}),
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
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/GenerateAnswer"}},
                    "text/event-stream": {"schema": {"type": "string", "description": STREAM}},
                },
            },
            **{str(status): {} for status in (404, 422, 429, 502, 503, 504)},
        },
    }


def _header(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}
