"""Request parameters that an OpenAI model accepts, derived from its name: temperature, token limit, reasoning effort.

Model names may have a vendor prefix, as OpenRouter's do: `openai/gpt-5-mini`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from llm_gateway.domain.conversation import REASONING_EFFORTS, Reasoning

REASONING_MODELS = re.compile(r"o\d(?=[-:@]|$)|gpt-[5-9](?!\d)|codex-mini")
"""Reasoning models by name, without the vendor's prefix. They reject `max_tokens` and any but the default temperature.

Matches o1, o3-mini, gpt-5, gpt-5-mini, gpt-6-sol; not gpt-oss-20b, nor gpt-35-turbo, Azure's name for gpt-3.5.

Sources: https://developers.openai.com/api/docs/guides/reasoning, and the API error "Unsupported value: 'temperature'".
From GPT-5.1 on a temperature is accepted with reasoning effort `none` only, and the default effort differs by model.
"""
NON_REASONING_PREFIX = "gpt-5-chat"
"""A model that `REASONING_MODELS` matches though it does not reason: it accepts a temperature, and no effort
(https://github.com/Laisky/one-api/issues/120, 2026-11-27)."""

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
MOST_REMEMBERED = 1024
"""Model names in each cache below; each request looks one up."""

EFFORTS_BY_MODEL = (
    (re.compile(r"o\d"), ("low", "medium", "high")),
    (re.compile(r"gpt-5-pro"), ("high",)),
    (re.compile(r"gpt-5\.2-chat"), ("medium",)),
    (re.compile(r"gpt-5\.\d-pro"), ("medium", "high", "xhigh")),
    (re.compile(r"gpt-5(\.1)?-codex(?!-max)"), ("low", "medium", "high")),
    (re.compile(r"gpt-5\.\d-codex"), ("low", "medium", "high", "xhigh")),
    (re.compile(r"gpt-5(?!\.)"), ("minimal", "low", "medium", "high")),
    (re.compile(r"gpt-5\.1(?!\d)"), ("none", "low", "medium", "high")),
    (re.compile(r"gpt-5\.[2-5](?!\d)"), ("none", "low", "medium", "high", "xhigh")),
    (re.compile(r"gpt-5\.\d"), ("none", "low", "medium", "high", "xhigh", "max")),
    (re.compile(r"gpt-oss|grok-4\.5"), ("low", "medium", "high")),
    (re.compile(r"grok-3-mini"), ("low", "high")),
    (re.compile(r"grok"), ("none", "low", "medium", "high")),
)
"""Values of `reasoning_effort` by model; the first match decides.

Sources: https://developers.openai.com/api/docs/guides/reasoning; of the pro and codex models
https://github.com/anomalyco/models.dev/pull/331 (2025-10-26) and …/pull/2296 (2026-06-13), with the vendor's pages;
of GPT-5.2 Chat https://github.com/egoist/chatwise-releases/issues/1257 (2026-02-26); for
other vendors' models the table in `providers/vendor_rules`, which applies to requests that pass through, too.
"""
EFFORTS_BY_BUDGET = ((1, "none"), (2048, "low"), (16384, "medium"))
"""Thinking budgets in tokens (exclusive upper bounds) and the `reasoning_effort` of each; above the last: `high`."""
EFFORT_OF_OTHERS = re.compile(r"gpt-oss|grok-3-mini|grok-4\.[35]|deepseek-(?:v[4-9]|chat|reasoner)")
"""Models of other vendors that take `reasoning_effort`. Sources: see there."""


def takes_effort(model: str) -> bool:
    """Return whether the model takes `reasoning_effort`."""
    return not accepts_sampling(model) or EFFORT_OF_OTHERS.match(model.rpartition("/")[2]) is not None


def nearest_effort(model: str, effort: str) -> str:
    """Return the `reasoning_effort` nearest to `effort` that the model accepts."""
    name = model.rpartition("/")[2]
    known = next((efforts for models, efforts in EFFORTS_BY_MODEL if models.match(name)), REASONING_EFFORTS)
    place = REASONING_EFFORTS.index(effort)
    return min(known, key=lambda each: abs(REASONING_EFFORTS.index(each) - place))


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
def is_reasoning_model(model: str) -> bool:
    """Return whether the model is a reasoning model, which requires `max_completion_tokens` for `max_tokens`."""
    return REASONING_MODELS.match(model.rpartition("/")[2]) is not None


@lru_cache(maxsize=MOST_REMEMBERED)
def accepts_sampling(model: str) -> bool:
    """Return whether the model accepts `temperature` and the other sampling parameters."""
    return not is_reasoning_model(model) or model.rpartition("/")[2].startswith(NON_REASONING_PREFIX)


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
