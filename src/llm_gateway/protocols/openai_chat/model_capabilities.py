"""Reasoning efforts, earlier reasoning and signatures that a model takes in chat completions, derived from its name.

Model names may have a vendor prefix, as OpenRouter's do: `openai/gpt-5-mini`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from llm_gateway.domain.conversation import REASONING_EFFORTS, Reasoning
from llm_gateway.domain.reasoning_models import MOST_REMEMBERED, efforts_of, takes_effort

KEEPS_THOUGHTS = re.compile(r"deepseek(?!.*distill)|kimi")
"""Models that take back `reasoning_content`: https://api-docs.deepseek.com/guides/thinking_mode,
https://github.com/QuantumNous/new-api/issues/3121 (Kimi)."""
TAKES_SIGNATURES = re.compile(r"gemini")
"""Models that take back the signatures of their tool calls as `extra_content`, which strict vendors reject:
https://ai.google.dev/gemini-api/docs/thought-signatures, https://github.com/NousResearch/hermes-agent/pull/38543."""
DETAILS_FORMATS = (
    (re.compile(r"(?:^|[/~])anthropic/claude"), "anthropic-claude-v1"),
    (re.compile(r"(?:^|[/~])openai/(?:gpt-\d|o\d|codex)"), "openai-responses-v1"),
    (re.compile(r"(?:^|[/~])x-?ai/grok"), "xai-responses-v1"),
    (re.compile(r"(?:^|[/~])google/gemini"), "google-gemini-v1"),
)
"""Models that take back `reasoning_details`, and the `format` of those that their vendor can verify.

The names are those of OpenRouter and other aggregators, with the vendor's name first; vendors themselves have other
names, and reject the field. https://openrouter.ai/docs/guides/best-practices/reasoning-tokens,
https://vercel.com/docs/ai-gateway/sdks-and-apis/openai-chat-completions/reasoning (2026-11-27).
"""
EFFORTS_BY_BUDGET = ((1, "none"), (2048, "low"), (16384, "medium"))
"""Thinking budgets in tokens (exclusive upper bounds) and the `reasoning_effort` of each; above the last: `high`."""


def nearest_effort(model: str, effort: str) -> str:
    """Return the `reasoning_effort` nearest to `effort` that the model accepts."""
    place = REASONING_EFFORTS.index(effort)
    return min(efforts_of(model), key=lambda each: abs(REASONING_EFFORTS.index(each) - place))


def effort_for(reasoning: Reasoning, model: str) -> tuple[str | None, bool]:
    """Return the `reasoning_effort` to request, None for the model's default, and whether it is the wanted one."""
    if not takes_effort(model):
        return None, False
    if reasoning.effort is not None:
        effort = nearest_effort(model, reasoning.effort)
        return effort, effort == reasoning.effort
    if reasoning.budget_tokens is None:
        return None, True
    budget = reasoning.budget_tokens
    wanted = next((effort for limit, effort in EFFORTS_BY_BUDGET if budget < limit), "high")
    return nearest_effort(model, wanted), True


@lru_cache(maxsize=MOST_REMEMBERED)
def keeps_thoughts(model: str) -> bool:
    """Return whether the model takes back the reasoning of its earlier answers as `reasoning_content`.

    DeepSeek and Kimi refuse an answer with tool calls that comes back without it.
    """
    return KEEPS_THOUGHTS.search(model.lower()) is not None


@lru_cache(maxsize=MOST_REMEMBERED)
def details_format(model: str) -> str | None:
    """Return the `format` of the `reasoning_details` that the model takes back, None if it takes none."""
    return next((form for models, form in DETAILS_FORMATS if models.search(model.lower())), None)


@lru_cache(maxsize=MOST_REMEMBERED)
def takes_signatures(model: str) -> bool:
    """Return whether the model takes back signatures of tool calls: only Gemini does, at any vendor."""
    return TAKES_SIGNATURES.search(model.lower()) is not None
