"""Optional per-part attributes (cache_control, detail, …) that not every protocol can carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm_gateway.domain.conversation import Conversation, Image, Part, Text, Thinking, ToolResult


def left_out(conversation: Conversation, unknown: Iterable[str], *, keeps_sealed: bool = False) -> list[str]:
    """Which of the marks that a protocol does not know are there.

    They are `cache_control`, `detail` (of a picture), `name` (of a speaker), `is_error` (of a tool's result), `strict`
    (of a tool) and `thinking`: earlier thoughts, which only the model that had them could read. `keeps_sealed`: the
    protocol has a place for those with its maker's seal.
    """
    if not _may_have_marks(conversation):
        return []
    parts = [part for turn in conversation.turns for part in turn.parts]
    found = {mark for part in parts if not (keeps_sealed and is_sealed(part)) for mark in _marks(part)}
    if any(turn.name is not None for turn in conversation.turns):
        found.add("name")
    if any(tool.strict for tool in conversation.tools):
        found.add("strict")
    if any(tool.cache is not None for tool in conversation.tools):
        found.add("cache_control")
    return sorted(found.intersection(unknown))


def _may_have_marks(conversation: Conversation) -> bool:
    """Tell quickly whether a conversation is nothing but text, as most are: then there are none to look for."""
    if conversation.tools:
        return True
    for turn in conversation.turns:
        if turn.name is not None:
            return True
        for part in turn.parts:
            if type(part) is not Text or part.cache is not None:
                return True
    return False


def is_sealed(part: Part) -> bool:
    """Whether it is a thought that its maker would know again."""
    return isinstance(part, Thinking) and bool(part.signature or part.redacted)


def _marks(part: Part) -> Iterator[str]:
    if getattr(part, "cache", None) is not None:
        yield "cache_control"
    if isinstance(part, Image) and part.detail is not None:
        yield "detail"
    elif isinstance(part, ToolResult):
        if part.is_error:
            yield "is_error"
        for inner in part.content:
            yield from _marks(inner)
    elif isinstance(part, Thinking):
        yield "thinking"
