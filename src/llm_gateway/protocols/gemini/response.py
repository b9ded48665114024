"""Decode a GenerateContentResponse, which is a complete reply or one event of a stream.

Finish reasons: https://ai.google.dev/api/generate-content#FinishReason.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from llm_gateway.domain.conversation import FinishReason
from llm_gateway.protocols.contract import Malformed
from llm_gateway.protocols.gemini.usage import ReportedUsage
from llm_gateway.protocols.lenient_decoding import Lenient, LenientIndex, ReplyDecoder, invalid_becomes
from llm_gateway.protocols.reported_values import truncated

STOPPED = frozenset({"STOP", "OTHER", "FINISH_REASON_UNSPECIFIED"})
CUT_OFF = frozenset({"MAX_TOKENS", "CONTINUATION"})
ABORTED = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"}
    | {"MISSING_THOUGHT_SIGNATURE", "NO_IMAGE", "IMAGE_OTHER"}
)
"""Finish reasons of an answer that the provider aborted; another try or another model can succeed. Reasons in none of
these three sets come from content filters: SAFETY, RECITATION, LANGUAGE, BLOCKLIST, PROHIBITED_CONTENT, SPII, …"""

VENDOR_PARTS = ("inline_data", "file_data", "executable_code", "code_execution_result")
"""Parts that no other protocol has: https://ai.google.dev/api/caching#Part."""
VENDOR_METADATA = ("grounding_metadata", "citation_metadata", "url_context_metadata")
"""Fields of a candidate that no other protocol has: https://ai.google.dev/api/generate-content#Candidate."""

FinishField: TypeAlias = Annotated[str | None, invalid_becomes("OTHER")]
"""A `finishReason`. A value of another type (an enum number) still means that the answer ended."""


class FunctionCall(msgspec.Struct, gc=False):
    """A `functionCall` of the model."""

    name: str
    id: Lenient[str] = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class ReplyPart(msgspec.Struct, gc=False, rename="camel"):
    """A part of a candidate's content."""

    text: str | None = None
    thought: Annotated[bool | None, invalid_becomes(True)] = None
    thought_signature: Lenient[str] = None
    function_call: FunctionCall | None = None
    inline_data: Any = None
    file_data: Any = None
    executable_code: Any = None
    code_execution_result: Any = None

    def vendor_kind(self) -> str | None:
        """Return the field whose data only Gemini has, "part" for data of an unknown kind; None for any other part."""
        for kind in VENDOR_PARTS:
            if getattr(self, kind) is not None:
                return kind
        is_empty = self.text is None and self.thought_signature is None and not self.thought
        return "part" if is_empty and self.function_call is None else None


class ReplyContent(msgspec.Struct, gc=False):
    """The content of a candidate."""

    parts: list[ReplyPart] | None = None


class ReportedToken(msgspec.Struct, gc=False, rename="camel"):
    """A token with its log probability."""

    token: Lenient[str] = None
    log_probability: Lenient[float] = None


class ReportedAlternatives(msgspec.Struct, gc=False):
    """The most probable tokens at one position."""

    candidates: Lenient[list[ReportedToken]] = None


class ReportedLogprobs(msgspec.Struct, gc=False, rename="camel"):
    """The `logprobsResult` of a candidate: https://ai.google.dev/api/generate-content#LogprobsResult."""

    chosen_candidates: Lenient[list[ReportedToken]] = None
    top_candidates: Lenient[list[ReportedAlternatives]] = None

    def as_openai(self) -> dict[str, Any] | None:
        """Return the log probabilities in OpenAI's shape; None if there are none."""
        tops = self.top_candidates or []
        content = []
        for index, chosen in enumerate(self.chosen_candidates or ()):
            others = tops[index].candidates or () if index < len(tops) else ()
            content.append({**_logprob(chosen), "top_logprobs": [_logprob(other) for other in others]})
        return {"content": content, "refusal": None} if content else None


def _logprob(reported: ReportedToken) -> dict[str, Any]:
    token = reported.token or ""
    return {"token": token, "logprob": reported.log_probability or 0.0, "bytes": list(token.encode())}


class ReplyCandidate(msgspec.Struct, gc=False, rename="camel"):
    """One candidate (answer) of a response."""

    content: ReplyContent | None = None
    finish_reason: FinishField = None
    index: LenientIndex = 0
    grounding_metadata: Any = None
    citation_metadata: Any = None
    url_context_metadata: Any = None
    logprobs_result: Lenient[ReportedLogprobs] = None


class PromptFeedback(msgspec.Struct, gc=False, rename="camel"):
    """The `promptFeedback`, with the reason if Google blocked the prompt."""

    block_reason: Annotated[str | None, invalid_becomes("OTHER")] = None


class GeneratedContent(msgspec.Struct, gc=False, rename="camel"):
    """A GenerateContentResponse: a complete reply, or one event of a stream."""

    candidates: list[ReplyCandidate] | None = None
    prompt_feedback: Lenient[PromptFeedback] = None
    usage_metadata: Lenient[ReportedUsage] = None
    model_version: Lenient[str] = None
    response_id: Lenient[str] = None
    error: Any = None


decoder = ReplyDecoder(GeneratedContent, "generated content")
decode_strictly = decoder.strictly


def finish_reason(reported: str) -> FinishReason:
    """Convert a `finishReason`.

    Raises:
        Malformed: the reason is one of ABORTED.
    """
    if reported in ABORTED:
        raise Malformed(f"The provider aborted the answer (finish reason: {truncated(reported)})")
    return "stop" if reported in STOPPED else "length" if reported in CUT_OFF else "content_filter"
