"""Estimate the output tokens of a reply whose provider did not count them: by its text, or at its bound."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from llm_gateway.domain.conversation import Choice, Part, Refusal, Text, Thinking, ToolCall
from llm_gateway.domain.reasoning_models import reasons
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.request import Request
from llm_gateway.domain.token_estimate import equivalent_length, estimated_output_tokens
from llm_gateway.domain.usage import Usage

HIDDEN_REASONERS = re.compile(
    r"(?:^|/)(?:gemini-(?:2\.5|[3-9])|grok-4|claude-[a-z]+-(?:[5-9](?!\d)|\d{2}))"
    r"(?!.*non-reasoning)"
)
"""Models besides OpenAI's that reason unless told otherwise, and return no reasoning or a summary, but bill all of it.

https://ai.google.dev/gemini-api/docs/thinking,
https://docs.x.ai/docs/guides/reasoning, https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking."""


def estimated_output(choices: Iterable[Choice]) -> Usage:
    """Estimate the output tokens of an answer from its texts; see `estimated_output_of`."""
    return estimated_output_of(_text(part) for choice in choices for part in choice.parts)


def estimated_output_of(texts: Iterable[str]) -> Usage:
    """Estimate the output tokens of an answer from pieces of its texts, by the weight of inputs (`equivalent_length`).

    The pieces are weighed together, so that a stream is estimated like the whole answer.
    """
    return Usage(output_tokens=estimated_output_tokens(equivalent_length("".join(texts))))


def _text(part: Part) -> str:
    if isinstance(part, ToolCall):
        return part.arguments
    return part.text if isinstance(part, Text | Thinking | Refusal) else ""


def hides_reasoning(choices: Iterable[Choice]) -> bool:
    """Return whether the answer has reasoning that is encrypted or signed: its text is missing, or a summary."""
    return any(
        isinstance(part, Thinking) and (part.redacted is not None or part.signature is not None)
        for choice in choices
        for part in choice.parts
    )


def with_estimates(reply: Reply, request: Request, model: str) -> Reply:
    """Return the reply of `model` with what its provider did not count estimated.

    The input is estimated from the request. The output stays as it was estimated from its text, unless the model may
    have reasoned without showing it: then it is the most that the request allows.
    """
    if not reply.usage_estimated or reply.usage.input_tokens:
        return reply
    output_tokens = reply.usage.output_tokens
    if reply.has_hidden_reasoning or reasons(model) or HIDDEN_REASONERS.search(model.lower()):
        output_tokens = max(output_tokens, request.max_tokens)
    usage = msgspec.structs.replace(
        reply.usage, input_tokens=request.estimated_input_tokens(), output_tokens=output_tokens
    )
    return msgspec.structs.replace(reply, usage=usage)
