"""Decode the JSON document of a request: at once if it is small, by its outline or in another process if it is large.

up to 256 KiB                                   decoded at once
larger, its outline up to 2 MiB, 20,000 values  the outline is decoded: `json_outline.py` says what it lacks
else                                            decoded in a forked process; its small fields are returned
more than 200,000 values                        rejected before anything is decoded
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from llm_gateway.domain.token_estimate import InputSize, equivalent_length_of
from llm_gateway.error_format.json_problem import not_an_object, not_json
from llm_gateway.errors import Invalid
from llm_gateway.forked import ForkFailed, Forks
from llm_gateway.gate.value_limit import checked_outline
from llm_gateway.json_outline import Buffer, HeldTexts
from llm_gateway.protocols.input_size import document_size
from llm_gateway.routing.session_affinity import beginning_of
from llm_gateway.worker.pipeline.forked_calls import ForkedCalls, failed
from llm_gateway.worker.pipeline.translation import MOST_OUTLINE_BYTES, MOST_OUTLINE_VALUES, Translation

MOST_NESTED = 400
"""Maximum nesting levels of a body: encoding a deeper one again could exhaust Python's stack."""
MOST_FIELD_BYTES = 64 * 1024
"""Largest field of a document decoded in another process that is returned from it."""
DECODE_S = 60.0
"""Longest time to wait for the other process."""

_decode = msgspec.json.Decoder().decode


class Large(NamedTuple):
    """Properties of a large document beside its fields.

    `length` is the size of its input (`token_estimate.py`), `beginning` the start of its conversation, and `size` the
    size by which budgets bound its cost, of a document that was decoded in another process.
    """

    length: int
    beginning: str
    held: HeldTexts | None = None
    apart: ForkedCalls | None = None
    size: InputSize | None = None

    def told_beginning(self) -> str:
        """Return `beginning`."""
        return self.beginning


async def read_large_document(
    body: Buffer, input_fields: tuple[str, ...], forks: Forks
) -> tuple[dict[str, Any], Large]:
    """Return the object in a body of more than `SMALL_BYTES`, without its large parts. Other tasks run meanwhile.

    Raises:
        Invalid: as `parse_document`.
        PayloadTooLarge: it has more than 200,000 values.
        Overloaded: it had to be decoded in another process, which failed.
    """
    outline = await checked_outline(body, most_bytes=MOST_OUTLINE_BYTES)
    if outline.text and outline.values <= MOST_OUTLINE_VALUES:
        document = _parse_outline(outline.text)
        if document is not None:
            text = msgspec.json.encode([document.get(name) for name in input_fields]) if outline.held else b""
            length = equivalent_length_of(document, input_fields) + outline.held.length_in(text)
            return document, Large(length, beginning_of(document, input_fields), held=outline.held or None)
    try:
        (document, large, digest), _ = await forks.run(lambda: (_parse_apart(body, input_fields), b""), DECODE_S)
    except ForkFailed as error:
        raise failed(error) from None
    return document, large._replace(apart=ForkedCalls(body, digest, forks, Translation()))


def _parse_outline(text: Buffer) -> dict[str, Any] | None:
    """Return the object in an outline; None if it is not valid, so that the error has to be found in the body."""
    try:
        return parse_document(bytes(text))
    except Invalid:
        return None


def _parse_apart(body: Buffer, input_fields: tuple[str, ...]) -> tuple[dict[str, Any], Large, bytes]:
    """Decode a document (in the forked process): its small fields, what is read from the large ones, and its digest."""
    body = bytes(body)
    document = parse_document(body)
    size = document_size(document, input_fields, None)
    large = Large(equivalent_length_of(document, input_fields), beginning_of(document, input_fields), size=size)
    small = {name: value for name, value in document.items() if len(msgspec.json.encode(value)) <= MOST_FIELD_BYTES}
    return small, large, sha256(body).digest()


def parse_document(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` holds.

    Raises:
        Invalid: the body is not JSON, not an object, or nested too deeply.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise not_json(body, error) from None
    if not isinstance(document, dict):
        raise not_an_object(document)
    if _is_nested_deeply(body, document):
        raise Invalid(f"The body is nested more than {MOST_NESTED} levels deep: nest it less.", kind="json_invalid")
    return document


def _is_nested_deeply(body: bytes, document: dict[str, Any]) -> bool:
    """Return whether `document` has more than `MOST_NESTED` levels."""
    # Counting brackets is cheap, and few bodies have more than `MOST_NESTED`.
    if body.count(b"{") + body.count(b"[") <= MOST_NESTED:
        return False
    level: list[Any] = [document]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
