"""Which request parameters a Claude model accepts, derived from its name."""

from __future__ import annotations

import re

MAX_TEMPERATURE = 1.0
TAKES_ALL = re.compile(
    r".*claude-(?:instant|v?[123](?!\d)|4-(?:opus|sonnet)"
    r"|(?:opus|sonnet|haiku)-4(?:[-.][0-6](?!\d)|(?![-.]\d{1,2}(?!\d))))"
)
"""Claude up to 4.6. Later ones refuse any temperature, `top_p` and `top_k`, many of them a forced tool too (Fable and
Mythos 5.1, Opus 5.5, Sonnet 5.5):
https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5#forced-tool-use-is-not-supported,
https://platform.claude.com/docs/en/models/haiku-5-5/migration-guide. Others that speak this dialect take all, too.
"""
ONE_SAMPLING = re.compile(r".*claude-(?:opus|sonnet|haiku)-4[-.][1-6](?!\d)")
"""Models that refuse a temperature together with `top_p`:
https://platform.claude.com/docs/en/about-claude/models/migrating-to-claude-4."""
UNFORCED = re.compile(r".*claude-(?:(?:fable|mythos)-5[-.]1|(?:opus|sonnet)-5[-.]5)(?!\d)")
"""Models that refuse a forced tool, as above."""
OLD = re.compile(r".*claude-(?:instant|v?[12](?!\d)|3-(?:opus|sonnet|haiku))")
"""Models whose answers have 4,096 tokens at most."""
MAX_TOKENS, MAX_TOKENS_OF_OLD = 8192, 4096
"""What is asked for where a client does not say, since this protocol must be told."""


def takes_all(model: str) -> bool:
    """Whether it takes a temperature, a forced tool, and thinking in tokens."""
    return "claude" not in model or TAKES_ALL.match(model) is not None


def refuses_force(model: str) -> bool:
    """Whether it cannot be made to call a tool."""
    return UNFORCED.match(model) is not None


def takes_one_sampling(model: str) -> bool:
    """Whether it takes a temperature or `top_p`, but not both."""
    return ONE_SAMPLING.match(model) is not None


def default_max_tokens(model: str) -> int:
    """How long an answer may be where the client does not say."""
    return MAX_TOKENS_OF_OLD if OLD.match(model) else MAX_TOKENS
