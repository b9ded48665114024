"""Read Google's `contents` array into canonical turns: https://ai.google.dev/api/caching#Content."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    Audio,
    File,
    Image,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from llm_gateway.protocols.accessors import (
    boolean,
    droppable_fields,
    list_field,
    object_field,
    objects,
    required_text,
    result_parts,
    text,
    unknown_value,
)
from llm_gateway.protocols.contract import JsonObject, Unreadable, Unsupported
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.thoughts import thought_of

DATA = ("text", "functionCall", "functionResponse", "inlineData", "fileData")
"""Data fields of a part; each part has exactly one of them."""
PART = frozenset({*DATA, "thought", "thoughtSignature"})
VENDOR_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
"""Data fields of server-side tools, which Google runs itself."""
CONTENT = frozenset({"role", "parts"})
CALL = frozenset({"id", "name", "args"})
RESPONSE = frozenset({"id", "name", "response", "parts"})
BLOB = frozenset({"mimeType", "data", "displayName"})
FILE = frozenset({"mimeType", "fileUri", "displayName"})
ROLES: dict[str, Role] = {"user": "user", "function": "user", "tool": "user", "model": "assistant"}
"""`role` → canonical role. Tool results have the role `user`; older SDKs send `function`, some clients `tool`."""
AUDIO_FORMATS = {"x-wav": "wav", "wave": "wav", "vnd.wave": "wav", "mpeg": "mp3"}
"""Subtype of an audio media type → canonical format, where they differ."""
STORED_AT_GOOGLE = ("gs://", "https://generativelanguage.googleapis.com/", "files/")
STANDARD_ALPHABET = str.maketrans("-_", "+/")


def standard_base64(data: str) -> str:
    """Convert base64 to the standard alphabet: Google's SDKs send the URL-safe one, which other vendors reject."""
    return data.translate(STANDARD_ALPHABET) if "-" in data or "_" in data else data


class ContentsReader:
    """A reader for the contents of one request. `dropped` collects the paths of fields that only Google knows."""

    def __init__(self) -> None:
        self.dropped: dict[str, None] = {}
        self._calls = _Calls()

    def turns(self, contents: list[Any]) -> list[Turn]:
        """Return the turns. Consecutive `model` contents become one turn: SDKs keep one content per stream chunk.

        Raises:
            Unreadable: a content is malformed.
            Unsupported: only Google knows the type of a part.
        """
        turns: list[Turn] = []
        for given, place in objects(contents, "contents"):
            content = camel_names(given)
            role = text(content, "role", place) or "user"
            if role not in ROLES:
                raise unknown_value(f"{place}.role", role, ("user", "model"))
            parts = self.parts(content, place)
            if ROLES[role] == "assistant":
                _add(turns, "assistant", parts)
                continue
            results: list[Part] = [part for part in parts if isinstance(part, ToolResult)]
            others: list[Part] = [part for part in parts if not isinstance(part, ToolResult)]
            if results:
                _add(turns, "tool", results)
            if others:
                turns.append(Turn(role="user", parts=others))
        for turn in turns:
            if turn.role == "assistant":
                turn.parts = _joined(turn.parts)
        return [turn for turn in turns if turn.parts]

    def parts(self, content: JsonObject, place: str) -> list[Part]:
        """Return the parts of a content.

        Raises:
            Unreadable: it has no parts, or one is malformed.
            Unsupported: only Google knows the type of a part.
        """
        self._note_others(content, CONTENT, place.partition("[")[0])
        given = list_field(content, "parts", place)
        if not given:
            raise Unreadable(f"{place}.parts", f"{place}.parts must hold at least one part.")
        return [self._part(camel_names(part), where) for part, where in objects(given, f"{place}.parts")]

    def _part(self, part: JsonObject, place: str) -> Part:
        """Read one part, whose only data field says what it is. `place` is its path, for error messages."""
        kinds = [name for name in (*DATA, *VENDOR_PARTS) if part.get(name) is not None]
        # A signature without data signs an empty text: the last event of a stream can have such a part.
        if not kinds and part.get("thoughtSignature") is not None:
            part, kinds = {**part, "text": ""}, ["text"]
        if len(kinds) != 1:
            raise Unreadable(place, f"{place} must have exactly one of {', '.join(DATA)}.")
        [kind] = kinds
        if kind in VENDOR_PARTS:
            raise Unsupported(f"{place}.{kind}", "only Google can run its server-side tools")
        self._note_others(part, PART, "contents.parts")
        signature = text(part, "thoughtSignature", place)
        if kind == "text":
            content = required_text(part, "text", place)
            if boolean(part, "thought", place):
                return thought_of(content, signature)
            return Text(text=content, signature=signature)
        inner, where = camel_names(object_field(part, kind, place) or {}), f"{place}.{kind}"
        if kind == "functionCall":
            return self._call(inner, signature, where)
        if kind == "functionResponse":
            return self._response(inner, where)
        if kind == "inlineData":
            self._note_others(inner, BLOB, kind)
            return _blob(inner, where)
        self._note_others(inner, FILE, kind)
        return _file(inner, where)

    def _note_others(self, document: JsonObject, known: frozenset[str], where: str) -> None:
        self.dropped |= dict.fromkeys(droppable_fields(document, known, where=where))

    def _call(self, call: JsonObject, signature: str | None, place: str) -> ToolCall:
        self._note_others(call, CALL, "functionCall")
        name = required_text(call, "name", place)
        return ToolCall(
            id=self._calls.begin(text(call, "id", place), name),
            name=name,
            arguments=msgspec.json.encode(object_field(call, "args", place) or {}).decode(),
            signature=signature,
        )

    def _response(self, response: JsonObject, place: str) -> ToolResult:
        self._note_others(response, RESPONSE, "functionResponse")
        name = required_text(response, "name", place)
        call_id = self._calls.answer(text(response, "id", place), name)
        if call_id is None:
            raise Unreadable(place, f"{place} must follow a functionCall of the same name, or have its id.")
        content, is_error = _result(object_field(response, "response", place) or {})
        given = objects(list_field(response, "parts", place), f"{place}.parts")
        media = [self._part(camel_names(part), where) for part, where in given]
        return ToolResult(
            call_id=call_id, content=[Text(text=content), *result_parts(media, place)], name=name, is_error=is_error
        )


class _Calls:
    """The tool calls of a conversation, to match results: by id, else the oldest unanswered call of that name."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._answered: set[str] = set()
        self._open: dict[str, deque[str]] = {}
        self._number = 0  # of the next generated id; it only grows, so that a free id is found in linear time

    def begin(self, given: str | None, name: str) -> str:
        """Register a call and return its id, generated if the client sends none."""
        call_id = given or self._generated()
        self._ids.add(call_id)
        self._open.setdefault(name, deque()).append(call_id)
        return call_id

    def _generated(self) -> str:
        self._number = max(self._number, len(self._ids))
        while (call_id := f"call_{self._number}") in self._ids:
            self._number += 1
        return call_id

    def answer(self, given: str | None, name: str) -> str | None:
        """Return the id of the call that a result belongs to; None if no call of this name waits for a result."""
        waiting = self._open.get(name, deque())
        while not given and waiting:
            call_id = waiting.popleft()
            if call_id not in self._answered:
                given = call_id
        if given:
            self._answered.add(given)
        return given or None


def _add(turns: list[Turn], role: Role, parts: list[Part]) -> None:
    if turns and turns[-1].role == role:
        turns[-1].parts += parts
    else:
        turns.append(Turn(role=role, parts=parts))


class _Joiner:
    """A list of parts in which adjacent texts are merged, and adjacent thoughts, since SDKs keep stream chunks apart.

    A signature ends a text; a signature without text is dropped. A signed thought contains its whole text, so it
    replaces the unsigned chunks before it.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._kind: type[Text | Thinking] = Text
        self._pieces: list[str] = []

    def add(self, part: Part) -> None:
        """Append the next part."""
        if isinstance(part, Thinking) and (part.signature or part.redacted):
            if part.signature and self._kind is Thinking:
                self._pieces = []
            self.close()
            self.parts.append(part)
        elif isinstance(part, Text | Thinking):
            if self._kind is not type(part):
                self.close()
                self._kind = type(part)
            self._pieces.append(part.text)
            if isinstance(part, Text) and part.signature is not None:
                self.close(part.signature)
        else:
            self.close()
            self.parts.append(part)

    def close(self, signature: str | None = None) -> None:
        """End the open text or thought, if there is one."""
        joined = "".join(self._pieces)
        self._pieces = []
        if joined:
            is_text = self._kind is Text
            self.parts.append(Text(text=joined, signature=signature) if is_text else Thinking(text=joined))


def _joined(parts: Iterable[Part]) -> list[Part]:
    joiner = _Joiner()
    for part in parts:
        joiner.add(part)
    joiner.close()
    return joiner.parts


def _result(response: JsonObject) -> tuple[str, bool]:
    """Return the text of a function's response, and whether it is an error.

    The key is `output` or `error` in Google's documentation (https://ai.google.dev/api/caching#FunctionResponse), and
    `result` in its SDKs.
    """
    if len(response) == 1:
        [(name, value)] = response.items()
        if name in ("output", "result", "error") and isinstance(value, str):
            return value, name == "error"
        if name == "error":
            return msgspec.json.encode(value).decode(), True
    return msgspec.json.encode(response).decode(), False


def _blob(blob: JsonObject, place: str) -> Image | File | Audio:
    media_type = required_text(blob, "mimeType", place)
    data = standard_base64(required_text(blob, "data", place))
    kind, _, name = media_type.partition(";")[0].strip().lower().partition("/")
    if kind == "image":
        return Image(media_type=media_type, data=data)
    if kind == "audio":
        return Audio(data=data, format=AUDIO_FORMATS.get(name, name))
    return File(name=text(blob, "displayName", place), media_type=media_type, data=data)


def _file(given: JsonObject, place: str) -> Image | File:
    uri, media_type = required_text(given, "fileUri", place), text(given, "mimeType", place)
    if uri.startswith(STORED_AT_GOOGLE):
        raise Unsupported(f"{place}.fileUri", "only Google can read a file stored at Google")
    if media_type is not None and media_type.lower().startswith("image/"):
        return Image(media_type=media_type, url=uri)
    return File(name=text(given, "displayName", place), media_type=media_type, url=uri)
