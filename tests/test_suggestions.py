"""Suggestion of the name that was probably meant."""

from __future__ import annotations

import time

import pytest

from llm_gateway.suggestions import closest, if_meant


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("userId", ["service", "user_id"], "user_id"),
        ("USER-ID", ["service", "user_id"], "user_id"),
        ("promt", ["prompt", "system"], "prompt"),
        ("gpt4o", ["gpt-4o-mini", "gpt-4o"], "gpt-4o"),
        ("opnai/gpt-4o", ["openai/gpt-4o", "gpt-4o"], "openai/gpt-4o"),
        ("foo", ["prompt", "system"], None),
        ("", ["prompt"], None),
        ("___", ["prompt"], None),
        ("prompt" * 1000, ["prompt"], None),
        ("prompt", [], None),
    ],
)
def test_the_closest_name_is_found_or_none(name: str, known: list[str], meant: str | None) -> None:
    assert closest(name, known) == meant
    assert if_meant(name, known) == (f" Did you mean {meant}?" if meant else "")


VENDORS = [f"vendor{number:03}/model-{number:03}-large" for number in range(350)]
PAIRS = [f"vendor{vendor:03}/model-{model:03}-large" for vendor in range(140) for model in range(140)]


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("vendor300/modle-300-large", VENDORS, "vendor300/model-300-large"),
        ("zephyr-7b-bta", [*(f"gpt-{number:03}-mini" for number in range(300)), "zephyr-7b-beta"], "zephyr-7b-beta"),
        ("vendor077/modle-077-large", PAIRS, "vendor077/model-077-large"),
        ("nothing-like-any-of-them", PAIRS, None),
    ],
)
def test_the_closest_of_many_names_of_similar_length_is_found(name: str, known: list[str], meant: str | None) -> None:
    assert closest(name, known) == meant


def test_the_search_is_short_whatever_the_names_are() -> None:
    known = [f"{'xyz' * 19}{number:05}" for number in range(30_000)]
    started = time.process_time()
    assert closest("yzx" * 19 + "00000", known) is not None
    assert time.process_time() - started < 0.5
