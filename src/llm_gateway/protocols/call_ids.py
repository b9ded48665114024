"""Make the tool calls of a client's history unique, since vendors reject a history that names a call twice.

- A result that repeats an earlier one is dropped. Gemini CLI sends each result twice when it resumes a session:
  https://github.com/google-gemini/gemini-cli/pull/29400.
- A call with the id of an earlier call gets another id, and so does its result. Some models repeat ids in later turns,
  or in parallel calls: https://github.com/can1357/oh-my-pi/issues/2055. Anthropic rejects those ("tool_use ids must be
  unique"): https://github.com/ducks/claux/issues/40.
"""

from __future__ import annotations

from collections import deque

import msgspec

from llm_gateway.domain.conversation import Conversation, Part, ToolCall, ToolResult


def make_calls_unique(conversation: Conversation) -> Conversation:
    """Change the conversation so that each id belongs to one call, and no result repeats. Returns it."""
    calls, results = [], []
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                calls.append(part.id)
            elif isinstance(part, ToolResult):
                results.append(part.call_id)
    if len(set(calls)) < len(calls) or len(set(results)) < len(results):
        history = _History()
        for turn in conversation.turns:
            turn.parts = [kept for part in turn.parts if (kept := history.unique(part)) is not None]
        conversation.turns = [turn for turn in conversation.turns if turn.parts]
    return conversation


class _History:
    """The calls and results of a conversation up to a part."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._numbers: dict[str, int] = {}
        """The number that the last new id ends with, by the id that the client sent."""
        self._unanswered: dict[str, deque[str]] = {}
        """New ids of the calls without a result, by the id that the client sent."""
        self._results: dict[str, ToolResult] = {}
        """The last result by the id that the client sent."""

    def unique(self, part: Part) -> Part | None:
        """Return the part, with another id if it is of a call whose id repeats; None if it is a repeated result."""
        if isinstance(part, ToolCall):
            return self._call(part)
        if not isinstance(part, ToolResult):
            return part
        unanswered = self._unanswered.get(part.call_id)
        if unanswered:
            self._results[part.call_id] = part
            return msgspec.structs.replace(part, call_id=unanswered.popleft())
        return None if self._results.get(part.call_id) == part else part

    def _call(self, call: ToolCall) -> ToolCall:
        call_id, number = call.id, self._numbers.get(call.id, 1)
        while call_id in self._ids:
            number += 1
            call_id = f"{call.id}_{number}"
        self._numbers[call.id] = number
        self._ids.add(call_id)
        self._unanswered.setdefault(call.id, deque()).append(call_id)
        return call if call_id == call.id else msgspec.structs.replace(call, id=call_id)
