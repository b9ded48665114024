"""Token estimates from the length of texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.token_estimate import equivalent_length_of, estimated_tokens
from tests.worker.pipeline.fakes import request


@pytest.mark.parametrize(
    ("prompt", "system", "tokens"),
    [
        ("", "", 8),
        ("abc", "", 8),
        ("abcd", "", 9),
        ("ab", "cd", 9),
        ("a" * 4000, "s" * 400, 1108),
        ("ü" * 8, "", 13),
        ("日" * 8, "日", 17),
    ],
)
def test_the_estimate_counts_four_ascii_characters_or_three_bytes_as_a_token(
    prompt: str, system: str, tokens: int
) -> None:
    assert request(prompt=prompt, system=system).estimated_input_tokens() == tokens


@given(st.text(), st.text(), st.text())
def test_more_text_is_never_estimated_as_less(prompt: str, system: str, more: str) -> None:
    less = request(prompt=prompt, system=system).estimated_input_tokens()

    assert request(prompt=prompt + more, system=system).estimated_input_tokens() >= less
    assert request(prompt=prompt, system=system + more).estimated_input_tokens() >= less


@pytest.mark.parametrize("tokens", [[*range(800)], [[*range(500)], [*range(300)]]])
def test_tokens_in_the_place_of_texts_count_as_such(tokens: list[object]) -> None:
    """LangChain sends embeddings' texts as lists of tokens."""
    assert estimated_tokens(equivalent_length_of({"input": tokens}, ("input",))) == 808
