"""Convert log probabilities between the shapes of the Responses API and of chat completions, the canonical one.

https://platform.openai.com/docs/api-reference/responses/object#responses-object-output and
https://platform.openai.com/docs/api-reference/chat/object#chat-object-choices-logprobs. The entries are the same; only
chat completions have an object around them, and `bytes` may be null there. Entries of any other shape are dropped.
"""

from __future__ import annotations

from typing import Any


def read_logprobs(reported: list[Any] | None) -> dict[str, Any] | None:
    """Return the canonical logprobs for a text's `logprobs`; None if it has none."""
    tokens = [token for given in reported or () if (token := _token(given)) is not None]
    return {"content": tokens, "refusal": None} if tokens else None


def write_logprobs(canonical: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a text's `logprobs`, whose `bytes` are never null."""
    tokens = (canonical or {}).get("content")
    if not isinstance(tokens, list):
        return []
    written = [token for given in tokens if (token := _token(given)) is not None]
    for token in written:
        for entry in (token, *token["top_logprobs"]):
            entry["bytes"] = entry["bytes"] or []
    return written


def without_bytes(logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop `bytes` from logprobs: events do not have it, whole responses do.

    https://platform.openai.com/docs/api-reference/responses-streaming/response/output_text/delta
    """
    return [
        {
            "token": token["token"],
            "logprob": token["logprob"],
            "top_logprobs": [{"token": other["token"], "logprob": other["logprob"]} for other in token["top_logprobs"]],
        }
        for token in logprobs
    ]


def _token(given: Any) -> dict[str, Any] | None:
    token = _entry(given)
    if token is None:
        return None
    likely = given.get("top_logprobs")
    others = [other for each in likely if (other := _entry(each)) is not None] if isinstance(likely, list) else []
    return {**token, "top_logprobs": others}


def _entry(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    token, logprob, spelled = given.get("token"), given.get("logprob"), given.get("bytes")
    if not isinstance(token, str) or not isinstance(logprob, int | float):
        return None
    return {"token": token, "logprob": logprob, "bytes": spelled if isinstance(spelled, list) else None}
