"""Requests and vendor responses of Google's protocol as bytes on the wire."""

from __future__ import annotations

from typing import Any

from tests.e2e.process import GatewayProcess, Response
from tests.e2e.streaming_vendor import BEGIN, DONE, delta, event, finish, usage

ASKED = {"contents": [{"role": "user", "parts": [{"text": "Count"}]}]}
WORDS = [delta(content=word) for word in ("one ", "two ")]
OPENAI = [BEGIN, *WORDS, finish(), usage(11, 7), DONE]
"""The stream of a vendor with OpenAI's protocol."""


def generated(text: str, finish_reason: str | None = None, **part: Any) -> bytes:
    """Return an event of Gemini's."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text, **part}]}, "index": 0}
    document: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "r1"}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
        document["usageMetadata"] = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    return event(document)


GEMINI = [generated("one "), generated("two ", "STOP", thoughtSignature="c2ln")]
"""The stream of a vendor with Google's protocol."""


def post(
    gateway: GatewayProcess, method: str, body: object = ASKED, *, model: str = "auto", **headers: str
) -> Response:
    """Send POST to a method of a model, bypassing the cache."""
    path = f"/v1beta/models/{model}:{method}"
    return gateway.call("POST", path, body, cache_control="no-store", **headers)


def error(response: Response, status: int, word: str) -> dict[str, Any]:
    """Return the error of a response after checking that it has Google's format."""
    assert response.status == status, response.body
    assert response.headers["content-type"] == "application/json"
    document = response.json
    assert list(document) == ["error"]
    found: dict[str, Any] = document["error"]
    assert (found["code"], found["status"]) == (status, word)
    kinds = [detail["@type"].rpartition(".")[2] for detail in found["details"]]
    assert kinds[:2] == ["ErrorInfo", "RequestInfo"]
    assert found["details"][1]["requestId"] == response.headers["x-request-id"]
    return found


def texts(found: list[Any]) -> str:
    """Return all text in the events of a stream."""
    return "".join(part["text"] for one in found for part in one["candidates"][0]["content"]["parts"])
