"""Error messages in response bodies, JSON in a model's text, and checks of token counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.protocols.reported_values import MAX_COUNT, are_plausible, clamped
from llm_gateway.providers.decoding import error_of, json_text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"a": 1}', '{"a": 1}'),
        (' {"a": 1}\n', ' {"a": 1}\n'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('\n ```JSON \r\n{\n"a": 1}```\n', '{\n"a": 1}'),
        ("```json\n[1]\n```", "[1]"),
        ('Here it is:\n```json\n{"a": 1}\n```', None),
        ('```json\n{"a": 1}\n```\nAnything else?', None),
        ("```python\n1\n```", None),
        ("```json\n{'a': 1}\n```", None),
        ('```{"a": 1}```', None),
        ("```json\n```", None),
        ("``````", None),
        ("```", None),
        ("", None),
        ("Paris", None),
        ("[" * 100_000, None),
    ],
)
def test_json_is_found_in_an_answer_with_or_without_a_code_fence(content: str, found: str | None) -> None:
    assert json_text(content) == found


@given(st.text('`json \n{}[]1"a:,\ud800', max_size=30))
def test_any_text_that_is_found_is_valid_json(content: str) -> None:
    found = json_text(content)

    assert found is None or (msgspec.json.decode(found) is not ... and found in content)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error": {"message": "m", "code": 1}}', {"message": "m", "code": 1}),
        (b'[{"error": {"message": "m"}}, {"error": {}}]', {"message": "m"}),
        (b'{"message": "m"}', {"message": "m"}),
        (b'{"error": "m"}', {"message": "m"}),
        (b'{"error": null}', {"message": None}),
        (b"[]", {}),
        (b'["m"]', {}),
        (b"5", {}),
        (b"", {}),
        (b'"\xff"', {}),
        (b"[" * 100_000, {}),
    ],
)
def test_the_error_object_is_found_in_a_response_body(body: bytes, error: dict[str, object]) -> None:
    assert error_of(body) == error


@given(st.lists(st.integers(-2, 2) | st.integers(MAX_COUNT - 2, MAX_COUNT + 2), min_size=1, max_size=3))
def test_counts_are_plausible_only_if_their_sum_is(counts: list[int]) -> None:
    assert are_plausible(*counts) == (all(count >= 0 for count in counts) and sum(counts) <= MAX_COUNT)


@given(st.integers(0, 10), st.none() | st.integers(-5, 15))
def test_a_clamped_part_never_exceeds_its_total(total: int, part: int | None) -> None:
    found = clamped(total, part)

    assert 0 <= found <= total
    assert found == part or part is None or not 0 <= part <= total
