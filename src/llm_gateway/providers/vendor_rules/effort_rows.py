"""The rows for the reasoning efforts of OpenAI's models, which `domain/reasoning_models.py` defines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.domain.reasoning_models import EFFORTS_OF_OPENAI
from llm_gateway.providers.vendor_rules.rule import Row, Words

OPENAI = ("openai", "")
"""OpenAI, and providers of no known vendor for rules about OpenAI's own models, which Azure and proxies serve."""
CHAT_EFFORT = "https://github.com/Laisky/one-api/issues/120"
"""Source: GPT-5 Chat refuses an effort."""


def effort_rows(field: str, protocol: str, wrapped: Callable[[Words], Any]) -> Iterator[Row]:
    """Yield the rows for a field of one protocol. `wrapped` makes its rule of the one for the effort itself."""
    before: tuple[str, ...] = ()
    for models, efforts, source in EFFORTS_OF_OPENAI:
        if efforts != REASONING_EFFORTS:
            yield Row(
                vendors=OPENAI,
                models=models,
                but_not=before,  # the first match decides
                field=field,
                name="reasoning",
                rule=wrapped(Words(efforts)),
                source=source,
                protocol=protocol,
            )
        before += models
