"""How much a Claude model shall think, within what it takes and what the client allows.

https://platform.claude.com/docs/en/build-with-claude/extended-thinking, …/adaptive-thinking.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import Conversation, Reasoning, ToolCall
from llm_gateway.protocols.anthropic_messages.model_capabilities import takes_all
from llm_gateway.protocols.part_attributes import is_sealed

BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
"""Tokens of thought for the words of others."""
LEAST_BUDGET = 1024
EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
ANSWER_TOKENS = 4096
"""What is left for the answer beside the thoughts, where the client does not bound both together."""
LEFT_OUT = ["reasoning"]


def must_call(conversation: Conversation) -> bool:
    """Whether a tool must be called."""
    choice = conversation.tool_choice
    return bool(conversation.tools) and choice is not None and choice.mode == "required"


def think(conversation: Conversation, model: str, document: dict[str, Any]) -> list[str]:
    """Say in the request's document how much to think; `["reasoning"]` where it cannot be said."""
    reasoning = conversation.reasoning
    if reasoning is None:
        return []
    if not takes_all(model):
        return _adapt(reasoning, document)
    if reasoning.effort == "none":
        document["thinking"] = {"type": "disabled"}
        return []
    budget = max(LEAST_BUDGET, reasoning.budget_tokens or BUDGETS.get(reasoning.effort or "medium", 8192))
    limit = conversation.max_tokens
    if limit is not None and limit <= budget:
        budget = limit // 2  # both together are what the client allows
    if budget < LEAST_BUDGET or must_call(conversation) or _is_amid_tools(conversation):
        return LEFT_OUT
    document["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if limit is None:
        document["max_tokens"] = max(document["max_tokens"], budget + ANSWER_TOKENS)
    return []


def _adapt(reasoning: Reasoning, document: dict[str, Any]) -> list[str]:
    """Models that choose for themselves how much to think take a word for how hard to try."""
    if reasoning.effort == "none":
        return LEFT_OUT  # to turn it off is refused by some
    document["thinking"] = {"type": "adaptive"} | ({"display": "summarized"} if reasoning.show else {})
    if reasoning.effort in EFFORTS:
        document["output_config"] = {"effort": reasoning.effort}
    return []


def _is_amid_tools(conversation: Conversation) -> bool:
    """Whether the model's last turn called tools and its thoughts are lost: with thinking they would be missed.

    https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks
    """
    last = next((turn.parts for turn in reversed(conversation.turns) if turn.role == "assistant"), [])
    return any(isinstance(part, ToolCall) for part in last) and not any(map(is_sealed, last))
