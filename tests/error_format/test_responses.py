"""Error messages that quote the client are shortened and printable."""

from __future__ import annotations

import pytest

from llm_gateway.error_format.responses import LONGEST_NAME, LONGEST_TEXT, problem_of, shorten
from llm_gateway.errors import GatewayError, Invalid, NotFound, NotSupported
from llm_gateway.protocols.descriptor import Descriptor
from llm_gateway.protocols.registry import PROTOCOLS


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("There is nothing at /ä/☃.", "There is nothing at /ä/☃."),
        ("a\x00b\x1f\x7f.", "a\ufffdb\ufffd\ufffd."),
        ("one\ntwo\r\n\tthree.", "one two   three."),
        ("x" * LONGEST_TEXT, "x" * LONGEST_TEXT),
    ],
)
def test_unprintable_characters_of_a_detail_are_replaced(detail: str, shown: str) -> None:
    assert problem_of(NotFound(detail), "id").detail == shown


def test_a_long_detail_keeps_its_end_with_the_advice() -> None:
    detail = problem_of(NotFound("x" * 100_000 + " is not a field of this request."), "id").detail
    assert len(detail) == LONGEST_TEXT
    assert detail.startswith("xxx")
    assert "…" in detail
    assert detail.endswith(" is not a field of this request.")


def test_the_paths_of_field_errors_are_shortened_and_printable() -> None:
    problem = problem_of(Invalid("No.", loc=("body", "n" * 5000, 3, "a\0")), "id")
    assert isinstance(problem.errors, list)
    assert problem.errors[0].loc == [
        "body",
        "n" * (LONGEST_NAME // 2 - 1) + "…" + "n" * (LONGEST_NAME // 2),
        3,
        "a\ufffd",
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize(
    "error",
    [
        NotFound("x" * 3_000_000),
        NotSupported("x" * 3_000_000, field="f" * 3_000_000),
        Invalid("x" * 3_000_000, loc=("body", "f" * 3_000_000)),
    ],
    ids=["detail", "field", "path"],
)
def test_a_client_that_sends_megabytes_gets_a_short_error(protocol: Descriptor, error: GatewayError) -> None:
    shorten(error)
    assert len(protocol.write_error(error, "id")) < 4 * LONGEST_TEXT
