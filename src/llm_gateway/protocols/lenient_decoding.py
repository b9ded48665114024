"""Decode what providers send: strictly first, then without the odd values on which the answer does not depend.

A bought answer must not be lost because a count is `3.0`, an id a number or a character half a surrogate pair. So a
struct marks the fields beside the answer (`Lenient`, `LenientCount`, `LenientIndex`), and only a body that the strict
decoder refuses is read once more: with the standard library, which takes more, and with each odd value of a marked
field replaced by what the mark says. A field without a mark is the answer itself: where it is odd, the body stays
unreadable.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from llm_gateway.protocols.contract import PARSE_ERRORS, Malformed

T = TypeVar("T")
Mender: TypeAlias = Callable[[Any], Any]

INVALID_COUNT = -1
"""What an odd count is read as, so that it can be told from one that was left out (`counts.py`)."""
MAX_INDEX = 10_000
"""The largest index of a choice or of a part of a reply that is believed."""
MAX_DIGITS = 400
"""Of an integer; Python refuses to read very long ones."""


def invalid_becomes(odd: Any) -> msgspec.Meta:
    """Annotate a field on which the answer does not depend: an invalid value is decoded as the JSON value `odd`."""
    return msgspec.Meta(extra={"odd": odd})


Lenient: TypeAlias = Annotated[T | None, invalid_becomes(None)]
"""A field on which the answer does not depend: None where its value is invalid."""
LenientCount: TypeAlias = Annotated[int | None, invalid_becomes(INVALID_COUNT)]
"""A count of tokens: whole floats count, all else that is no integer is `INVALID_COUNT`."""
LenientIndex: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX), invalid_becomes(0)]
"""An index: 0 where its value is invalid."""


_encode = msgspec.json.Encoder().encode


class ReplyDecoder(Generic[T]):
    """Decodes a provider's replies or events of one type.

    `what` is the type in words, for messages ("chat completion"). A struct with a class attribute `reads` (types by
    the `type` field) is read no further where its type is another one.
    """

    def __init__(self, kind: type[T], what: str) -> None:
        self.strictly = msgspec.json.Decoder(kind).decode
        """Decodes what is as it should be, and raises PARSE_ERRORS for the rest: for hot paths."""
        self._what = what
        self._mend = _mender(kind, {})

    def decode(self, body: bytes) -> T:
        """The document in a provider's body.

        Raises:
            Malformed: the body is no such document.
        """
        try:
            return self.strictly(body)
        except PARSE_ERRORS as error:
            refusal = str(error)  # not the error: its traceback holds this frame, which would hold it
        try:
            return self.strictly(_encode(self._mend(_loaded(body.decode("utf-8", "replace")))))
        except msgspec.ValidationError as error:
            refusal = str(error)  # it says what is wrong with the answer itself
        except (*PARSE_ERRORS, ValueError):
            pass
        raise Malformed(f"The answer is no {self._what}: {refusal}") from None


def without_surrogates(text: str) -> str:
    """JSON text with single surrogates in its strings replaced; as it is where it is no JSON."""
    if "\\u" not in text:
        return text
    try:
        return _encode(_plain(_loaded(text))).decode()
    except (*PARSE_ERRORS, ValueError):
        return text


def arguments_object(arguments: str) -> dict[str, Any]:
    """Return a tool call's arguments as the object that Anthropic's and Google's protocols need.

    Text that the model wrote wrong is handed on in the object, for the tool to complain of.
    """
    try:
        given = msgspec.json.decode(without_surrogates(arguments) or "{}")
    except PARSE_ERRORS:
        return {"invalid_json": arguments}
    return given if isinstance(given, dict) else {"value": given}


def _loaded(text: str) -> Any:
    """The document, with what JSON has not: NaN, single surrogates, numbers of any size, a byte order mark."""
    return json.loads(text.removeprefix("\ufeff"), parse_int=_whole)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)


def _mender(kind: Any, known: dict[Any, Mender]) -> Mender:
    """What mends the values of a type. `known`: those of its structs so far, since they may hold themselves."""
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        mend = _mender(inner, known)
        marks = [meta.extra["odd"] for meta in metas if isinstance(meta, msgspec.Meta) and meta.extra]
        return _Marked(kind, mend, marks[0]) if marks else mend
    for one in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        if get_origin(one) is list:
            return _Listed(_mender(get_args(one)[0], known))
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            if one not in known:
                known[one] = made = _Object(one)
                made.learn(known)
            return known[one]
    return _plain


class _Listed:
    """Mends the values of a list."""

    def __init__(self, mend: Mender) -> None:
        self._mend = mend

    def __call__(self, value: Any) -> Any:
        return [self._mend(each) for each in value] if isinstance(value, list) else _plain(value)


class _Object:
    """Mends the fields of an object that its struct has, and leaves the others out."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._kind = kind
        self._reads: Iterable[str] | None = getattr(kind, "reads", None)
        self._fields: dict[str, Mender] = {}

    def learn(self, known: dict[Any, Mender]) -> None:
        for field in msgspec.structs.fields(self._kind):
            self._fields[field.encode_name] = _mender(field.type, known)

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return _plain(value)
        if self._reads is not None and isinstance(kind := value.get("type"), str) and kind not in self._reads:
            return {"type": _plain(kind)}
        return {name: mend(value[name]) for name, mend in self._fields.items() if name in value}


class _Marked:
    """Mends the value of a field beside the answer."""

    def __init__(self, kind: Any, mend: Mender, odd: Any) -> None:
        self._check = msgspec.json.Decoder(kind).decode
        self._mend = mend
        self._odd = odd
        self._is_text = str in get_args(get_args(kind)[0])

    def __call__(self, value: Any) -> Any:
        mended = self._mend(value)
        if isinstance(mended, float):
            if not math.isfinite(mended):
                return self._odd
            mended = int(mended) if mended.is_integer() else mended
        try:
            self._check(_encode(mended))
        except PARSE_ERRORS:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return str(value) if self._is_text and is_number else self._odd
        return mended


def _plain(value: Any) -> Any:
    """A value as JSON can have it: surrogates paired or replaced (U+FFFD). Numbers that are not finite become null."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    return value
