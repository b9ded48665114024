"""HTTP responses of the mock vendor, as bytes. Pure; `behaviour` chooses the response of a call."""

from __future__ import annotations

import http
from collections.abc import Iterable
from time import time

import msgspec

HUGE_BYTES = 10_000_000
PROSE = (
    "The capital of France is Paris. It lies on the river Seine, has a little over two million inhabitants and has "
    "been the seat of government for most of the last thousand years. (answer %s)"
)
JSON_CONTENT = '{"answer": "Paris", "call": "%s"}'
SHORTENED = '{"answer": "Par'

BROKEN = frozenset({"bad-json", "bad-shape", "empty"})
"""Shapes whose body is the same in all protocols."""

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_COMPLETION = (
    b'{"id":"%s","object":"chat.completion","created":%d,"model":%s,"choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":%s,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"%s"}]%s,'
    b'"service_tier":"default","system_fingerprint":"fp_mock"}'
)
_USAGE = (
    b',"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0,'
    b'"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}'
)


def prompt_tokens(n: int) -> int:
    """Return the input tokens in the answer to the n-th call."""
    return 10 + n % 90


def completion_tokens(n: int) -> int:
    """Return the output tokens in the answer to the n-th call."""
    return 5 + n % 50


def completion(kind: str, n: int, call_id: str, model: str, prompt: str) -> bytes:
    """Return the body of the answer to the n-th call. `kind` is one of `behaviour.SHAPES`."""
    if kind == "bad-json":
        return b'{"id":"chatcmpl-cut","choices":[{"index":0,"message":'
    if kind == "bad-shape":
        return b'{"object":"chat.completion","choices":"none","usage":[1,2,3]}'
    if kind == "empty":
        return b""
    finish_reason = b"length" if kind == "length" else b"stop"
    text = msgspec.json.encode(content(kind, call_id, prompt))
    head = (call_id.encode(), int(time()), msgspec.json.encode(model))
    return _COMPLETION % (*head, text, finish_reason, _usage(kind, n))


def whole(kind: str, n: int, call_id: str, model: str, prompt: str) -> bytes:
    """Return the answer to the n-th call as one document."""
    return ok(completion(kind, n, call_id, model, prompt))


def stream(kind: str, n: int, call_id: str, model: str, prompt: str) -> bytes:
    """Return the answer to the n-th call as server-sent events: content in two pieces, the end, the usage."""
    text = content(kind, call_id, prompt) or ""
    middle = len(text) // 2
    head = {"id": call_id, "object": "chat.completion.chunk", "created": int(time()), "model": model}
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": text[:middle]}, None),
        ({"content": text[middle:]}, None),
        ({}, "length" if kind == "length" else "stop"),
    ]
    events = [
        msgspec.json.encode({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        for delta, reason in deltas
    ]
    into, out = prompt_tokens(n), completion_tokens(n)
    usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
    events += [msgspec.json.encode({**head, "choices": [], "usage": usage}), b"[DONE]"]
    body = b"".join(b"data: %b\n\n" % event for event in events)
    return event_stream(body)


def event_stream(body: bytes) -> bytes:
    """Return a whole answer of server-sent events."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def content(kind: str, call_id: str, prompt: str) -> str | None:
    """Return the text of the answer to a call."""
    if kind == "json":
        return JSON_CONTENT % call_id
    if kind == "echo":
        return prompt
    if kind == "length":
        return SHORTENED
    if kind == "null-content":
        return None
    if kind == "huge":
        return "x" * HUGE_BYTES
    return PROSE % call_id


def _usage(kind: str, n: int) -> bytes:
    if kind == "no-usage":
        return b""
    into, out = prompt_tokens(n), completion_tokens(n)
    if kind == "bad-usage":
        into, out = -into, -out
    return _USAGE % (into, out, into + out)


def head_length(answer: bytes) -> int:
    """Return the length of an answer's head in bytes."""
    return answer.index(b"\r\n\r\n") + 4


def ok(body: bytes) -> bytes:
    """Return a whole answer with status 200."""
    return _HEAD % len(body) + body


def answer(status: int, document: object, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return a whole answer with any status and a JSON body."""
    body = msgspec.json.encode(document)
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unassigned"
    lines = [f"HTTP/1.1 {status} {phrase}", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusal(status: int, retry_after: str | None) -> bytes:
    """Return an error in OpenAI's format."""
    headers = [] if retry_after is None else [("retry-after", retry_after)]
    if 300 <= status < 400:
        headers.append(("location", "/v1/models"))
    error = {"message": f"The mock answers {status}.", "type": "mock_error", "param": None, "code": f"mock_{status}"}
    return answer(status, {"error": error}, headers)


def problem(status: int, message: str, param: str | None, code: str | None) -> bytes:
    """Return a refusal of a request, as OpenAI words it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return answer(status, {"error": error})


def leak(key: str) -> bytes:
    """Return a 401 that quotes the key, as some vendors do."""
    message = f"Incorrect API key provided: {key}. Bearer {key} was refused."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    return answer(401, {"error": error})


def model_list(names: Iterable[str]) -> bytes:
    """Return the body of GET /v1/models."""
    data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "mock"} for name in names]
    return msgspec.json.encode({"object": "list", "data": data})
