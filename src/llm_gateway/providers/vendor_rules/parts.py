"""Rules for parts of a request's body that lie in lists: messages, tools, and the ids and names of tool calls.

They find the parts in the bodies of the three chat protocols (`Walker`), and copy an object before they change it,
since the client's own document shares it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from llm_gateway.protocols.contract import JsonObject, Unsupported
from llm_gateway.providers.vendor_rules.rule import Edit


class MessageField(msgspec.Struct, frozen=True):
    """The vendor rejects fields of messages, such as those that the gateway added to an earlier answer: left out."""

    fields: frozenset[str]

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave the fields out of all messages."""
        messages, found = body["messages"], False
        if not isinstance(messages, list):
            return
        for index, message in enumerate(messages):
            if isinstance(message, dict) and not self.fields.isdisjoint(message):
                found = True
                _owned(body, "messages", edit)[index] = {
                    key: value for key, value in message.items() if key not in self.fields
                }
        if found:
            edit.dropped.append(name)


class Role(msgspec.Struct, frozen=True):
    """The vendor knows a role by another name."""

    given: str
    to: str

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Rename the role in all messages."""
        messages = body["messages"]
        if not isinstance(messages, list):
            return
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("role") == self.given:
                _owned(body, "messages", edit)[index] = {**message, "role": self.to}


class ReasoningOfCalls(msgspec.Struct, frozen=True):
    """The vendor requires `reasoning_content`, not empty, in answers with tool calls: a blank where it is missing."""

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Add a blank to the answers that another model wrote."""
        messages = body["messages"]
        thinking = body.get("thinking")
        if not isinstance(messages, list) or (isinstance(thinking, dict) and thinking.get("type") == "disabled"):
            return
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("tool_calls") and not message.get("reasoning_content"):
                _owned(body, "messages", edit)[index] = {**message, "reasoning_content": " "}


class CallField(msgspec.Struct, frozen=True):
    """The vendor rejects fields of tool calls that the gateway added to an earlier answer: left out."""

    fields: tuple[str, ...]

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave the fields out of all tool calls."""
        for call in _calls(body, edit) if _has_calls(body) else ():
            if any(each in call.value for each in self.fields):
                call.drop(self.fields)


class CallId(msgspec.Struct, frozen=True):
    """The vendor accepts ids of tool calls that match a pattern: others become a hash of `length`, in results, too.

    `pattern` is a regular expression for the whole id.
    """

    pattern: str
    length: int

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Replace the ids that do not match."""
        if not _has_calls(body):
            return
        matches = re.compile(self.pattern).fullmatch
        for part, key in _ids(body, edit):
            given = part.value.get(key)
            if isinstance(given, str) and not matches(given):
                hashed = _hash(given, self.length)
                part.put(key, hashed)


class ImageTypes(msgspec.Struct, frozen=True):
    """The vendor accepts only some media types of images; `image/jpg`, which is no type, means `image/jpeg`."""

    known: tuple[str, ...]

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Mend the media types of a Messages API body.

        Raises:
            Unsupported: an image has another type.
        """
        for source in _image_sources(body, edit):
            given = source.value.get("media_type")
            if not isinstance(given, str) or given in self.known:
                continue
            plain = given.partition(";")[0].strip().lower().replace("image/jpg", "image/jpeg")
            if plain not in self.known:
                raise Unsupported(name, f"its images must be of type {', '.join(self.known)}")
            source.put("media_type", plain)


class ToolName(msgspec.Struct, frozen=True):
    """The vendor accepts names of tools from an alphabet, up to a length: others become a name with a hash.

    `alphabet` is a character class of regular expressions. The names are restored in the answer.
    """

    alphabet: str
    longest: int
    start: str = ""

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Replace the names that do not fit, wherever the body has them."""
        first = f"(?=[{self.start}])" if self.start else ""
        fits = re.compile(rf"{first}[{self.alphabet}]{{1,{self.longest}}}").fullmatch
        other = re.compile(rf"[^{self.alphabet}]")
        new_names: dict[str, str] = {}
        for part, key in _names(body, edit):
            given = part.value.get(key)
            if not isinstance(given, str) or fits(given):
                continue
            kept = other.sub("_", given)
            if self.start and not re.match(f"[{self.start}]", kept):
                kept = f"_{kept}"
            new = f"{kept[: self.longest - 9]}_{_hash(given, 8)}"
            edit.restored[new] = given
            new_names[given] = new
            part.put(key, new)
        if new_names:
            _rename_allowed(body, new_names, edit)


class Properties(msgspec.Struct, frozen=True):
    """The vendor requires `properties` in the schema of an object: added to the parameters of tools without any."""

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Add `properties` to the parameters of all tools that lack them."""
        for part in _tools(body, edit):
            schema = part.value.get("parameters")
            if isinstance(schema, dict) and schema.get("type") == "object" and "properties" not in schema:
                part.put("parameters", {**schema, "properties": {}})


class Strict(msgspec.Struct, frozen=True):
    """The vendor enforces only some schemas: where it cannot, `strict` is left out of the tool, and named."""

    can_enforce: Callable[[Any], bool]

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave `strict` out of the tools whose schema cannot be enforced."""
        for part in _tools(body, edit):
            schema = part.value.get("parameters", part.value.get("input_schema"))
            if part.value.get("strict") is True and not self.can_enforce(schema):
                edit.dropped.append(name)
                part.drop(("strict",))


class Part:
    """An object inside a body. `value` is what the client sent; `put` and `drop` change the body's own copy."""

    __slots__ = ("_body", "_edit", "_path", "value")

    def __init__(self, value: JsonObject, body: JsonObject, path: tuple[Any, ...], edit: Edit) -> None:
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
            container = _owned(container, step, self._edit)
        own: JsonObject = container
        return own


def _owned(container: Any, step: Any, edit: Edit) -> Any:
    """Return `container[step]`, copied unless this edit made the copy: the client's document shares the original."""
    value = container[step]
    if id(value) not in edit.owned:
        value = container[step] = value.copy()
        edit.owned.add(id(value))
    return value


def _at(body: JsonObject, path: tuple[Any, ...], edit: Edit) -> Part | None:
    """Return the object at `path`; None if there is none."""
    value: Any = body
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return Part(value, body, path, edit) if isinstance(value, dict) else None


def _indices(value: Any) -> range:
    return range(len(value)) if isinstance(value, list) else range(0)


def _paths_of_tools(body: JsonObject) -> Iterator[tuple[Any, ...]]:
    for index in _indices(tools := body.get("tools")):
        tool = tools[index]  # type: ignore[index]
        if not isinstance(tool, dict):
            continue
        declarations = next((key for key in ("functionDeclarations", "function_declarations") if key in tool), None)
        if declarations is not None:
            for number in _indices(tool[declarations]):
                yield "tools", index, declarations, number
        elif "function" in tool:
            yield "tools", index, "function"
        else:
            yield "tools", index


def _tools(body: JsonObject, edit: Edit) -> Iterator[Part]:
    for path in _paths_of_tools(body):
        part = _at(body, path, edit)
        if part is not None:
            yield part


def _paths_of_parts(body: JsonObject, name: str, inner: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the items of the first list in `inner` of each message in `body[name]`."""
    for index in _indices(messages := body.get(name)):
        message = messages[index]  # type: ignore[index]
        for key in inner:
            if isinstance(message, dict) and isinstance(message.get(key), list):
                for number in range(len(message[key])):
                    yield name, index, key, number


def _has_calls(body: JsonObject) -> bool:
    """Return whether a message may hold a tool call or a result: a quick check, since most requests have none."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return False
    for message in messages:
        if isinstance(message, dict) and (
            "tool_calls" in message or "tool_call_id" in message or isinstance(message.get("content"), list)
        ):
            return True
    return False


def _calls(body: JsonObject, edit: Edit) -> Iterator[Part]:
    """Yield the tool calls of a chat completions body."""
    for path in _paths_of_parts(body, "messages", ("tool_calls",)):
        part = _at(body, path, edit)
        if part is not None:
            yield part


def _ids(body: JsonObject, edit: Edit) -> Iterator[tuple[Part, str]]:
    """Yield the objects with ids of tool calls, and the name of the field: chat completions and Messages API."""
    for part in _calls(body, edit):
        yield part, "id"
    for index in _indices(body.get("messages")):
        message = _at(body, ("messages", index), edit)
        if message is not None and message.value.get("role") == "tool":
            yield message, "tool_call_id"
    for path in _paths_of_parts(body, "messages", ("content",)):
        block = _at(body, path, edit)
        if block is not None and block.value.get("type") in ("tool_use", "tool_result"):
            yield block, "id" if block.value["type"] == "tool_use" else "tool_use_id"


def _paths_of_choice(body: JsonObject) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the objects in `tool_choice` that name a tool."""
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return
    allowed = choice.get("allowed_tools")
    if isinstance(allowed, dict):
        for index in _indices(allowed.get("tools")):
            yield "tool_choice", "allowed_tools", "tools", index, "function"
    yield ("tool_choice", "function") if "function" in choice else ("tool_choice",)


def _image_sources(body: JsonObject, edit: Edit) -> Iterator[Part]:
    """Yield the sources of images in a Messages API body, also of those in results of tools."""
    for path in _paths_of_parts(body, "messages", ("content",)):
        block = _at(body, path, edit)
        if block is None:
            continue
        inner = [(*path, "content", index) for index in _indices(block.value.get("content"))]
        for each in (path, *inner):
            image = _at(body, each, edit)
            source = _at(body, (*each, "source"), edit)
            if image is not None and source is not None and image.value.get("type") == "image":
                yield source


def _names(body: JsonObject, edit: Edit) -> Iterator[tuple[Part, str]]:
    """Yield the objects with names of tools, and the name of the field: of all three chat protocols."""
    for path in (*_paths_of_tools(body), *_paths_of_choice(body), *_paths_of_called(body)):
        part = _at(body, path, edit)
        if part is not None:
            yield part, "name"


def _paths_of_called(body: JsonObject) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the objects that name the tool of a call or of a result."""
    for path in _paths_of_parts(body, "messages", ("tool_calls",)):
        yield *path, "function"
    for name, index, key, number in _paths_of_parts(body, "messages", ("content",)):
        block = body[name][index][key][number]
        if isinstance(block, dict) and block.get("type") == "tool_use":
            yield name, index, key, number
    for path in _paths_of_parts(body, "contents", ("parts",)):
        for kind in ("functionCall", "functionResponse", "function_call", "function_response"):
            yield *path, kind


def _rename_allowed(body: JsonObject, new_names: dict[str, str], edit: Edit) -> None:
    """Rename the tools in Gemini's list of allowed functions."""
    for outer in ("toolConfig", "tool_config"):
        for inner in ("functionCallingConfig", "function_calling_config"):
            part = _at(body, (outer, inner), edit)
            for key in ("allowedFunctionNames", "allowed_function_names"):
                if part is not None and isinstance(names := part.value.get(key), list):
                    renamed = [new_names.get(name, name) if isinstance(name, str) else name for name in names]
                    part.put(key, renamed)


def _hash(text: str, length: int) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
