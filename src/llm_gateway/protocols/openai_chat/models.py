"""What models of this dialect take, by their names."""

from __future__ import annotations

import re

REASONS = re.compile(r"o\d(?=[-:@]|$)|gpt-[5-9](?!\d)")
"""Models that know only `max_completion_tokens` and the default temperature, their names without a vendor's before it:
o1, o3-mini, gpt-5, (openai/) gpt-5-mini, gpt-6-sol; not gpt-oss-20b, nor gpt-35-turbo, as Azure calls gpt-3.5.

Sources: https://developers.openai.com/api/docs/guides/reasoning, and "Unsupported value: 'temperature'" of the API.
From GPT-5.1 on a temperature is accepted with reasoning effort `none` alone, whose default differs from model to model.
"""
CHATS = "gpt-5-chat"
"""The one among them that does not reason, and takes a temperature."""


def reasons(model: str) -> bool:
    """Whether it wants `max_completion_tokens`."""
    return REASONS.match(model.rpartition("/")[2]) is not None


def takes_temperature(model: str) -> bool:
    """Whether it may be sent a temperature."""
    return not reasons(model) or model.rpartition("/")[2].startswith(CHATS)
