"""Which request parameters a model accepts, derived from its name: reasoning, temperature, effort."""

from __future__ import annotations

import re
from functools import lru_cache

from llm_gateway.domain.conversation import REASONING_WORDS

REASONS = re.compile(r"o\d(?=[-:@]|$)|gpt-[5-9](?!\d)")
"""Models that know only `max_completion_tokens` and the default temperature, their names without a vendor's before it:
o1, o3-mini, gpt-5, (openai/) gpt-5-mini, gpt-6-sol; not gpt-oss-20b, nor gpt-35-turbo, as Azure calls gpt-3.5.

Sources: https://developers.openai.com/api/docs/guides/reasoning, and "Unsupported value: 'temperature'" of the API.
From GPT-5.1 on a temperature is accepted with reasoning effort `none` alone, whose default differs from model to model.
"""
CHATS = "gpt-5-chat"
"""The one among them that does not reason, and takes a temperature."""

MOST_REMEMBERED = 1024
"""Names of models for which the answer is remembered, since every request asks."""

WORDS = (
    (re.compile(r"o\d"), ("low", "medium", "high")),
    (re.compile(r"gpt-5(?!\.)"), ("minimal", "low", "medium", "high")),
    (re.compile(r"gpt-5\.1(?!\d)"), ("none", "low", "medium", "high")),
    (re.compile(r"gpt-5\.\d"), ("none", "low", "medium", "high", "xhigh")),
)
"""The words for how much to think that models know: https://developers.openai.com/api/docs/guides/reasoning."""


def effort(model: str, word: str) -> str:
    """The word for how much to think that this model knows and that is nearest to another."""
    name = model.rpartition("/")[2]
    known = next((words for models, words in WORDS if models.match(name)), REASONING_WORDS)
    place = REASONING_WORDS.index(word)
    return min(known, key=lambda each: abs(REASONING_WORDS.index(each) - place))


@lru_cache(maxsize=MOST_REMEMBERED)
def reasons(model: str) -> bool:
    """Whether it wants `max_completion_tokens`."""
    return REASONS.match(model.rpartition("/")[2]) is not None


@lru_cache(maxsize=MOST_REMEMBERED)
def takes_temperature(model: str) -> bool:
    """Whether it may be sent a temperature."""
    return not reasons(model) or model.rpartition("/")[2].startswith(CHATS)
