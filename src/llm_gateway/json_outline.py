r"""Cut the long strings out of a large JSON document, so that what is left can be decoded at once. No I/O.

Decoding 32 MiB stops the event loop for some 30 ms, and a thread does not help, since a decoder keeps the interpreter's
lock. Nearly all bytes of a large document are in a few strings (pictures, files), which the gateway passes on and never
reads. `scan` finds them slice by slice and leaves their beginnings and a mark in the outline:

    {"messages": [{"content": "data:image/png;base64,iVBORw0KG…1 MiB"}]}                      the document
    {"messages": [{"content": "data:image/png;base64,iVBORw0KG…2 KiB~\"3f…_9a…"}]}            its outline

The outline is read, changed and translated like any document. `HeldTexts.pieces` puts the rest of each string back into
what is written from it. The mark tells what became of its string on the way:

    ~\"          it stands in a JSON string, as before
    ~\\\"        it stands in JSON that stands in a string (a tool call's arguments): the rest is escaped once more
    "/" for "_"  base64 was converted from the URL-safe alphabet to the standard one, and so is the rest

A string stays whole if the gateway reads it to its end: a key, JSON, text in base64, and signed or encrypted reasoning.
"""

from __future__ import annotations

import asyncio
import binascii
import codecs
import re
import secrets
from collections.abc import Generator, Iterator
from hashlib import blake2b
from typing import TypeAlias

import msgspec

SMALL_BYTES = 256 * 1024
"""Bytes up to which a document is decoded at once, without an outline."""
LONG_BYTES = 16 * 1024
"""Bytes from which a string is cut: what is looked at in one slice outside of long strings (1 ms at most)."""
STRING_SLICE_BYTES = 64 * 1024
"""Bytes of a long string that are looked at in one slice."""
HEAD_BYTES = 2560
"""Bytes of a long string that stay. Decoded, at least 2,000 characters: estimates and session affinity read these."""
PIECE_BYTES = 256 * 1024
"""Bytes of the largest piece that `pieces` returns."""

Buffer: TypeAlias = bytes | bytearray
Piece: TypeAlias = "bytes | memoryview | StandardBase64"
"""A part of a document; `bytes()` of it is what is sent."""
_BLOCK = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""All that is complete: text outside of strings, and whole strings."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = rb'\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|' + _PAIR
_INSIDE = re.compile(rb'(?:[^"\\\x00-\x1f]++|' + _ESCAPE + rb")*+")
"""What may stand in a string (RFC 8259, section 7): escapes are whole, surrogates come in pairs."""
_CHARACTERS = re.compile(
    rb'(?:[^"\\\x00-\x1f\x80-\xff]++|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|'
    + _ESCAPE
    + rb")*+"
)
"""As `_INSIDE`, without half a character at the end."""
_KEY = re.compile(rb"[ \t\r\n]*:")
_NOT_CUT_IN = re.compile(
    rb'"(?:arguments|signature|thoughtSignature|thought_signature|encrypted_content|file_id)"[ \t\r\n]*:[ \t\r\n]*\Z'
)
"""Fields whose texts the gateway reads to their end."""
_NOT_CUT = re.compile(rb"(?:[ \t]|\\[nrt])*(?:[{\[]|gw1\.|gwr1\.|gAAAA|data:text/)")
"""How texts begin that the gateway reads to their end: JSON, encrypted reasoning, text files."""
_BASE64 = re.compile(rb"(?:data:[^,]{0,200},)?([A-Za-z0-9+/_-]{1024,}+)")
_NUMBERS = re.compile(rb",[-+0-9.eE, \t\r\n]{64,}(?=,)")
"""Many numbers in a list, from a comma up to another."""
TOKEN = secrets.token_hex(8).encode()
"""Part of each mark: no client and no provider knows it."""
KEY = secrets.token_bytes(16)
"""Key of the digests in marks, so that nobody can compute the mark of a text of their own."""
_MARK = re.compile(rb'~(\\+)"' + TOKEN + rb"([_/])([0-9a-f]{32})")
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


class TooManyValues(Exception):
    """A document has more values than allowed."""


class _Rest(msgspec.Struct, frozen=True, gc=False):
    """The rest of a long string: its place in the source, and the length to add to an estimate of tokens."""

    source: Buffer
    start: int
    end: int
    length: int


class HeldTexts:
    """The rests of the long strings of one document or more, by their marks."""

    __slots__ = ("_rests",)

    def __init__(self) -> None:
        self._rests: dict[bytes, _Rest] = {}

    def __bool__(self) -> bool:
        """Return whether any string was cut."""
        return bool(self._rests)

    def hold(self, digest: bytes, rest: _Rest) -> None:
        """Keep the rest of a string under the digest of the whole."""
        self._rests[digest] = rest

    @property
    def length(self) -> int:
        """The length of all rests, in equivalent ASCII characters."""
        return sum(rest.length for rest in self._rests.values())

    def joined(self, other: HeldTexts | None) -> HeldTexts:
        """Return the rests of two documents together."""
        both = HeldTexts()
        both._rests = self._rests if other is None else self._rests | other._rests
        return both

    def length_in(self, text: bytes) -> int:
        """Return the length, in equivalent ASCII characters, of the rests whose marks are in `text`."""
        found = [self._rests.get(digest) for _, _, digest in _MARK.findall(text)]
        return sum(rest.length for rest in found if rest is not None)

    def bytes_in(self, text: bytes) -> int:
        """Return the bytes of the rests whose marks are in `text`."""
        found = [self._rests.get(digest) for _, _, digest in _MARK.findall(text)]
        return sum(rest.end - rest.start for rest in found if rest is not None)

    def pieces(self, text: bytes) -> list[Piece]:
        """Return a JSON text that was written from an outline, with the rest of each string, in pieces.

        Pieces that nothing changed are views of the source. The text in front of and between marks is a piece each.
        """
        pieces: list[Piece] = []
        last = 0
        for found in _MARK.finditer(text):
            rest = self._rests.get(found[3])
            if rest is None:
                continue
            pieces.append(text[last : found.start()])
            pieces += _written(rest, levels=len(found[1]).bit_length(), is_standard=found[2] == b"/")
            last = found.end()
        pieces.append(text[last:])
        return [piece for piece in pieces if len(piece)]

    def restored(self, text: bytes) -> bytes:
        """Return `pieces` as one text."""
        return b"".join(map(bytes, self.pieces(text))) if TOKEN in text else text


class StandardBase64(msgspec.Struct, frozen=True, gc=False):
    """A piece of base64 in the URL-safe alphabet, which is converted to the standard one when it is sent."""

    text: memoryview

    def __len__(self) -> int:
        """Return the number of bytes."""
        return len(self.text)

    def __bytes__(self) -> bytes:
        """Return the piece in the standard alphabet."""
        return bytes(self.text).translate(_STANDARD_ALPHABET)


def _written(rest: _Rest, *, levels: int, is_standard: bool) -> Iterator[Piece]:
    """Yield the rest of a string as it stands in a text: `levels` strings deep, in the standard alphabet of base64."""
    view = memoryview(rest.source)
    for start in range(rest.start, rest.end, PIECE_BYTES):
        text = view[start : min(start + PIECE_BYTES, rest.end)]
        piece: Piece = StandardBase64(text) if is_standard else text
        for _ in range(levels - 1):
            piece = bytes(piece).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        yield piece


class Outline(msgspec.Struct, frozen=True, gc=False):
    """A document without the rests of its long strings, and its number of values.

    `text` is empty if it would be larger than `most_bytes` of `scan`. `is_valid` is False if a long string is not
    valid: then the document is no JSON.
    """

    text: Buffer
    held: HeldTexts
    values: int
    is_valid: bool = True


async def outline_of(source: Buffer, *, most_bytes: int, most_values: int = 0, is_thinned: bool = False) -> Outline:
    """Return the outline of a document. Other tasks run between two slices; see `scan`.

    Raises:
        TooManyValues: there are more than `most_values`.
    """
    slices = scan(source, most_bytes=most_bytes, most_values=most_values, is_thinned=is_thinned)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            outline: Outline = done.value
            return outline
        await asyncio.sleep(0)


def scan(
    source: Buffer, *, most_bytes: int, most_values: int = 0, is_thinned: bool = False
) -> Generator[None, None, Outline]:
    """Make the outline of a document in slices of 2 ms or less: the generator yields between two of them.

    All values but the outermost follow a comma or an opening bracket, so these are counted outside of strings.
    `is_thinned`: long lists of numbers are shortened as well, for a document of which only the outline is read.

    Raises:
        TooManyValues: there are more than `most_values` (0: any number is allowed).
    """
    held, kept = HeldTexts(), _Kept(source, most_bytes)
    at = values = 0
    while at < len(source):
        end = _BLOCK.match(source, at, at + LONG_BYTES).end()  # type: ignore[union-attr]  # matches nothing, too
        if end > at:
            part = source[at:end]
            values += _values_in(part)
            if most_values and values > most_values:
                raise TooManyValues
            if is_thinned:
                kept.replace(at, end, _thinned(part))
            at = end
            yield
            continue
        string = _LongString(source, at)
        yield from string.find_end()
        if not string.is_valid:
            return Outline(b"", held, values, is_valid=False)
        if string.is_to_cut():
            kept.replace(string.cut, string.end, b'~\\"%b_%b' % (TOKEN, string.digest))
            held.hold(string.digest, string.rest())
        at = string.end + 1
    return Outline(kept.text(), held, values)


class _Kept:
    """The text of an outline while it is made; no text is copied once it is larger than `most_bytes`."""

    def __init__(self, source: Buffer, most_bytes: int) -> None:
        self._source = source
        self._most_bytes = most_bytes
        self._copied = 0
        self._text = bytearray()

    def replace(self, start: int, end: int, by: bytes) -> None:
        """Put `by` in the place of a range of the source. Ranges come in the order of the source."""
        if len(self._text) + start - self._copied <= self._most_bytes:
            self._text += self._source[self._copied : start]
            self._text += by
            self._copied = end
        else:
            self._most_bytes = -1

    def text(self) -> Buffer:
        """Return the whole text; none if it is too large."""
        if self._copied == 0:
            return self._source if len(self._source) <= self._most_bytes else b""
        if len(self._text) + len(self._source) - self._copied > self._most_bytes:
            return b""
        return self._text + self._source[self._copied :]


def _values_in(part: Buffer) -> int:
    """Return the number of commas and opening brackets outside of strings."""
    inner = b"".join(_STRING.findall(part)) if b'"' in part else b""
    return sum([part.count(mark) - inner.count(mark) for mark in b",[{"])


def _thinned(part: Buffer) -> bytes:
    """Return a part without most of the numbers in its long lists. Between its strings, it is not changed."""
    first, last = part.find(b'"'), part.rfind(b'"') + 1
    if first < 0:
        return bytes(_NUMBERS.sub(b"", part))
    return _NUMBERS.sub(b"", part[:first]) + part[first:last] + _NUMBERS.sub(b"", part[last:])


class _LongString:
    """A string that begins at `start`, with its quote. Run `find_end` first; then `is_valid` and `end` are known."""

    def __init__(self, source: Buffer, start: int) -> None:
        self._source = source
        self._start = start
        self._length = 0
        self._is_ascii = True
        self._hash = blake2b(digest_size=16, key=KEY)
        self.is_valid = False
        self.end = start
        """Index of the closing quote."""
        self.cut = start
        """Index of the first byte that is cut."""

    @property
    def digest(self) -> bytes:
        """The digest of the whole string, which stands in its mark: so the mark tells the string from others."""
        return self._hash.hexdigest().encode()

    def find_end(self) -> Iterator[None]:
        """Find the closing quote, and yield between two slices. The string is invalid if it has none."""
        source, at = self._source, self._start + 1
        decoder = codecs.getincrementaldecoder("utf-8")()
        while True:
            end = _INSIDE.match(source, at, at + STRING_SLICE_BYTES).end()  # type: ignore[union-attr]
            part = bytes(source[at:end])
            try:
                self._count(part, decoder)
            except UnicodeDecodeError:
                return
            if source[end : end + 1] == b'"':
                self.is_valid, self.end = not decoder.getstate()[0], end
                return
            if end == at:
                return
            at = end
            yield

    def _count(self, part: bytes, decoder: codecs.IncrementalDecoder) -> None:
        self._hash.update(part)
        if not part.isascii():
            self._is_ascii = False
        if not part.isascii() or decoder.getstate()[0]:
            decoder.decode(part)
        self._length += len(part)
        if b"\\" in part:  # nearly exact: `\\` is one character, `\n`, too, and \u00e9 takes two bytes or three
            unicode = part.count(b"\\u")
            self._is_ascii = self._is_ascii and not unicode
            self._length -= part.count(b"\\") - part.count(b"\\\\") + 2 * unicode

    def is_to_cut(self) -> bool:
        """Return whether the gateway does not read the rest of the string; finds the place of the cut."""
        source, start = self._source, self._start + 1
        head = bytes(source[start : start + HEAD_BYTES])
        if _NOT_CUT.match(head) or _is_text_in_base64(head):
            return False
        if _NOT_CUT_IN.search(bytes(source[max(0, start - 65) : start - 1])):
            return False
        if _KEY.match(source, self.end + 1, self.end + 1 + SMALL_BYTES):
            return False
        self.cut = start + _CHARACTERS.match(head).end()  # type: ignore[union-attr]
        return True

    def rest(self) -> _Rest:
        """Return what is cut. Base64 counts as a file of one length, which its beginning tells already."""
        head = bytes(self._source[self._start + 1 : self.cut])
        length = self._length if self._is_ascii else self._length * 4 // 3
        if b" " not in head and b"\\n" not in head:
            length = len(head)
        return _Rest(self._source, self.cut, self.end, max(0, length - len(head)))


def _is_text_in_base64(head: bytes) -> bool:
    """Return whether a string is a text file in base64: some protocols are sent its text."""
    found = _BASE64.match(head)
    if found is None:
        return False
    try:
        data = binascii.a2b_base64(found[1][:1024].translate(_STANDARD_ALPHABET))
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except ValueError:
        return False
    return "\0" not in text
