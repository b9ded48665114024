"""Decode providers' JSON replies, replacing invalid values in fields that do not affect the answer.

A billed answer must not be lost because a token count is `3.0`, an id is a number or a character is half a surrogate
pair. Structs therefore annotate such fields as `Lenient`, `LenientCount` or `LenientIndex`. A body is first decoded
strictly, with msgspec. Only if that fails, it is parsed once more with the standard library, which accepts more
(NaN, lone surrogates, huge integers), and each invalid value of an annotated field is replaced by the annotation's
default. Fields without annotation are the answer itself: if one is invalid, decoding fails.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from llm_gateway.protocols.contract import PARSE_ERRORS, Malformed

T = TypeVar("T")
Repair: TypeAlias = Callable[[Any], Any]
"""A function that returns a parsed JSON value with invalid parts replaced."""

DEFAULT = "default"
"""Key of the default in the `extra` of an annotation's `msgspec.Meta`."""
INVALID_COUNT = -1
"""Stands for an invalid token count, to distinguish it from an absent one (None); see `reported_values.py`."""
MAX_INDEX = 10_000
"""The largest plausible index of a choice, or of a part, in a reply."""
MAX_DIGITS = 400
"""Integers of this many digits are read as floats: Python's `int` refuses to parse more than 4,300 digits."""


def invalid_becomes(default: Any) -> msgspec.Meta:
    """Annotate a field that does not affect the answer: an invalid value is decoded as the JSON value `default`."""
    return msgspec.Meta(extra={DEFAULT: default})


Lenient: TypeAlias = Annotated[T | None, invalid_becomes(None)]
"""A field that does not affect the answer: None if its value is invalid."""
LenientCount: TypeAlias = Annotated[int | None, invalid_becomes(INVALID_COUNT)]
"""A token count: whole floats are accepted, any other value that is not an integer becomes `INVALID_COUNT`."""
LenientIndex: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX), invalid_becomes(0)]
"""An index of a choice or part: 0 if its value is invalid."""


_encode = msgspec.json.Encoder().encode
_check_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ReplyDecoder(Generic[T]):
    """A decoder of one type of a provider's replies or events.

    `what` names the type in error messages ("chat completion"). A struct may have a class attribute `reads`: the
    values of its `type` field for which its other fields are decoded. Objects of other types keep only `type`.
    """

    def __init__(self, kind: type[T], what: str) -> None:
        self.strictly = msgspec.json.Decoder(kind).decode
        """Decodes valid bodies and raises PARSE_ERRORS for others. For hot paths, which call `decode` only then."""
        self._what = what
        self._repair = _repair_of(kind, {})

    def decode(self, body: bytes) -> T:
        """Decode a provider's body, with invalid values of annotated fields replaced.

        Raises:
            Malformed: the body is not JSON, or a field of the answer itself is missing or invalid.
        """
        try:
            return self.strictly(body)
        except PARSE_ERRORS as error:
            refusal = str(error)  # not the error: its traceback holds this frame, which would hold it
        try:
            return self.strictly(_encode(self._repair(_loaded(body.decode("utf-8", "replace")))))
        except msgspec.ValidationError as error:
            refusal = str(error)  # more to the point than the first: it concerns the answer itself
        except (*PARSE_ERRORS, ValueError):
            pass
        raise Malformed(f"Invalid {self._what}: {refusal}") from None


def without_surrogates(text: str) -> str:
    """Replace lone surrogates in the strings of a JSON text; text that is not JSON is returned unchanged."""
    if "\\u" not in text:
        return text
    try:
        return _encode(_plain(_loaded(text))).decode()
    except (*PARSE_ERRORS, ValueError):
        return text


def arguments_object(arguments: str) -> dict[str, Any]:
    """Return a tool call's arguments as the JSON object that Anthropic's and Google's protocols require.

    Invalid JSON of the model becomes `{"invalid_json": text}`, so that the tool can report it to the model.
    """
    try:
        given = msgspec.json.decode(without_surrogates(arguments) or "{}")
    except PARSE_ERRORS:
        return {"invalid_json": arguments}
    return given if isinstance(given, dict) else {"value": given}


def arguments_text(arguments: str) -> str:
    """Return a tool call's arguments as the text of a JSON object, for a request: unchanged if they are one.

    OpenAI takes any text. vLLM, SGLang, llama.cpp and xAI refuse all requests with a history that holds another:
    https://github.com/vllm-project/vllm/pull/48922, https://github.com/sgl-project/sglang/pull/28035,
    https://github.com/ggml-org/llama.cpp/issues/25510, https://github.com/spiceai/spiceai/issues/4734 (2026-11-27).
    """
    try:
        _check_object(arguments)
    except PARSE_ERRORS:
        return _encode(arguments_object(arguments)).decode()
    return arguments


def _loaded(text: str) -> Any:
    """Parse JSON, tolerating NaN, lone surrogates, numbers of any size and a byte order mark."""
    return json.loads(text.removeprefix("\ufeff"), parse_int=_whole)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)


def _repair_of(kind: Any, known: dict[Any, Repair]) -> Repair:
    """Build the function that repairs values of a type.

    `known` holds the repairs of structs seen so far, since a struct may contain itself.
    """
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        repair = _repair_of(inner, known)
        defaults = [meta.extra[DEFAULT] for meta in metas if isinstance(meta, msgspec.Meta) and meta.extra]
        return _LenientRepair(kind, repair, defaults[0]) if defaults else repair
    for member in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        if get_origin(member) is list:
            return _ListRepair(_repair_of(get_args(member)[0], known))
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            if member not in known:
                known[member] = made = _ObjectRepair(member)
                made.learn(known)
            return known[member]
    return _plain


class _ListRepair:
    """The repair of a list: repairs each value."""

    def __init__(self, repair: Repair) -> None:
        self._repair = repair

    def __call__(self, value: Any) -> Any:
        return [self._repair(each) for each in value] if isinstance(value, list) else _plain(value)


class _ObjectRepair:
    """The repair of an object: repairs the fields of its struct and drops all others.

    A struct may name in `reads` the types of objects that it reads at all, and in `narrow` those of which it reads only
    some fields.
    """

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._kind = kind
        self._reads: Iterable[str] | None = getattr(kind, "reads", None)
        self._narrow: Mapping[str, Iterable[str]] = getattr(kind, "narrow", {})
        self._fields: dict[str, Repair] = {}

    def learn(self, known: dict[Any, Repair]) -> None:
        for field in msgspec.structs.fields(self._kind):
            self._fields[field.encode_name] = _repair_of(field.type, known)

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return _plain(value)
        if self._reads is not None and isinstance(kind := value.get("type"), str) and kind not in self._reads:
            return {"type": _plain(kind)}
        names = self._narrow.get(kind, self._fields) if isinstance(kind := value.get("type"), str) else self._fields
        return {name: self._fields[name](value[name]) for name in names if name in value}


class _LenientRepair:
    """The repair of an annotated field: replaces an invalid value by the annotation's default."""

    def __init__(self, kind: Any, repair: Repair, default: Any) -> None:
        self._check = msgspec.json.Decoder(kind).decode
        self._repair = repair
        self._default = default
        self._is_text = str in get_args(get_args(kind)[0])

    def __call__(self, value: Any) -> Any:
        repaired = self._repair(value)
        if isinstance(repaired, float):
            if not math.isfinite(repaired):
                return self._default
            repaired = int(repaired) if repaired.is_integer() else repaired
        try:
            self._check(_encode(repaired))
        except PARSE_ERRORS:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return str(value) if self._is_text and is_number else self._default  # a number as id: 7 becomes "7"
        return repaired


def _plain(value: Any) -> Any:
    """Repair a value of any type: pair surrogates, or replace lone ones by U+FFFD. Encoding turns NaN into null."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    return value
