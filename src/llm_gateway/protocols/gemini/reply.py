"""Read a provider's whole generateContent reply into a completion; write a completion as a client's reply."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    FinishReason,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.protocols.contract import Malformed, ReplyContext, UpstreamError
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.response import decoder
from llm_gateway.protocols.gemini.stream_reader import StreamReader
from llm_gateway.protocols.gemini.thoughts import signature_of
from llm_gateway.protocols.gemini.usage import write_usage
from llm_gateway.protocols.lenient_decoding import arguments_object


def read_reply(body: bytes) -> Completion:
    """Read the reply in a response body. A blocked prompt or answer is a valid reply with no or partial content.

    Raises:
        Malformed: the body is not a complete reply.
    """
    generated = decoder.decode(body)
    blocked = generated.prompt_feedback is not None and generated.prompt_feedback.block_reason
    if not generated.candidates and not blocked:
        raise Malformed("The answer has no candidates")
    has_ended = blocked or any(candidate.finish_reason for candidate in generated.candidates or ())
    for number, candidate in enumerate(generated.candidates or ()):
        candidate.index = number
        if not candidate.finish_reason:
            candidate.finish_reason = "STOP"
    assembler = ReplyAssembler()
    try:
        for chunk in StreamReader().read(generated):
            assembler.take(chunk)
    except UpstreamError as error:
        raise Malformed(f"The provider failed: {error.message}") from None
    completion = assembler.completion()
    has_content = any(not isinstance(part, Thinking) for choice in completion.choices for part in choice.parts)
    if not has_ended and not has_content:
        raise Malformed("The answer has no content")
    return completion


FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}
"""Finish reason → `finishReason`. Google has no separate reason for tool calls."""


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Encode a reply. Includes thoughts only if the client requested them, as Google does."""
    shows = shows_thoughts(context.document)
    candidates = [_write_choice(choice, index, shows=shows) for index, choice in enumerate(completion.choices)]
    document = response_document(context, completion.model or context.model, candidates)
    document["usageMetadata"] = write_usage(completion.usage)
    return msgspec.json.encode(document)


def shows_thoughts(document: dict[str, Any]) -> bool:
    """Return whether a request sets `generationConfig.thinkingConfig.includeThoughts`."""
    value: Any = document
    for name in ("generationConfig", "thinkingConfig", "includeThoughts"):
        value = camel_names(value).get(name) if isinstance(value, dict) else None
    return value is True


def response_document(context: ReplyContext, model: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a GenerateContentResponse without its usage."""
    return {"candidates": candidates, "modelVersion": model, "responseId": context.request_id}


def candidate_document(
    index: int, parts: list[dict[str, Any]], reason: FinishReason | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a candidate of a response. `logprobs` has OpenAI's shape."""
    document: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": index}
    if reason is not None:
        document["finishReason"] = FINISH_REASONS[reason]
    chosen = logprobs.get("content") if logprobs is not None else None
    if isinstance(chosen, list) and chosen:
        document["logprobsResult"] = _logprobs(chosen)
    return document


def _write_choice(choice: Choice, index: int, *, shows: bool) -> dict[str, Any]:
    written = (write_part(part, shows=shows) for part in choice.parts)
    parts = [part for part in written if part is not None]
    return candidate_document(index, parts, choice.finish_reason, choice.logprobs)


def write_part(part: Part, *, shows: bool) -> dict[str, Any] | None:
    """Return a part; None if Google has no such part, or for a thought if `shows` is False."""
    if isinstance(part, Text | Refusal):
        document: dict[str, Any] = {"text": part.text}
        signature = part.signature if isinstance(part, Text) else None
    elif isinstance(part, ToolCall):
        document = {"functionCall": {"id": part.id, "name": part.name, "args": arguments_object(part.arguments)}}
        signature = part.signature
    elif isinstance(part, Thinking) and shows:
        document = {"text": part.text, "thought": True}
        signature = signature_of(part)
    else:
        return None
    return document if signature is None else {**document, "thoughtSignature": signature}


def _logprobs(chosen: list[Any]) -> dict[str, Any]:
    """Return `logprobsResult`: https://ai.google.dev/api/generate-content#LogprobsResult."""
    tokens = [token for token in chosen if isinstance(token, dict)]
    return {
        "chosenCandidates": [_logprob(token) for token in tokens],
        "topCandidates": [{"candidates": [_logprob(other) for other in _alternatives(token)]} for token in tokens],
    }


def _alternatives(token: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the most probable tokens at a token's place; none if the provider sent anything but a list of objects."""
    likely = token.get("top_logprobs")
    return [other for other in likely if isinstance(other, dict)] if isinstance(likely, list) else []


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": token.get("token"), "logProbability": token.get("logprob")}
