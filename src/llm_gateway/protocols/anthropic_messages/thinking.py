"""Map the requested reasoning to Anthropic's `thinking` and `effort`, within the limits of model and request.

https://platform.claude.com/docs/en/build-with-claude/extended-thinking, …/adaptive-thinking.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import Conversation, Reasoning, ToolCall
from llm_gateway.protocols.anthropic_messages.model_capabilities import accepts_all_parameters
from llm_gateway.protocols.part_attributes import is_verifiable

BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
"""Reasoning effort → thinking budget in tokens."""
LEAST_BUDGET = 1024
"""Smallest `budget_tokens` that the API accepts."""
EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
"""Values of `output_config.effort`, all but `minimal` of the canonical ones:
https://platform.claude.com/docs/en/build-with-claude/effort."""
ANSWER_TOKENS = 4096
"""Tokens reserved for the answer in addition to the thinking budget, if the client sets no `max_tokens`."""
DROPPED = ["reasoning"]


def forces_tool_call(conversation: Conversation) -> bool:
    """Return whether the request forces a tool call."""
    choice = conversation.tool_choice
    return bool(conversation.tools) and choice is not None and choice.mode == "required"


def set_thinking(conversation: Conversation, model: str, document: dict[str, Any]) -> list[str]:
    """Set `thinking` in `document`, and `max_tokens` if needed.

    Returns `["reasoning"]` if the option had to be dropped, else an empty list.
    """
    reasoning = conversation.reasoning
    if reasoning is None:
        return []
    if not accepts_all_parameters(model):
        return _set_adaptive_thinking(reasoning, document)
    if reasoning.effort == "none":
        document["thinking"] = {"type": "disabled"}
        return []
    budget = max(LEAST_BUDGET, reasoning.budget_tokens or BUDGETS.get(reasoning.effort or "medium", 8192))
    limit = conversation.max_tokens
    if limit is not None and limit <= budget:
        budget = limit // 2  # max_tokens bounds thinking and answer together
    if budget < LEAST_BUDGET or forces_tool_call(conversation) or _is_amid_tools(conversation):
        return DROPPED
    document["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if limit is None:
        document["max_tokens"] = max(document["max_tokens"], budget + ANSWER_TOKENS)
    return []


def _set_adaptive_thinking(reasoning: Reasoning, document: dict[str, Any]) -> list[str]:
    """Set adaptive thinking, for models that take an effort instead of a budget in tokens: the nearest to the budget.

    Without an effort these models take `medium` or `high`, so a word that they do not know must not be left out.
    """
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort == "none":
        return DROPPED  # some of these models reject `disabled`
    if effort is None and budget is not None:
        effort = next((word for word in ("low", "medium") if budget <= BUDGETS[word]), "high")
    document["thinking"] = {"type": "adaptive"} | ({"display": "summarized"} if reasoning.show else {})
    if effort is not None:
        document["output_config"] = {"effort": effort if effort in EFFORTS else "low"}
    return [] if effort is None or effort in EFFORTS else DROPPED


def _is_amid_tools(conversation: Conversation) -> bool:
    """Return whether the last assistant turn has tool calls but no signed thinking: the API then rejects thinking.

    https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks
    """
    last = next((turn.parts for turn in reversed(conversation.turns) if turn.role == "assistant"), [])
    return any(isinstance(part, ToolCall) for part in last) and not any(map(is_verifiable, last))
