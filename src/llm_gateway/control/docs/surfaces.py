"""The surfaces of OpenAI's and Anthropic's protocols in the OpenAPI document.

What they take and answer is those vendors' own documentation; here stands what the gateway adds: paths, model names,
who pays, and the errors in each vendor's shape.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]

OPENAI, ANTHROPIC = "OpenAIError", "AnthropicError"
ERRORS = {
    400: "The request does not fit, or no provider can be asked for one of its fields.",
    401: "The key is missing or wrong.",
    403: "The key lacks the scope `call`, the host is not one of ours, or a provider flagged the input.",
    404: "No enabled provider lists the model; the message names those there are.",
    413: "The body is over 4 MiB.",
    422: "A provider refused what it was asked.",
    429: "Every provider that could serve this is at its limit.",
    500: "A defect of the gateway's.",
    502: "Attempts were made and the last one failed.",
    503: "No provider can be asked now, or the gateway is stopping or serves as many as it may.",
    504: "The request's own deadline passed.",
}
BY_THE_SERVER = (408, 431)
STREAMED = "With `stream: true` the answer is a stream of the vendor's own events."
SCHEMAS: Document = {
    OPENAI: {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                    "request_id": {"type": "string"},
                },
            }
        },
    },
    ANTHROPIC: {
        "type": "object",
        "required": ["type", "error", "request_id"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}, "code": {"type": "string"}},
            },
            "request_id": {"type": "string"},
        },
    },
    "Asked": {
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": {
                "type": "string",
                "minLength": 1,
                "description": "A model's name, `provider/model`, or `auto` for the gateway's own routing.",
            }
        },
    },
}
ASKED: Document = {"$ref": "#/components/schemas/Asked"}
PAYS = (
    ("x-user-id", "Who is billed; else the body's `user` or `metadata.user_id`, else `anonymous`."),
    ("x-service-name", "The calling service; else the key's name."),
    ("x-task-type", "What kind of task it is; else `general`."),
)


def surface_paths() -> Document:
    """The paths of the surfaces."""
    return {
        "/v1/chat/completions": {"post": _post("createChatCompletion", "Chat completion, as OpenAI's", OPENAI)},
        "/v1/responses": {"post": _post("createResponse", "Response, as OpenAI's; nothing is stored", OPENAI)},
        "/v1/embeddings": {"post": _post("createEmbeddings", "Embeddings, as OpenAI's", OPENAI, streams=False)},
        "/v1/messages": {"post": _post("createMessage", "Message, as Anthropic's", ANTHROPIC)},
        "/v1/messages/count_tokens": {
            "post": _post("countTokens", "How many tokens a message will take, estimated", ANTHROPIC, streams=False)
        },
        "/v1/models": {"get": _get("listModels", "Models that can be asked for by name")},
        "/v1/models/{model}": {
            "get": _get("getModel", "One of them")
            | {
                "parameters": [
                    {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                ]
            }
        },
    }


def _post(name: str, summary: str, error: str, *, streams: bool = True) -> Document:
    content: Document = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "tags": ["surfaces"],
        "summary": summary,
        "description": f"{STREAMED if streams else ''}\n\nNeeds a key with the scope `call` or `admin`.".strip(),
        "operationId": name,
        "parameters": [
            {
                "name": header,
                "in": "header",
                "description": text,
                "schema": {"type": "string", "pattern": "^[ -~]{1,256}$"},
            }
            for header, text in PAYS
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": ASKED}}},
        "responses": {"200": {"description": "The answer.", "content": content}} | _errors(error, ERRORS),
    }


def _get(name: str, summary: str) -> Document:
    content = {"application/json": {"schema": {"type": "object"}}}
    few = {status: text for status, text in ERRORS.items() if status in (400, 401, 403, 404, 413, 500, 503)}
    return {
        "tags": ["surfaces"],
        "summary": summary,
        "description": "Needs a key with the scope `call` or `admin`.",
        "operationId": name,
        "responses": {"200": {"description": "The answer.", "content": content}} | _errors(OPENAI, few),
    }


def _errors(schema: str, sentences: dict[int, str]) -> Document:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    own = {str(status): {"description": text, "content": content} for status, text in sentences.items()}
    return own | {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in BY_THE_SERVER}
