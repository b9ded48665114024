"""One definition says which models reason and which efforts they know."""

from __future__ import annotations

import pytest

from llm_gateway.domain.conversation import REASONING_EFFORTS, Conversation, Reasoning, Text, Turn
from llm_gateway.domain.reasoning_models import (
    EFFORTS_OF_OPENAI,
    EFFORTS_OF_OTHERS,
    efforts_of,
    is_reasoning_model,
    reasons,
    takes_effort,
)
from llm_gateway.protocols import openai_chat
from llm_gateway.providers.vendor_rules.rule import Inside, Words
from llm_gateway.providers.vendor_rules.table import ROWS
from tests.rows import each_row


@each_row("prefix", ["", "openai/"])
@each_row(
    ("model", "is_one", "does"),
    [
        ("o1", True, True), ("o3-mini", True, True), ("o4-mini:free", True, True), ("gpt-5", True, True),
        ("gpt-5-mini", True, True), ("gpt-5:free", True, True), ("gpt-5.2", True, True), ("GPT-5.2", True, True),
        ("gpt-6-sol", True, True), ("gpt-5.2-chat-latest", True, True), ("codex-mini-latest", True, True),
        ("gpt-5-chat-latest", True, False),
        ("gpt-4o", False, False), ("gpt-oss-20b", False, False), ("gpt-35-turbo", False, False), ("o10", False, False),
        ("gpt-50", False, False), ("llama-4", False, False),
    ],
)  # fmt: skip
def test_openais_reasoning_models_are_known_by_their_names(prefix: str, model: str, is_one: bool, does: bool) -> None:
    assert (is_reasoning_model(prefix + model), reasons(prefix + model)) == (is_one, does)


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("o3", ("low", "medium", "high")),
        ("gpt-5", ("minimal", "low", "medium", "high")),
        ("gpt-5-pro", ("high",)),
        ("gpt-5-codex", ("low", "medium", "high")),
        ("gpt-5.1", ("none", "low", "medium", "high")),
        ("gpt-5.1-codex", ("low", "medium", "high")),
        ("gpt-5.1-codex-max", ("low", "medium", "high", "xhigh")),
        ("gpt-5.2-chat-latest", ("medium",)),
        ("gpt-5.2-pro", ("medium", "high", "xhigh")),
        ("openai/gpt-5.4-mini", ("none", "low", "medium", "high", "xhigh")),
        ("gpt-5.6-sol", ("none", "low", "medium", "high", "xhigh", "max")),
        ("gpt-oss-20b", ("low", "medium", "high")),
        ("grok-3-mini", ("low", "high")),
        ("gpt-5.3-chat", REASONING_EFFORTS),
        ("llama-4", REASONING_EFFORTS),
    ],
)
def test_the_first_match_decides_about_a_models_efforts(model: str, efforts: tuple[str, ...]) -> None:
    assert efforts_of(model) == efforts


def test_every_row_of_the_vendors_table_has_the_efforts_of_the_definition() -> None:
    """So that a translated request and one that passes through get the same word."""
    known = {glob: each.efforts for each in (*EFFORTS_OF_OPENAI, *EFFORTS_OF_OTHERS) for glob in each.models}
    checked = 0
    for row in ROWS:
        words = row.rule.rule if isinstance(row.rule, Inside) else row.rule
        if isinstance(words, Words):
            checked += 1
            assert {known[glob] for glob in row.models} == {words.known}
    assert checked >= 20


@each_row("model", ["gpt-5", "gpt-5.2", "o3", "gpt-oss-20b", "grok-4.5", "deepseek-v4-pro"])
@each_row("effort", REASONING_EFFORTS)
def test_a_translated_request_asks_for_an_effort_that_the_model_knows(model: str, effort: str) -> None:
    turns = [Turn(role="user", parts=[Text(text="?")])]

    written = openai_chat.write_request(
        Conversation(turns=turns, reasoning=Reasoning(effort=effort)), model, stream=False
    )

    assert takes_effort(model)
    assert written.document["reasoning_effort"] in efforts_of(model)
    assert ("reasoning" in written.dropped) is (effort not in efforts_of(model))
