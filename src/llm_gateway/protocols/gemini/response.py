"""Decode GenerateContentResponse, which is a whole reply as well as one event of a stream.

Finish reasons: https://ai.google.dev/api/generate-content#FinishReason.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from llm_gateway.domain.conversation import (
    FinishReason,
)
from llm_gateway.protocols.contract import Malformed
from llm_gateway.protocols.counts import truncated
from llm_gateway.protocols.gemini.usage import ReportedUsage
from llm_gateway.protocols.lenient_decoding import Lenient, LenientIndex, ReplyDecoder, invalid_becomes

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

FinishField: TypeAlias = Annotated[str | None, invalid_becomes("OTHER")]
"""A `finishReason`; an odd one (the number of the word), too, says that the answer ended."""


class FunctionCall(msgspec.Struct, gc=False):
    """A call of a function."""

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

    def foreign(self) -> str | None:
        """Return the name of what only this protocol knows, None if there is nothing of the kind."""
        for kind in FOREIGN_PARTS:
            if getattr(self, kind) is not None:
                return kind
        is_empty = self.text is None and self.thought_signature is None and not self.thought
        return "part" if is_empty and self.function_call is None else None


class ReplyContent(msgspec.Struct, gc=False):
    """The content of a candidate."""

    parts: list[ReplyPart] | None = None


class ReplyCandidate(msgspec.Struct, gc=False, rename="camel"):
    """One of the answers."""

    content: ReplyContent | None = None
    finish_reason: FinishField = None
    index: LenientIndex = 0
    grounding_metadata: Any = None
    citation_metadata: Any = None
    url_context_metadata: Any = None


class PromptFeedback(msgspec.Struct, gc=False, rename="camel"):
    """Why a prompt was blocked."""

    block_reason: Annotated[str | None, invalid_becomes("OTHER")] = None


class GeneratedContent(msgspec.Struct, gc=False, rename="camel"):
    """A GenerateContentResponse: a whole reply, or one event of a stream."""

    candidates: list[ReplyCandidate] | None = None
    prompt_feedback: Lenient[PromptFeedback] = None
    usage_metadata: Lenient[ReportedUsage] = None
    model_version: Lenient[str] = None
    response_id: Lenient[str] = None
    error: Any = None


decoder = ReplyDecoder(GeneratedContent, "generated content")
decode_strictly = decoder.strictly


def finish_reason(said: str) -> FinishReason:
    """The canonical word.

    Raises:
        Malformed: the model failed.
    """
    if said in FAILED:
        raise Malformed(f"The answer was broken off ({truncated(said)})")
    return "stop" if said in STOPPED else "length" if said in CUT_OFF else "content_filter"
