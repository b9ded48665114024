"""OpenAPI paths of the vendor-compatible endpoints (OpenAI, Anthropic, Gemini), built from protocol descriptors.

The vendors document requests and responses. This module describes what the gateway adds: paths, model names, billing
headers, and errors in each vendor's format.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from llm_gateway.protocols.descriptor import Descriptor, ModelList, Route
from llm_gateway.protocols.registry import PROTOCOLS, protocol_of

Document: TypeAlias = dict[str, Any]

ERRORS = {
    400: "The request is not valid, or no provider supports one of its fields.",
    401: "The key is missing or wrong.",
    403: "The key lacks the scope `call`, the host is not allowed, or a provider flagged the input.",
    404: "No enabled provider lists the model; the message names the available ones.",
    413: "The request body is larger than 32 MiB, or holds more than 200,000 values.",
    415: "The request body is compressed.",
    422: "A provider rejected the request.",
    429: "All providers that could serve the request are at their rate limit, or a budget has no room for it.",
    500: "A defect of the gateway.",
    502: "The last attempt at a provider failed.",
    503: "No provider is available, or the gateway is stopping or at its limit of requests in flight.",
    504: "The request's deadline passed.",
}
MANAGEMENT_ERRORS = {
    400: "A field or parameter is not valid.",
    403: "The key lacks the scope, or the host is not allowed.",
    404: "There is no such limit.",
    409: "Others change the same limit all the time.",
    503: "The database is not available, or the gateway is stopping or at its limit of requests in flight.",
}
"""Errors of operations that manage the gateway in a vendor's shape, where they mean something else than for calls."""
SERVER_STATUSES = (408, 431)
WAITING = (429, 503)
"""Statuses with the headers that say how long to wait."""
OWN_STATUSES = (401, 415, 500)
"""Statuses of errors that no provider is involved in."""
PROVIDER_HEADERS = (
    "x-gateway-provider",
    "x-gateway-queued-ms",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)
"""Headers that name a provider and tell its limits. Errors have those that are known."""
ROUTE = "x-gateway-route"
BUDGET_HEADERS = ("x-gateway-budget", "x-gateway-budget-warning")
ANSWER_HEADERS = ("x-gateway-model", "x-gateway-cache", "x-gateway-cost-usd", "x-gateway-dropped", *BUDGET_HEADERS)
"""Headers of answers in a vendor's protocol, which has no fields for them."""
STREAMED = "With `stream: true` the response is a stream of the vendor's own events."
MODEL_TEXT = "A model's name, `provider/model`, or `auto` for the gateway's own routing."
NEEDS = "Needs a key with the scope `call` or `admin`."
ASKED: Document = {"$ref": "#/components/schemas/Asked"}
MODEL_PARAMETER: Document = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": MODEL_TEXT,
    "schema": {"type": "string", "minLength": 1},
}


def headers_if_known() -> Document:
    """Return references to the descriptions of `PROVIDER_HEADERS`, none of which is required."""
    return {name: {"$ref": f"#/components/headers/{name}-if-known"} for name in PROVIDER_HEADERS}


def protocol_schemas() -> Document:
    """Return the schemas that `protocol_paths` references."""
    model = {"type": "string", "minLength": 1, "pattern": r"^[^\x00]*$", "description": MODEL_TEXT}
    errors = {each.error_schema["title"]: each.error_schema for each in PROTOCOLS.values()}
    return errors | {"Asked": {"type": "object", "required": ["model"], "properties": {"model": model}}}


def security_schemes() -> Document:
    """Return OpenAPI security schemes, by name, for the key headers and parameters of vendors' SDKs.

    The bearer token is not among them.
    """
    schemes: Document = {}
    for protocol in PROTOCOLS.values():
        description = f"The same key, as {protocol.vendor}'s SDKs send it."
        for header in protocol.credential_headers:
            if header != b"authorization":
                scheme = {"type": "apiKey", "in": "header", "name": header.decode(), "description": description}
                schemes.setdefault(_scheme_name(header.decode()), scheme)
        if protocol.key_parameter is not None:
            description = f"The same key, as {protocol.vendor}'s examples send it; on these paths only."
            scheme = {"type": "apiKey", "in": "query", "name": protocol.key_parameter, "description": description}
            schemes.setdefault(_parameter_scheme(protocol), scheme)
    return schemes


def header_key_requirements() -> list[dict[str, list[str]]]:
    """Return security requirements for the headers of `security_schemes`, which are accepted on all paths."""
    return [{name: []} for name, scheme in security_schemes().items() if scheme["in"] == "header"]


def protocol_paths(keys: list[dict[str, list[str]]]) -> Document:
    """Return the paths of all protocols' endpoints. `keys` lists the security requirements of all paths."""
    paths: Document = {}
    for protocol in PROTOCOLS.values():
        counted = protocol.count_tokens.routes if protocol.count_tokens is not None else ()
        for route in protocol.routes:
            paths[route.path] = {"post": _post(protocol, route, keys, _pays(protocol))}
        for route in counted:
            paths[route.path] = {"post": _post(protocol, route, keys, ())}
        if protocol.models is not None:
            for path in protocol.models.paths:
                if path not in paths:
                    paths |= _models(protocol, protocol.models, path, keys)
    return paths


def describe_errors_of_vendor(path: str, operation: Document) -> None:
    """Replace the problem documents of an operation that manages the gateway in a vendor's shape by that vendor's.

    What is not valid is 400 there, as at the vendor.
    """
    protocol = protocol_of(path, {}, b"")
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{protocol.error_schema['title']}"}}}
    for status in [each for each in operation["responses"] if each >= "400" and int(each) not in SERVER_STATUSES]:
        text = MANAGEMENT_ERRORS.get(int(status), ERRORS.get(int(status)))
        headers = _own_error_headers(int(status))
        operation["responses"][status] = {"description": text, "headers": headers, "content": content}


def _scheme_name(header: str) -> str:
    return "".join(word.title() for word in header.removeprefix("x-").split("-"))


def _parameter_scheme(protocol: Descriptor) -> str:
    return f"{protocol.vendor}KeyParameter"


def _pays(protocol: Descriptor) -> Iterable[tuple[str, str]]:
    fields = " or ".join(f"`{'.'.join(path)}`" for path in protocol.user_fields)
    body = f"the body's {fields}, else " if fields else ""
    yield "x-user-id", f"The customer to bill. Default: {body}`anonymous`."
    yield "x-service-name", "The calling service. Default: the key's name."
    yield "x-task-type", "The kind of task. Default: `general`."


def _post(
    protocol: Descriptor, route: Route, keys: list[dict[str, list[str]]], headers: Iterable[tuple[str, str]]
) -> Document:
    content: Document = {"application/json": {"schema": {"type": "array" if route.stream else "object"}}}
    if route.stream is not False:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    header: Document = {"type": "string", "pattern": "^[ -~]{0,256}$"}
    parameters: list[Document] = [MODEL_PARAMETER] if route.names_model else []
    parameters += [{"name": name, "in": "header", "description": text, "schema": header} for name, text in headers]
    asked = {"type": "object"} if route.names_model else ASKED
    return _operation(protocol, keys) | {
        "summary": route.summary,
        "description": f"{STREAMED if route.stream is None else ''}\n\n{NEEDS}".strip(),
        "operationId": route.operation,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {"200": _answer(content)} | _errors([protocol], ERRORS),
    }


def _answer(content: Document) -> Document:
    """Return the response of a call. A stream lacks the headers if its head had to be sent before they were known."""
    return {
        "description": "The answer.",
        "headers": header_references("x-gateway-request-id", *ANSWER_HEADERS)
        | headers_if_known()
        | {ROUTE: {"$ref": f"#/components/headers/{ROUTE}-if-known"}},
        "content": content,
    }


def header_references(*names: str) -> Document:
    """Return the headers with these names, as references to their descriptions."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _error_headers(status: int) -> Document:
    own = _own_error_headers(status)
    return own if status in OWN_STATUSES else own | headers_if_known()


def _own_error_headers(status: int) -> Document:
    waits = ("retry-after", "retry-after-ms") if status in WAITING else ()
    return header_references("x-request-id", "x-gateway-request-id", "x-should-retry", *waits)


def _models(protocol: Descriptor, models: ModelList, path: str, keys: list[dict[str, list[str]]]) -> Document:
    sharing = [each for each in PROTOCOLS.values() if each.models is not None and path in each.models.paths]
    few = {status: text for status, text in ERRORS.items() if status in (400, 401, 403, 404, 413, 500, 503)}
    content = {"application/json": {"schema": {"type": "object"}}}
    keyed = next((each for each in sharing if each.key_parameter is not None), protocol)
    shared = _operation(keyed, keys) | {
        "description": NEEDS,
        "responses": {"200": {"description": "The answer.", "content": content}} | _errors(sharing, few),
    }
    every = shared | {
        "summary": "List the available models",
        "operationId": f"list{models.operation}s",
    }
    one = shared | {
        "summary": "Get one model",
        "operationId": f"get{models.operation}",
        "parameters": [MODEL_PARAMETER],
    }
    return {path: {"get": every}, f"{path}/{{model}}": {"get": one}}


def _operation(protocol: Descriptor, keys: list[dict[str, list[str]]]) -> Document:
    found: Document = {"tags": ["surfaces"]}
    if protocol.key_parameter is not None:
        found["security"] = [*keys, {_parameter_scheme(protocol): []}]
    return found


def _errors(protocols: Iterable[Descriptor], sentences: dict[int, str]) -> Document:
    """Return the error responses of a path that these protocols share, in the format of each."""
    schemas = [{"$ref": f"#/components/schemas/{each.error_schema['title']}"} for each in protocols]
    content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    own = {
        str(status): {"description": text, "headers": _error_headers(status), "content": content}
        for status, text in sentences.items()
    }
    return own | {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in SERVER_STATUSES}
