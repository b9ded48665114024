"""Ids that sort by time, and the estimate of a prompt's size."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.messages import Ask, Reply, Request, new_id
from llm_gateway.domain.usage import Usage
from tests.worker.pipeline.fakes import request


def test_an_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        text = new_id()
        parsed = UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, RFC_4122)


def test_an_id_begins_with_the_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    made = [int(new_id().replace("-", "")[:12], 16) for _ in range(50)]
    after = time.time_ns() // 1_000_000

    assert all(before <= ms <= after for ms in made)
    assert made == sorted(made)


def test_ids_differ_and_use_all_their_random_bits() -> None:
    made = [int(new_id().replace("-", ""), 16) for _ in range(5000)]
    random_bits = 0x0FFF_3FFF_FFFF_FFFF_FFFF
    seen_one = seen_zero = 0
    for value in made:
        seen_one |= value
        seen_zero |= ~value

    assert len(set(made)) == len(made)
    assert seen_one & random_bits == random_bits
    assert seen_zero & random_bits == random_bits


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
def test_estimate(prompt: str, system: str, tokens: int) -> None:
    assert request(prompt=prompt, system=system).estimated_input_tokens() == tokens


@given(st.text(), st.text(), st.text())
def test_more_text_is_never_estimated_as_less(prompt: str, system: str, more: str) -> None:
    less = request(prompt=prompt, system=system).estimated_input_tokens()

    assert request(prompt=prompt + more, system=system).estimated_input_tokens() >= less
    assert request(prompt=prompt, system=system + more).estimated_input_tokens() >= less


def test_a_requests_defaults() -> None:
    asked = Request(
        id="i",
        at_ms=1,
        started=0.0,
        deadline=1.0,
        key_name="k",
        surface="s",
        user_id="u",
        service="s",
        ask=Ask.of(Conversation(turns=[])),
    )

    assert (asked.task_type, asked.max_tokens, asked.input_weight) == ("general", 1000, 0)
    assert (asked.json_mode, asked.use_cache, asked.keep_in_cache) == (False, True, True)
    assert (asked.client_request_id, asked.tags) == (None, {})


@given(
    st.builds(
        Reply,
        content=st.text(st.characters(codec="utf-8")),
        usage=st.builds(Usage, input_tokens=st.integers(0, 2**40), output_tokens=st.integers(0, 2**40)),
        finish_reason=st.sampled_from(["stop", "length"]),
        upstream_model=st.none() | st.just("m"),
        usage_estimated=st.booleans(),
    )
)
def test_a_reply_as_bytes_and_back(reply: Reply) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Reply) == reply
