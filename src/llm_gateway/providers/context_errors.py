"""Recognise errors that say that a request exceeds the model's context window, in the words of each vendor.

Each row has the address where the vendor's words were found; all were looked up on 2026-11-27. Unknown: Together,
Cohere and Cerebras. Mistral's words ("too large for model with N maximum context length") are known only from other
clients' lists; the row for OpenAI matches them.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from llm_gateway.errors import CONTEXT_LENGTH

CODES = (
    CONTEXT_LENGTH,
    # OpenAI: https://github.com/openai/codex/issues/20866; Groq: https://github.com/letta-ai/letta/issues/1963;
    # OpenRouter: https://openrouter.ai/docs/api/reference/errors-and-debugging
    "exceed_context_size_error",  # llama.cpp: https://github.com/ggml-org/llama.cpp/pull/15780
)
"""Values of `code` or `type`."""
MESSAGES = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        # Anthropic: https://github.com/anthropics/claude-code/issues/59696
        r"prompt is too long(?:: (?P<tokens>\d+) tokens > (?P<limit>\d+))?",
        # Anthropic, input and max_tokens together: https://github.com/anymorph-ai/Claudable/issues/3
        r"input length and `?max_tokens`? exceed context limit",
        # Gemini: https://github.com/google-gemini/gemini-cli/issues/4231
        r"input token count(?: \((?P<tokens>\d+)\))? exceeds the maximum(?:[a-z ]+\((?P<limit>\d+)\))?",
        # OpenAI's Responses API: https://github.com/openai/codex/issues/20866
        r"exceeds the context window",
        # OpenAI: https://github.com/smol-ai/developer/issues/7; DeepSeek:
        # https://github.com/evalstate/fast-agent/issues/621; vLLM: https://github.com/ruipeterpan/specreason/issues/4;
        # OpenRouter ("This endpoint's maximum …"): https://github.com/ThinkInAIXYZ/deepchat/issues/1320
        r"maximum context length(?: is (?P<limit>\d+) tokens(?:.{0,50}(?:ed|about|in) (?P<tokens>\d+) tokens)?)?",
        # vLLM, older: https://github.com/vllm-project/vllm/issues/12165
        r"\(total length (?P<tokens>\d+)\) is too long to fit into the model \(context length (?P<limit>\d+)\)",
        # xAI: https://github.com/cline/cline/issues/3120
        r"maximum prompt length is (?P<limit>\d+) but the request contains (?P<tokens>\d+) tokens",
        # Groq: https://github.com/letta-ai/letta/issues/1963
        r"reduce the length of the messages or completion",
        # llama.cpp: https://github.com/oobabooga/textgen/issues/7257
        r"exceeds the available context size",
        # LM Studio: https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/546
        r"loaded with context length of only (?P<limit>\d+) tokens",
        # Moonshot: https://github.com/multica-ai/multica/issues/4130
        r"exceeded model token limit: (?P<limit>\d+) \(requested: (?P<tokens>\d+)\)",
    )
)
_RATE = re.compile(r"per (?:min|hour|day)|rate.?limit", re.IGNORECASE)
"""A limit of tokens per minute is no context window: https://github.com/ITSpecialist111/ai_automation_suggester/issues/61."""


class ContextLimit(NamedTuple):
    """The numbers in an error about the context window: tokens of the request, and the most that the model takes.

    None where the vendor does not send them.
    """

    tokens: int | None
    limit: int | None


def context_limit(error: dict[str, Any]) -> ContextLimit | None:
    """Return the numbers in a provider's error object if it is about the context window, else None."""
    message = error.get("message")
    text = message if isinstance(message, str) else ""
    if _RATE.search(text):
        return None
    found = next((match for pattern in MESSAGES if (match := pattern.search(text))), None)
    if found is None and error.get("code") not in CODES and error.get("type") not in CODES:
        return None
    numbers = found.groupdict() if found is not None else {}
    return ContextLimit(
        _number(numbers.get("tokens") or error.get("n_prompt_tokens")),
        _number(numbers.get("limit") or error.get("n_ctx")),
    )


def _number(value: Any) -> int | None:
    """Return a count of at most 12 digits, None for anything else."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isdecimal() and len(text) <= 12 else None
