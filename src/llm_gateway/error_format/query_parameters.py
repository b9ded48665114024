"""Errors for query parameters that a path does not take, or that are repeated."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import parse_qsl

from llm_gateway.error_format.validation import MOST_ERRORS
from llm_gateway.errors import Invalid
from llm_gateway.suggestions import if_meant


def check_parameters(sent: Iterable[tuple[str, str]], known: Collection[str]) -> None:
    """Check the names of query parameters.

    Raises:
        Invalid: one is not in `known`, or is repeated.
    """
    mistakes, seen = [], set()
    for name, _ in sent:
        if name not in known and name not in seen:
            takes = f"takes only {', '.join(sorted(known))}" if known else "takes none"
            sentence = f"{name} is not a query parameter of this path, which {takes}.{if_meant(name, known)}"
            mistakes.append(Invalid(sentence, loc=("query", name), kind="extra"))
        elif name in seen:
            mistakes.append(
                Invalid(f"The query parameter {name} is repeated: send it once.", loc=("query", name), kind="repeated")
            )
        seen.add(name)
        if len(mistakes) == MOST_ERRORS:
            break
    if mistakes:
        raise Invalid.all_of(mistakes)


def refuse_parameters(query: bytes) -> None:
    """Check that the query string of a path without query parameters has none: fields belong into the body.

    Raises:
        Invalid: it has some.
    """
    check_parameters(parse_qsl(query.decode("latin-1"), keep_blank_values=True), ())
