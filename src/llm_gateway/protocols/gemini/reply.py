"""Replies of generateContent, whole and in a stream: every event of a stream is a reply of the same shape.

Finish reasons: https://ai.google.dev/api/generate-content#FinishReason.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from llm_gateway.domain.assembly import Assembly
from llm_gateway.domain.conversation import (
    Begin,
    Choice,
    Chunk,
    Completion,
    Finish,
    FinishReason,
    ForeignDelta,
    Part,
    Refusal,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegin,
    ToolCall,
    ToolDelta,
)
from llm_gateway.protocols.base import PARSE_ERRORS, Head, Malformed, UpstreamError
from llm_gateway.protocols.counts import cut
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.thoughts import signature_of, thought_of
from llm_gateway.protocols.gemini.usage import ReportedUsage, read_usage, write_usage
from llm_gateway.protocols.lenient import Aside, Place, ReplyDecoder, arguments_object, odd_is
from llm_gateway.sse import Event

STOPPED = frozenset({"STOP", "OTHER", "FINISH_REASON_UNSPECIFIED"})
CUT_OFF = frozenset({"MAX_TOKENS", "CONTINUATION"})
FAILED = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"}
    | {"MISSING_THOUGHT_SIGNATURE", "NO_IMAGE", "IMAGE_OTHER"}
)
"""The model failed; asked again or elsewhere it may not. What is in none of these sets is a filter of some kind:
SAFETY, RECITATION, LANGUAGE, BLOCKLIST, PROHIBITED_CONTENT, SPII, …"""


FOREIGN_PARTS = ("inline_data", "file_data", "executable_code", "code_execution_result")
"""Parts that no other protocol has: https://ai.google.dev/api/caching#Part."""
FOREIGN_METADATA = ("grounding_metadata", "citation_metadata", "url_context_metadata")
"""What a candidate holds beside its content: https://ai.google.dev/api/generate-content#Candidate."""

FinishField: TypeAlias = Annotated[str | None, odd_is("OTHER")]
"""A `finishReason`; an odd one (the number of the word), too, says that the answer ended."""


class _FunctionCall(msgspec.Struct, gc=False):
    name: str
    id: Aside[str] = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: Annotated[bool | None, odd_is(True)] = None
    thought_signature: Aside[str] = None
    function_call: _FunctionCall | None = None
    inline_data: Any = None
    file_data: Any = None
    executable_code: Any = None
    code_execution_result: Any = None

    def foreign(self) -> str | None:
        """Return the name of what only this protocol knows, None if there is nothing of the kind."""
        for kind in FOREIGN_PARTS:
            if getattr(self, kind) is not None:
                return kind
        is_empty = self.text is None and self.thought_signature is None and not self.thought
        return "part" if is_empty and self.function_call is None else None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: FinishField = None
    index: Place = 0
    grounding_metadata: Any = None
    citation_metadata: Any = None
    url_context_metadata: Any = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: Annotated[str | None, odd_is("OTHER")] = None


class _Reply(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: Aside[_Feedback] = None
    usage_metadata: Aside[ReportedUsage] = None
    model_version: Aside[str] = None
    response_id: Aside[str] = None
    error: Any = None


_decoder = ReplyDecoder(_Reply, "generated content")
_decode = _decoder.strictly


def finish_reason(said: str) -> FinishReason:
    """The canonical word.

    Raises:
        Malformed: the model failed.
    """
    if said in FAILED:
        raise Malformed(f"The answer was broken off ({cut(said)})")
    return "stop" if said in STOPPED else "length" if said in CUT_OFF else "content_filter"


class StreamReader:
    """Reads events. A stream has no end of its own: it is done when every candidate is."""

    has_own_end = False

    def __init__(self) -> None:
        self.is_done = False
        self._has_begun = False
        self._has_content = self._has_thoughts = False
        self._calls: dict[int, int] = {}
        self._id = ""
        self._text_of = -1  # the choice whose last part is a text that may still be signed

    def feed(self, event: Event) -> list[Chunk]:
        """As in `StreamReader`."""
        try:
            return self.take(_decode(event.data))
        except PARSE_ERRORS:
            return self.take(_decoder.decode(event.data))

    def take(self, found: _Reply) -> list[Chunk]:
        """What a reply says."""
        if found.error:
            error = found.error if isinstance(found.error, dict) else {"message": found.error}
            raise UpstreamError(str(error.get("message") or "The provider failed"), str(error.get("status") or ""))
        chunks: list[Chunk] = []
        if not self._has_begun:
            self._has_begun = True
            self._id = cut(found.response_id) or ""
            chunks.append(Begin(id=found.response_id, model=found.model_version))
        for candidate in found.candidates or ():
            self._candidate(candidate, chunks)
        if not found.candidates and found.prompt_feedback is not None and found.prompt_feedback.block_reason:
            self.is_done = True
            chunks.append(Finish(reason="content_filter"))
        counted = read_usage(found.usage_metadata, has_content=self._has_content, has_thoughts=self._has_thoughts)
        if counted is not None:
            chunks.append(counted)
        return chunks

    def _candidate(self, candidate: _Candidate, chunks: list[Chunk]) -> None:
        choice = candidate.index
        for part in (candidate.content.parts if candidate.content is not None else None) or ():
            self._part(part, choice, chunks)
        beside = [kind for kind in FOREIGN_METADATA if getattr(candidate, kind) is not None]
        chunks += [ForeignDelta(kind=kind, choice=choice) for kind in beside]
        if candidate.finish_reason:
            reason = finish_reason(candidate.finish_reason)
            if reason == "stop" and choice in self._calls:
                reason = "tool_calls"
            chunks.append(Finish(reason=reason, choice=choice))

    def _part(self, part: _Part, choice: int, chunks: list[Chunk]) -> None:
        if part.function_call is not None:
            self._has_content = True
            self._text_of = -1
            number = self._calls.get(choice, 0)
            self._calls[choice] = number + 1
            call = part.function_call
            made_up = f"call_{self._id}_{choice}_{number}"
            chunks.append(
                ToolBegin(
                    call=number, id=call.id or made_up, name=call.name, signature=part.thought_signature, choice=choice
                )
            )
            chunks.append(ToolDelta(call=number, arguments=bytes(call.args).decode("utf-8", "replace"), choice=choice))
        elif part.text and not part.thought:
            self._has_content = True
            self._text_of = choice if part.thought_signature is None else -1
            chunks.append(TextDelta(text=part.text, signature=part.thought_signature, choice=choice))
        elif (foreign := part.foreign()) is not None:
            self._has_content = True
            self._text_of = -1
            chunks.append(ForeignDelta(kind=foreign, choice=choice))
        elif part.thought:
            seal = thought_of("", part.thought_signature)
            text = part.text or ""
            self._has_thoughts |= bool(text)
            chunks.append(ThinkingDelta(text=text, signature=seal.signature, redacted=seal.redacted, choice=choice))
        elif part.thought_signature and self._text_of == choice:
            self._text_of = -1
            chunks.append(TextDelta(text="", signature=part.thought_signature, choice=choice))


def read_reply(body: bytes) -> Completion:
    """The reply in a provider's body. What was blocked is one, too: empty, or cut where it was stopped.

    Raises:
        Malformed: it holds no complete one.
    """
    found = _decoder.decode(body)
    blocked = found.prompt_feedback is not None and found.prompt_feedback.block_reason
    if not found.candidates and not blocked:
        raise Malformed("The answer has no candidates")
    has_ended = blocked or any(candidate.finish_reason for candidate in found.candidates or ())
    for number, candidate in enumerate(found.candidates or ()):
        candidate.index = number
        if not candidate.finish_reason:
            candidate.finish_reason = "STOP"
    assembly = Assembly()
    try:
        for chunk in StreamReader().take(found):
            assembly.add(chunk)
    except UpstreamError as error:
        raise Malformed(f"The provider failed: {error.message}") from None
    completion = assembly.completion()
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
"""Google has no reason of its own for calls."""


def write_reply(completion: Completion, head: Head) -> bytes:
    """Return the document of a reply. Thoughts are shown only if the client asked for them, as Google does."""
    shows = shows_thoughts(head.document)
    candidates = [_write_choice(choice, index, shows=shows) for index, choice in enumerate(completion.choices)]
    document = response_document(head, completion.model or head.model, candidates)
    document["usageMetadata"] = write_usage(completion.usage)
    return msgspec.json.encode(document)


def shows_thoughts(document: dict[str, Any]) -> bool:
    """Whether a request asks to see thoughts (`generationConfig.thinkingConfig.includeThoughts`)."""
    found: Any = document
    for name in ("generationConfig", "thinkingConfig", "includeThoughts"):
        found = camel_names(found).get(name) if isinstance(found, dict) else None
    return found is True


def response_document(head: Head, model: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a GenerateContentResponse without its usage."""
    return {"candidates": candidates, "modelVersion": model, "responseId": head.request_id}


def candidate_document(
    index: int, parts: list[dict[str, Any]], reason: FinishReason | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a candidate; `logprobs` is OpenAI's document of them."""
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
    """Return a part; None for what Google's protocol has no part for. `shows`: thoughts are among what it may hold."""
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
        "topCandidates": [
            {"candidates": [_logprob(other) for other in token.get("top_logprobs") or () if isinstance(other, dict)]}
            for token in tokens
        ],
    }


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": token.get("token"), "logProbability": token.get("logprob")}
