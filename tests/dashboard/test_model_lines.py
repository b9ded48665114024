"""Prices and aliases as lines of a form, and back."""

from __future__ import annotations

import pytest

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.model_lines import alias_lines, aliases_of, price_lines, prices_of
from tests.rows import each_row

PRICES = {"gpt-4o": {"input": 2.5, "output": 10.0}, "llama3:8b": {"input": 0.0, "output": 0.00001, "cache_read": 1}}
ALIASES = {"claude-*": "claude-sonnet-4-5", "fast": "a = b"}


def test_lines_are_read_as_they_were_written() -> None:
    assert price_lines(PRICES).splitlines()[1] == "llama3:8b: input 0, output 0.00001, cache_read 1"
    assert prices_of(f"\n{price_lines(PRICES)}\n \n") == PRICES
    assert aliases_of(alias_lines(ALIASES)) == ALIASES
    assert (price_lines(None), alias_lines(None), prices_of(" \n"), aliases_of("")) == ("", "", None, None)


@each_row("line", ["gpt-4o", "gpt-4o: 2.5, 10", "m: input", "m: input x", ": input 1, output 2", "m: input 1 output 2"])
def test_a_line_that_is_no_price_is_named(line: str) -> None:
    with pytest.raises(ApiError, match=f"'{line}' cannot be read: write MODEL: input 2.5, output 10") as refused:
        prices_of(f"gpt-4o: input 1, output 2\n{line}")
    assert [*refused.value.fields] == ["prices"]


@each_row("line", ["claude-*", "= m", "a ="])
def test_a_line_that_is_no_alias_is_named(line: str) -> None:
    with pytest.raises(ApiError, match="cannot be read: write ALIAS = MODEL") as refused:
        aliases_of(line)
    assert [*refused.value.fields] == ["model_aliases"]


@each_row(
    ("text", "words"),
    [
        ("m: input 1, output 2\nn: input 1\n m : input 3, output 4", "'m' has two lines"),
        ("m: input 1, output 2, input 3", "names a kind of price twice"),
    ],
)
def test_a_price_that_is_there_twice_is_refused(text: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        prices_of(text)
    assert [*refused.value.fields] == ["prices"]


def test_an_alias_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ApiError, match="'x' has two lines") as refused:
        aliases_of("x = m\ny = m\nx = n")
    assert [*refused.value.fields] == ["model_aliases"]
