"""Find the optional attributes of a conversation (cache_control, image detail, …) that a protocol cannot carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llm_gateway.domain.conversation import Conversation, Image, Part, Text, Thinking, ToolResult, Turn
from llm_gateway.protocols.encrypted_reasoning import is_from_responses


def _keeps_none(_part: Part) -> bool:
    return False


def unsupported_attributes(
    conversation: Conversation, unsupported: Iterable[str], *, keeps: Callable[[Part], bool] = _keeps_none
) -> list[str]:
    """Return the names of attributes in `unsupported` that the conversation has, sorted.

    Possible names: `cache_control`, `detail` (of an image), `name` (of a message's author), `is_error` (of a tool
    result), `strict` (of a tool) and `thinking` (reasoning of earlier turns). `keeps(part)`: the protocol carries this
    signed or encrypted reasoning, which is then not reported.
    """
    if not _may_have_attributes(conversation):
        return []
    parts = [part for turn in conversation.turns for part in turn.parts]
    names = {name for part in parts if not keeps(part) for name in _attributes_of(part)}
    if any(turn.name is not None for turn in conversation.turns):
        names.add("name")
    if any(tool.strict for tool in conversation.tools):
        names.add("strict")
    if any(tool.cache is not None for tool in conversation.tools):
        names.add("cache_control")
    return sorted(names.intersection(unsupported))


def split_system(turns: list[Turn]) -> tuple[list[Part], list[Turn]]:
    """Split the parts of the leading system turns from the other turns, for protocols with a system field.

    Later system turns stay in their place. If there are only system turns, all stay: such a protocol requires a user's
    message, and OpenAI answers system texts alone, too.
    """
    for index, turn in enumerate(turns):
        if turn.role not in ("system", "developer"):
            return [part for before in turns[:index] for part in before.parts], turns[index:]
    return [], turns


def _may_have_attributes(conversation: Conversation) -> bool:
    """Return False for plain text without tools, as most conversations are: a quick check that saves the search."""
    if conversation.tools:
        return True
    for turn in conversation.turns:
        if turn.name is not None:
            return True
        for part in turn.parts:
            if type(part) is not Text or part.cache is not None:
                return True
    return False


def is_verifiable(part: Part) -> bool:
    """Return whether the part is reasoning that a provider of the Messages API signed or encrypted, and can verify."""
    return isinstance(part, Thinking) and bool(part.signature or part.redacted) and not is_from_responses(part)


def _attributes_of(part: Part) -> Iterator[str]:
    if getattr(part, "cache", None) is not None:
        yield "cache_control"
    if isinstance(part, Image) and part.detail is not None:
        yield "detail"
    elif isinstance(part, ToolResult):
        if part.is_error:
            yield "is_error"
        for inner in part.content:
            yield from _attributes_of(inner)
    elif isinstance(part, Thinking):
        yield "thinking"
