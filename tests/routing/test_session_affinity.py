"""Session affinity: a session stays at one provider, sessions spread, and no provider is overloaded."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from functools import partial
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import Request
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.routing.session_affinity import SessionAffinity, beginning_of, session_key
from tests.worker.pipeline.fakes import provider, request

SESSIONS = [f"session {number}" for number in range(1000)]


def idle(_candidate: Candidate) -> int:
    return 0


def tier_of(*names: str) -> tuple[Candidate, ...]:
    return tuple(Candidate.of(provider(name), "m") for name in names)


def asking(session: str | None, **fields: Any) -> Request:
    return msgspec.structs.replace(request(), session=session, **fields)


def place_of(affinity: SessionAffinity, session: str, tier: tuple[Candidate, ...]) -> str:
    return affinity.choose(asking(session), tier, tier, idle).provider.name


def test_sessions_stay_and_spread_evenly() -> None:
    tier = tier_of("a", "b", "c")
    here, there = SessionAffinity(), SessionAffinity(most_remembered=1)
    places = [place_of(here, session, tier) for session in SESSIONS]
    assert places == [place_of(here, session, tier) for session in SESSIONS]
    assert places == [place_of(there, session, tier) for session in SESSIONS], "no replica needs another's memory"
    assert all(280 < count < 390 for count in Counter(places).values())


def test_when_a_provider_leaves_only_its_own_sessions_move() -> None:
    affinity, tier = SessionAffinity(), tier_of("a", "b", "c")
    before = [place_of(affinity, session, tier) for session in SESSIONS]
    after = [place_of(affinity, session, tier[:2]) for session in SESSIONS]
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert moved.count("c") == len(moved) == before.count("c")


def test_the_next_candidate_of_a_session_is_tried_when_the_first_was() -> None:
    affinity, tier = SessionAffinity(), tier_of("a", "b", "c")
    asked = asking("s")
    waiting, order = list(tier), []
    while waiting:
        order.append(affinity.choose(asked, tier, waiting, idle))
        waiting.remove(order[-1])
    assert sorted(c.provider.name for c in order) == ["a", "b", "c"]
    assert affinity.choose(asked, tier, tier, idle) is order[0]


def test_a_provider_far_busier_than_the_others_is_passed_over() -> None:
    affinity, tier = SessionAffinity(), tier_of("a", "b")
    home = place_of(affinity, "s", tier)

    def chosen_with(busy: int) -> str:
        calls = lambda candidate: busy if candidate.provider.name == home else 0  # noqa: E731
        return affinity.choose(asking("s"), tier, tier, calls).provider.name

    assert chosen_with(10) == home, "10 in flight are within 1.25 × the mean of 5, and 4 more"
    assert chosen_with(11) != home


def test_a_request_without_a_session_goes_to_the_least_busy_provider() -> None:
    tier = tier_of("a", "b")
    calls = {"a": 2, "b": 1}
    chosen = SessionAffinity().choose(asking(None), tier, tier, lambda c: calls[c.provider.name])
    assert chosen.provider.name == "b"


def test_the_memory_of_sessions_is_bounded() -> None:
    affinity, tier = SessionAffinity(most_remembered=10), tier_of("a", "b")
    for session in SESSIONS:
        affinity.choose(asking(session), tier, tier, idle)
    assert len(affinity._orders) == 10


def test_keys_and_long_conversations_tell_sessions_apart() -> None:
    assert session_key(asking("s", key_name="one")) != session_key(asking("s", key_name="two"))
    long = {"input_length": 5_000, "beginning": lambda: "You are a pirate."}
    assert session_key(asking(None, **long)) == session_key(asking(None, **long))
    assert session_key(asking(None, **long)) != session_key(asking(None, **long, user_id="another"))
    assert session_key(asking(None, **{**long, "input_length": 100})) is None


CHAT = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Ahoy"}]
LATER = [{"role": "assistant", "content": "Arr"}, {"role": "user", "content": "More"}]
PARTS = [{"type": "text", "text": "Ahoy", "cache_control": {"type": "ephemeral"}}]


@pytest.mark.parametrize(
    ("protocol", "first", "later"),
    [
        ("openai_chat", {"messages": CHAT}, {"messages": [*CHAT, *LATER]}),
        (
            "anthropic_messages",
            {"system": "Pirate.", "messages": CHAT[1:]},
            {"system": "Pirate.", "messages": [*CHAT[1:], *LATER]},
        ),
        (
            "anthropic_messages",
            {"messages": [{"role": "user", "content": PARTS}], "tools": [{"name": "a"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Ahoy"}]}, *LATER]},
        ),
        ("openai_responses", {"input": CHAT, "tools": [{"type": "x"}]}, {"input": [*CHAT, *LATER]}),
        (
            "gemini_content",
            {"contents": [{"parts": [{"text": "Ahoy"}]}]},
            {"contents": [{"parts": [{"text": "Ahoy"}]}, {"role": "model", "parts": [{"text": "Arr"}]}]},
        ),
    ],
)  # fmt: skip
def test_the_beginning_is_the_same_turn_after_turn(protocol: str, first: dict[str, Any], later: dict[str, Any]) -> None:
    beginning = partial(beginning_of, fields=PROTOCOLS[protocol].input_fields)
    assert beginning(first) == beginning(later)
    assert "Ahoy" in beginning(first)


def test_the_beginning_is_short_whatever_the_request_holds() -> None:
    turn = {"role": "user", "content": [{"type": "image", "data": "x" * 10_000_000}] * 50}
    assert len(beginning_of({"messages": [turn] * 50, "system": "y" * 10_000}, ("system", "messages"))) < 5_000
    assert beginning_of({"messages": ["odd", 3, None, {}], "system": 5}, ("system", "messages")) == ""


def test_a_remembered_session_takes_little_memory_however_long_its_name_is() -> None:
    affinity, tier = SessionAffinity(), tier_of("a", "b")
    tracemalloc.start()
    for number in range(100):
        place_of(affinity, f"{number}" + "x" * 10_000, tier)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept_bytes < 100 * 1000


def test_a_replaced_configuration_is_not_kept_after_clear() -> None:
    affinity, tier = SessionAffinity(), tier_of("a", "b")
    count = sys.getrefcount(tier)
    place_of(affinity, "s", tier)

    affinity.clear()

    assert sys.getrefcount(tier) == count
