"""Request parameters that a Claude model accepts, derived from the model's name."""

from __future__ import annotations

import re

MAX_TEMPERATURE = 1.0
ACCEPTS_ALL_PARAMETERS = re.compile(
    r".*claude-(?:instant|v?[123](?!\d)|4-(?:opus|sonnet)"
    r"|(?:opus|sonnet|haiku)-4(?:[-.][0-6](?!\d)|(?![-.]\d{1,2}(?!\d))))"
)
"""Claude up to 4.6. Later models reject `temperature`, `top_p` and `top_k`, and some reject a forced tool
(`REJECTS_FORCED_TOOLS`):
https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5#forced-tool-use-is-not-supported,
https://platform.claude.com/docs/en/models/haiku-5-5/migration-guide.
"""
REJECTS_TEMPERATURE_WITH_TOP_P = re.compile(r".*claude-(?:opus|sonnet|haiku)-4[-.][1-6](?!\d)")
"""Models that reject `temperature` together with `top_p`:
https://platform.claude.com/docs/en/about-claude/models/migrating-to-claude-4."""
REJECTS_FORCED_TOOLS = re.compile(r".*claude-(?:(?:fable|mythos)-5[-.]1|(?:opus|sonnet)-5[-.]5)(?!\d)")
"""Models that reject a forced tool (Fable and Mythos 5.1, Opus 5.5, Sonnet 5.5). Sources: see above."""
OLD_MODELS = re.compile(r".*claude-(?:instant|v?[12](?!\d)|3-(?:opus|sonnet|haiku))")
"""Models whose answers are limited to 4,096 tokens."""
MODELS_OF_8192_TOKENS = re.compile(r".*claude-3[-.]5-")
MAX_TOKENS, MAX_TOKENS_OF_OLD_MODELS = 32_000, 4096
"""Default `max_tokens` for requests without one, since the Messages API requires it: the model's own maximum, at most
32,000. Claude Opus 4 has exactly that, later models have 64,000 or 128,000:
https://platform.claude.com/docs/en/models/overview, https://github.com/labring/fastgpt-plugin/pull/242."""
MAX_TOKENS_OF_OTHERS = 8192
"""The same for models of other vendors that offer the Messages API, whose maximum is not known."""


def accepts_all_parameters(model: str) -> bool:
    """Return whether the model accepts sampling parameters, a forced tool, and a thinking budget in tokens.

    True for models of other vendors that offer the Messages API.
    """
    return "claude" not in model or ACCEPTS_ALL_PARAMETERS.match(model) is not None


def rejects_forced_tools(model: str) -> bool:
    """Return whether the model rejects a `tool_choice` that forces a tool call."""
    return REJECTS_FORCED_TOOLS.match(model) is not None


def rejects_temperature_with_top_p(model: str) -> bool:
    """Return whether the model accepts either `temperature` or `top_p`, but not both."""
    return REJECTS_TEMPERATURE_WITH_TOP_P.match(model) is not None


def default_max_tokens(model: str) -> int:
    """Return the `max_tokens` to send if the client sets none."""
    if OLD_MODELS.match(model):
        return MAX_TOKENS_OF_OLD_MODELS
    return MAX_TOKENS if "claude" in model and not MODELS_OF_8192_TOKENS.match(model) else MAX_TOKENS_OF_OTHERS
