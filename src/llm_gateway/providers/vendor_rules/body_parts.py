"""Parts of a request's body: messages' tool calls, results and images, and tools, in the four chat protocols.

Every function yields `Part` objects, which copy what leads to a part before they change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from llm_gateway.protocols.contract import JsonObject
from llm_gateway.providers.vendor_rules.rule import Edit

Path: TypeAlias = tuple[Any, ...]
"""Keys and indices that lead to a part of a body."""


class Part:
    """An object inside a body. `value` is what the client sent; `put` and `drop` change the body's own copy."""

    __slots__ = ("_body", "_edit", "_path", "value")

    def __init__(self, value: JsonObject, body: JsonObject, path: Path, edit: Edit) -> None:
        self.value = value
        self._body = body
        self._path = path
        self._edit = edit

    def put(self, key: str, value: Any) -> None:
        """Set a field."""
        self._own()[key] = value

    def drop(self, keys: Iterable[str]) -> None:
        """Leave fields out."""
        own = self._own()
        for key in keys:
            own.pop(key, None)

    def _own(self) -> JsonObject:
        container: Any = self._body
        for step in self._path:
            container = owned(container, step, self._edit)
        own: JsonObject = container
        return own


def owned(container: Any, step: Any, edit: Edit) -> Any:
    """Return `container[step]`, copied unless this edit made the copy: the client's document shares the original."""
    value = container[step]
    if id(value) not in edit.owned:
        value = container[step] = value.copy()
        edit.owned.add(id(value))
    return value


def _items(value: Any, path: Path) -> Iterator[tuple[JsonObject, Path]]:
    """Yield the objects in a list, with their paths; nothing for any other value."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield item, (*path, index)


def _inner(item: JsonObject, key: str, path: Path) -> Iterator[tuple[JsonObject, Path]]:
    """Yield the object in a field, with its path; nothing if the field holds no object."""
    value = item.get(key)
    if isinstance(value, dict):
        yield value, (*path, key)


def _messages(body: JsonObject) -> Iterator[tuple[JsonObject, Path]]:
    return _items(body.get("messages"), ("messages",))


def _blocks(body: JsonObject) -> Iterator[tuple[JsonObject, Path]]:
    """Yield the content blocks of messages."""
    for message, path in _messages(body):
        yield from _items(message.get("content"), (*path, "content"))


def called_texts(body: JsonObject) -> tuple[list[Any], list[Any]]:
    """Return the ids of all tool calls and results, and the names of the called tools: of `messages` and `input`.

    A quick look, since few requests need a change: plain loops, without the paths that a change needs.
    """
    ids: list[Any] = []
    names: list[Any] = []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        if message.get("tool_calls"):
            _look_at_calls(message["tool_calls"], ids, names)
        elif message.get("role") == "tool":
            ids.append(message.get("tool_call_id"))
        elif isinstance(message.get("content"), list):
            _look_at_blocks(message["content"], ids, names)
    for item in body["input"] if isinstance(body.get("input"), list) else ():
        if isinstance(item, dict) and "call_id" in item:
            ids.append(item["call_id"])
            names.append(None if item.get("namespace") else item.get("name"))
    return ids, names


def calls_hold(body: JsonObject, fields: frozenset[str]) -> bool:
    """Return whether a tool call of a chat completions body has one of the fields."""
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and not fields.isdisjoint(call):
                return True
    return False


def _look_at_calls(calls: Any, ids: list[Any], names: list[Any]) -> None:
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            ids.append(call.get("id"))
            function = call.get("function")
            names.append(function.get("name") if isinstance(function, dict) else None)


def _look_at_blocks(blocks: list[Any], ids: list[Any], names: list[Any]) -> None:
    for block in blocks:
        if isinstance(block, dict) and block.get("type") in ("tool_use", "tool_result"):
            ids += (block.get("id"), block.get("tool_use_id"))
            names.append(block.get("name"))


def tools(body: JsonObject, edit: Edit) -> Iterator[Part]:
    """Yield the declarations of tools. Those in a namespace of the Responses API are named apart, and left out."""
    for tool, path in _items(body.get("tools"), ("tools",)):
        if tool.get("type") == "namespace":
            continue
        found = [
            *_inner(tool, "function", path),
            *_items(tool.get("functionDeclarations"), (*path, "functionDeclarations")),
            *_items(tool.get("function_declarations"), (*path, "function_declarations")),
        ] or [(tool, path)]
        for declaration, where in found:
            yield Part(declaration, body, where, edit)


def calls(body: JsonObject, edit: Edit) -> Iterator[Part]:
    """Yield the tool calls of a chat completions body."""
    for message, path in _messages(body):
        if message.get("tool_calls"):
            for call, where in _items(message["tool_calls"], (*path, "tool_calls")):
                yield Part(call, body, where, edit)


def ids(body: JsonObject, edit: Edit) -> Iterator[tuple[Part, str]]:
    """Yield the objects with ids of tool calls, and the name of the field; Gemini's API needs none."""
    for call in calls(body, edit):
        yield call, "id"
    for message, path in _messages(body):
        if message.get("role") == "tool":
            yield Part(message, body, path, edit), "tool_call_id"
    for block, path in _blocks(body):
        if block.get("type") == "tool_use":
            yield Part(block, body, path, edit), "id"
        elif block.get("type") == "tool_result":
            yield Part(block, body, path, edit), "tool_use_id"
    for item, path in _items(body.get("input"), ("input",)):
        if "call_id" in item:
            yield Part(item, body, path, edit), "call_id"


def names(body: JsonObject, edit: Edit) -> Iterator[Part]:
    """Yield the objects whose `name` is that of a tool."""
    yield from tools(body, edit)
    for named, path in (*_choices(body), *_called(body)):
        yield Part(named, body, path, edit)


def _choices(body: JsonObject) -> Iterator[tuple[JsonObject, Path]]:
    """Yield the objects in `tool_choice` that name a tool."""
    for choice, path in _inner(body, "tool_choice", ()):
        for allowed, where in _inner(choice, "allowed_tools", path):
            for tool, at in _items(allowed.get("tools"), (*where, "tools")):
                yield from _inner(tool, "function", at)
        yield from _items(choice.get("tools"), (*path, "tools"))
        if "function" in choice:
            yield from _inner(choice, "function", path)
        else:
            yield choice, path


def _called(body: JsonObject) -> Iterator[tuple[JsonObject, Path]]:
    """Yield the objects that name the tool of a call or of a result."""
    for message, path in _messages(body):
        if message.get("tool_calls"):
            for call, where in _items(message["tool_calls"], (*path, "tool_calls")):
                yield from _inner(call, "function", where)
    for block, path in _blocks(body):
        if block.get("type") == "tool_use":
            yield block, path
    yield from _called_items(body)
    for content, path in _items(body.get("contents"), ("contents",)):
        for part, where in _items(content.get("parts"), (*path, "parts")):
            for kind in ("functionCall", "functionResponse", "function_call", "function_response"):
                yield from _inner(part, kind, where)


def _called_items(body: JsonObject) -> Iterator[tuple[JsonObject, Path]]:
    """Yield the calls in the input of a Responses API body, without those of tools in namespaces."""
    for item, path in _items(body.get("input"), ("input",)):
        if "call_id" in item and not item.get("namespace"):
            yield item, path


def allowed_names(body: JsonObject, edit: Edit) -> Iterator[tuple[Part, str]]:
    """Yield the objects with Gemini's list of allowed functions, and the name of the field."""
    for outer in ("toolConfig", "tool_config"):
        for config, path in _inner(body, outer, ()):
            for inner in ("functionCallingConfig", "function_calling_config"):
                for calling, where in _inner(config, inner, path):
                    for key in ("allowedFunctionNames", "allowed_function_names"):
                        if isinstance(calling.get(key), list):
                            yield Part(calling, body, where, edit), key


def image_sources(body: JsonObject, edit: Edit) -> Iterator[Part]:
    """Yield the sources of images in a Messages API body, also of those in results of tools."""
    for block, path in _blocks(body):
        for image, at in ((block, path), *_items(block.get("content"), (*path, "content"))):
            if image.get("type") == "image":
                for source, where in _inner(image, "source", at):
                    yield Part(source, body, where, edit)
