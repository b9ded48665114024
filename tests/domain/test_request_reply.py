"""Canonical requests and replies: default values, and the encoding of cached replies."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.usage import Usage


def test_a_request_has_defaults_for_its_optional_fields() -> None:
    asked = Request(
        id="i",
        at_ms=1,
        started=0.0,
        deadline=1.0,
        key_name="k",
        surface="s",
        user_id="u",
        service="s",
        client_request=ClientRequest.of(Conversation(turns=[])),
    )

    assert (asked.task_type, asked.max_tokens, asked.input_length) == ("general", 1000, 0)
    assert (asked.json_mode, asked.use_cache, asked.store_in_cache) == (False, True, True)
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
def test_a_reply_is_the_same_after_encoding_and_decoding(reply: Reply) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=Reply) == reply
