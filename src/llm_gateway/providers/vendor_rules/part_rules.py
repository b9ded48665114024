"""Rules for parts of a request's body that lie in lists: messages, tools, and the ids and names of tool calls.

`body_parts.py` finds the parts in the bodies of the four chat protocols.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec

from llm_gateway.protocols.contract import JsonObject, Unsupported
from llm_gateway.providers.vendor_rules.body_parts import (
    allowed_names,
    called_texts,
    calls,
    calls_hold,
    ids,
    image_sources,
    names,
    owned,
    tools,
)
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
                owned(body, "messages", edit)[index] = {
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
                owned(body, "messages", edit)[index] = {**message, "role": self.to}


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
                owned(body, "messages", edit)[index] = {**message, "reasoning_content": " "}


class CallField(msgspec.Struct, frozen=True):
    """The vendor rejects fields of tool calls that the gateway added to an earlier answer: left out."""

    fields: frozenset[str]

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave the fields out of all tool calls."""
        for call in calls(body, edit) if calls_hold(body, self.fields) else ():
            call.drop(self.fields)


class CallId(msgspec.Struct, frozen=True):
    """The vendor accepts ids of tool calls that match a pattern: others become a hash of `length`, in results, too.

    `pattern` is a regular expression for the whole id.
    """

    pattern: str
    length: int

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Replace the ids that do not match."""
        matches = re.compile(self.pattern).fullmatch
        if all(matches(each) for each in called_texts(body)[0] if isinstance(each, str)):
            return
        for part, key in ids(body, edit):
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
        for source in image_sources(body, edit):
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
        declared = [tool.value.get("name") for tool in tools(body, edit)]
        if "contents" not in body and all(
            fits(each) for each in (*declared, *called_texts(body)[1]) if isinstance(each, str)
        ):
            return
        other = re.compile(rf"[^{self.alphabet}]")
        new_names: dict[str, str] = {}
        for part in names(body, edit):
            given = part.value.get("name")
            if not isinstance(given, str) or fits(given):
                continue
            kept = other.sub("_", given)
            if self.start and not re.match(f"[{self.start}]", kept):
                kept = f"_{kept}"
            new = f"{kept[: self.longest - 9]}_{_hash(given, 8)}"
            edit.restored[new] = given
            new_names[given] = new
            part.put("name", new)
        for part, key in allowed_names(body, edit) if new_names else ():
            part.put(key, [new_names.get(each, each) if isinstance(each, str) else each for each in part.value[key]])


class Properties(msgspec.Struct, frozen=True):
    """The vendor requires `properties` in the schema of an object: added to the parameters of tools without any."""

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Add `properties` to the parameters of all tools that lack them."""
        for part in tools(body, edit):
            schema = part.value.get("parameters")
            if isinstance(schema, dict) and schema.get("type") == "object" and "properties" not in schema:
                part.put("parameters", {**schema, "properties": {}})


class Strict(msgspec.Struct, frozen=True):
    """The vendor enforces only some schemas: where it cannot, `strict` is left out of the tool, and named.

    `is_default`: tools without `strict` are strict, so it is set to false.
    """

    can_enforce: Callable[[Any], bool]
    is_default: bool = False

    def apply(self, body: JsonObject, field: str, name: str, edit: Edit) -> None:
        """Leave `strict` out of the tools whose schema cannot be enforced."""
        for part in tools(body, edit):
            schema = part.value.get("parameters", part.value.get("input_schema"))
            if part.value.get("strict") is True and not self.can_enforce(schema):
                edit.dropped.append(name)
                if self.is_default:
                    part.put("strict", False)
                else:
                    part.drop(("strict",))


def _hash(text: str, length: int) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
