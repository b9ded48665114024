"""Limit of JSON values in a body: bodies above it are rejected before they are decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.errors import PayloadTooLarge
from llm_gateway.gate.value_limit import MOST_VALUES, check_number_of_values
from llm_gateway.json_outline import SMALL_BYTES

MANY = MOST_VALUES + 1


@pytest.mark.parametrize("value", ["{}", "[]", "0", '""', '{"a":1}', "null", '"a\\"b"', '"\\\\"', '{"a":{}}'])
async def test_too_many_values_of_any_kind_are_rejected(value: str) -> None:
    body = f'{{"a":[{",".join([value] * MANY)}]}}'.encode()
    with pytest.raises(PayloadTooLarge, match="more than 200,000 values"):
        await check_number_of_values(body)


@pytest.mark.parametrize("text", [",", "[{", '"', '\\"', "\\", '",', "\\\\,", "[],{}", "\n,", "é,"], ids=ascii)
async def test_a_long_text_is_one_value_with_any_content(text: str) -> None:
    for many in (json.dumps({"messages": [{"content": text * MANY}]}), json.dumps([text * 20] * (MANY // 20 + 1))):
        await check_number_of_values(many.encode())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
async def test_the_limit_is_exact_for_any_document(document: Any) -> None:
    """A document that reaches the limit exactly is accepted; one more value is rejected."""
    own = separators(document)
    for more, is_refused in ((MOST_VALUES - own - 1, False), (MOST_VALUES - own, True)):
        body = b"[%b%b]" % (json.dumps(document).encode(), b",0" * more)
        assert len(body) > SMALL_BYTES
        if is_refused:
            with pytest.raises(PayloadTooLarge):
                await check_number_of_values(body)
        else:
            await check_number_of_values(body)


def separators(value: Any) -> int:
    """Count the commas and opening brackets in the JSON of a value, outside of strings."""
    if not isinstance(value, dict | list):
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(len(inner) - 1, 0) + sum(map(separators, inner))
