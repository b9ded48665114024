"""Aliases of models: globs, the order of candidates, and names that are remembered."""

from __future__ import annotations

import fnmatch
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.model_aliases import MAX_NAME, MAX_REMEMBERED, AliasTable, matches, specificity
from tests.worker.pipeline.fakes import provider, snapshot


def named(name: str, *providers: Provider) -> list[list[str]] | None:
    found = snapshot(list(providers)).resolve(name)
    return None if found is None else [[f"{c.provider.name}/{c.model}" for c in tier] for tier in found.tiers]


def aliased(name: str, **fields: Any) -> Provider:
    aliases: dict[str, Any] = {"model_aliases": {"claude-*-haiku*": "m2"}}
    return provider(name, **{**aliases, **fields})


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_glob_matches_what_the_standard_library_matches(glob: str, name: str) -> None:
    assert matches(glob, name) == fnmatch.fnmatchcase(name, glob)


@pytest.mark.parametrize("name", ["[a]", "a?", "a.b", "A"])
def test_no_character_but_the_asterisk_is_special(name: str) -> None:
    assert matches(name, name)
    assert not any(matches(name, other) for other in ("a", "ab", "axb"))


def test_a_glob_of_many_wildcards_takes_no_exponential_time() -> None:
    started = time.perf_counter()
    assert not matches("*a" * 100 + "*b*", "a" * 256)
    assert time.perf_counter() - started < 0.1


def test_plain_names_then_longer_globs_are_more_specific() -> None:
    aliases = ["*", "claude-*", "gpt-4", "claude-*-haiku*", "claude-*haiku"]
    assert sorted(aliases, key=specificity) == ["gpt-4", "claude-*-haiku*", "claude-*haiku", "claude-*", "*"]


def test_a_name_that_matches_an_alias_leads_to_the_aliased_model() -> None:
    assert named("claude-3-5-haiku-latest", aliased("a"), provider("b")) == [["a/m2"]]
    assert named("claude-sonnet", aliased("a"), provider("b")) is None


def test_names_of_aliases_respect_case() -> None:
    assert named("Claude-3-Haiku", aliased("a")) is None


def test_a_disabled_provider_has_no_aliases() -> None:
    assert named("claude-3-haiku", aliased("a", is_enabled=False), aliased("b")) == [["b/m2"]]


def test_a_provider_that_lists_the_model_comes_before_aliases_whatever_their_priority() -> None:
    own = provider("own", models=("claude-3-haiku",), priority=1)
    assert named("claude-3-haiku", aliased("a", priority=99), own) == [["own/claude-3-haiku"], ["a/m2"]]


def test_the_own_model_wins_over_an_alias_of_the_same_provider() -> None:
    both = provider("a", models=("m1", "m2"), model_aliases={"m1": "m2", "*": "m2"})
    assert named("m1", both) == [["a/m1"]]
    assert named("other", both) == [["a/m2"]]


@pytest.mark.parametrize("order", [1, -1])
def test_the_most_specific_of_overlapping_aliases_wins_in_any_order(order: int) -> None:
    aliases = [("*", "m1"), ("claude-*", "m1"), ("claude-*-haiku", "m2"), ("*haiku", "m1")]
    assert named("claude-3-haiku", provider("a", model_aliases=dict(aliases[::order]))) == [["a/m2"]]
    same_rank = [("x*b", "m1"), ("xa*", "m2")]
    assert named("xab", provider("a", model_aliases=dict(same_rank[::order]))) == [["a/m1"]]


def test_providers_with_more_specific_aliases_come_first_then_those_of_higher_priority() -> None:
    catch_all = provider("all", model_aliases={"*": "m1"}, priority=99)
    low, high, equal = aliased("low", priority=1), aliased("high", priority=50), aliased("equal", priority=50)
    found = named("claude-3-haiku", catch_all, low, high, equal)
    assert found == [["equal/m2", "high/m2"], ["low/m2"], ["all/m1"]]


def test_a_name_with_its_provider_leads_to_the_alias_of_that_provider_alone() -> None:
    made = snapshot([aliased("a"), aliased("b"), provider("c", model_aliases={"*": "m1"})])
    pinned = made.resolve("b/claude-3-haiku")
    assert pinned is not None
    assert [c.provider.name for tier in pinned.tiers for c in tier] == ["b"]
    assert pinned.is_pinned
    whole = made.resolve("b/gpt")
    assert whole is not None
    assert [c.provider.name for tier in whole.tiers for c in tier] == ["c"]
    assert not whole.is_pinned


def test_a_model_named_with_its_provider_stays_pinned_beside_aliases() -> None:
    made = snapshot([provider("a"), provider("c", model_aliases={"*": "m1"})])
    pinned = made.resolve("a/m1")
    assert pinned is not None
    assert (len(pinned.tiers), pinned.is_pinned) == (1, True)


def test_an_alias_of_a_model_that_is_not_listed_is_left_out() -> None:
    assert named("claude", provider("a", model_aliases={"claude": "gone", "*": "m1"})) == [["a/m1"]]


def test_a_name_is_compared_with_the_aliases_once_for_a_snapshot() -> None:
    made = snapshot([aliased("a")])
    assert made.resolve("claude-1-haiku") is made.resolve("claude-1-haiku")


def remembered(made: Snapshot) -> int:
    assert isinstance(made.aliases, AliasTable)
    return len(made.aliases)


def test_at_most_a_bounded_number_of_short_names_is_remembered() -> None:
    made = snapshot([provider("a", model_aliases={"*": "m1"})])
    for number in range(MAX_REMEMBERED + 50):
        assert made.resolve(f"name-{number}") is not None
    assert made.resolve("x" * (MAX_NAME + 1)) is None
    assert remembered(made) == MAX_REMEMBERED


def test_a_listed_model_with_a_long_name_is_found() -> None:
    long = "x" * (MAX_NAME + 1)
    assert named(long, provider("a", models=(long,), model_aliases={"*": long})) == [[f"a/{long}"]]
