"""Turn the parsed events of a provider's streamGenerateContent stream into canonical chunks."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from llm_gateway.domain.conversation import (
    BillingUpdate,
    ChoiceEnd,
    Chunk,
    ReplyStart,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    VendorPartDelta,
)
from llm_gateway.protocols.contract import PARSE_ERRORS, UpstreamError
from llm_gateway.protocols.gemini.response import (
    VENDOR_METADATA,
    GeneratedContent,
    ReplyCandidate,
    ReplyPart,
    decode_strictly,
    decoder,
    finish_reason,
)
from llm_gateway.protocols.gemini.thoughts import thought_of
from llm_gateway.protocols.gemini.usage import read_tier, read_usage
from llm_gateway.protocols.json_tool import JSON_TOOL
from llm_gateway.protocols.reported_values import truncated
from llm_gateway.sse import Event


class StreamReader:
    """A `StreamReader` for Gemini. The protocol has no end event: a stream is complete if all its candidates are."""

    has_own_end = False

    def __init__(self) -> None:
        self.is_done = False
        self._has_begun = False
        self._has_content = self._has_thoughts = False
        self._calls: dict[int, int] = {}
        self._id = ""
        self._billing = BillingUpdate()
        self._searches: set[str] = set()
        self._text_of = -1  # the choice whose last part is a text that can still get a signature; -1 if there is none

    def take(self, event: Event) -> list[Chunk]:
        """Return the chunks of one event (see `protocols/contract.py`)."""
        try:
            return self.read(decode_strictly(event.data))
        except PARSE_ERRORS:  # a field has an unexpected type: the lenient decoder ignores it, more slowly
            return self.read(decoder.decode(event.data))

    def read(self, generated: GeneratedContent) -> list[Chunk]:
        """Return the chunks of a decoded response: a complete reply, or one event of a stream."""
        if generated.error:
            error = generated.error if isinstance(generated.error, dict) else {"message": generated.error}
            raise UpstreamError(
                str(error.get("message") or "The provider failed"), str(error.get("status") or ""), error
            )
        chunks: list[Chunk] = []
        if not self._has_begun:
            self._has_begun = True
            self._id = truncated(generated.response_id) or token_hex(8)  # ids of calls must not repeat in later turns
            chunks.append(ReplyStart(id=generated.response_id, model=generated.model_version))
        for candidate in generated.candidates or ():
            self._candidate(candidate, chunks)
        if (
            not generated.candidates
            and generated.prompt_feedback is not None
            and generated.prompt_feedback.block_reason
        ):
            self.is_done = True
            chunks.append(ChoiceEnd(reason="content_filter"))
        counted = read_usage(generated.usage_metadata, has_content=self._has_content, has_thoughts=self._has_thoughts)
        if counted is not None:
            chunks.append(counted)
        tier = read_tier(generated.usage_metadata) or self._billing.service_tier
        if tier is not None or self._searches:
            units = {"web_search": len(self._searches)} if self._searches else None
            billing = BillingUpdate(service_tier=tier, units=units)
            if billing != self._billing:
                self._billing = billing
                chunks.append(billing)
        return chunks

    def _candidate(self, candidate: ReplyCandidate, chunks: list[Chunk]) -> None:
        choice = candidate.index
        for part in (candidate.content.parts if candidate.content is not None else None) or ():
            self._part(part, choice, chunks)
        if isinstance(candidate.grounding_metadata, dict):
            self._note_searches(candidate.grounding_metadata.get("webSearchQueries"))
        if candidate.logprobs_result is not None and (logprobs := candidate.logprobs_result.as_openai()) is not None:
            chunks.append(TextDelta(text="", choice=choice, logprobs=logprobs))
        metadata = [kind for kind in VENDOR_METADATA if getattr(candidate, kind) is not None]
        chunks += [VendorPartDelta(kind=kind, choice=choice) for kind in metadata]
        if candidate.finish_reason:
            reason = finish_reason(candidate.finish_reason)
            if reason == "stop" and choice in self._calls:
                reason = "tool_calls"
            chunks.append(ChoiceEnd(reason=reason, choice=choice))

    def _note_searches(self, queries: Any) -> None:
        """Collect the different queries of Google Search that are not empty, by which it is billed.

        https://ai.google.dev/gemini-api/docs/google-search#pricing
        """
        if isinstance(queries, list):
            self._searches.update(query for query in queries if isinstance(query, str) and query)

    def _part(self, part: ReplyPart, choice: int, chunks: list[Chunk]) -> None:
        """Append the chunks of one part. Its fields, not a type, say what it is; the order of the branches matters."""
        if part.function_call is not None and part.function_call.name == JSON_TOOL:
            self._has_content = True
            self._text_of = -1
            chunks.append(TextDelta(text=bytes(part.function_call.args).decode("utf-8", "replace"), choice=choice))
        elif part.function_call is not None:
            self._has_content = True
            self._text_of = -1
            number = self._calls.get(choice, 0)
            self._calls[choice] = number + 1
            call = part.function_call
            generated_id = f"call_{self._id}_{choice}_{number}"
            chunks.append(
                ToolStart(
                    call=number,
                    id=call.id or generated_id,
                    name=call.name,
                    signature=part.thought_signature,
                    choice=choice,
                )
            )
            chunks.append(ToolDelta(call=number, arguments=bytes(call.args).decode("utf-8", "replace"), choice=choice))
        elif part.text and not part.thought:
            self._has_content = True
            self._text_of = choice if part.thought_signature is None else -1
            chunks.append(TextDelta(text=part.text, signature=part.thought_signature, choice=choice))
        elif (vendor_kind := part.vendor_kind()) is not None:
            self._has_content = True
            self._text_of = -1
            chunks.append(VendorPartDelta(kind=vendor_kind, choice=choice))
        elif part.thought:
            thought = thought_of("", part.thought_signature)
            text = part.text or ""
            self._has_thoughts |= bool(text)
            chunks.append(
                ThinkingDelta(text=text, signature=thought.signature, redacted=thought.redacted, choice=choice)
            )
        elif part.thought_signature and self._text_of == choice:  # signs the text of an earlier part
            self._text_of = -1
            chunks.append(TextDelta(text="", signature=part.thought_signature, choice=choice))
