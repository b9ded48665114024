"""Customer, session and program of a request, read from its headers and its document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.gate.agent import agent_of
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.worker.endpoints.attribution import Identity, find_text, identify, session_in

ACCOUNT, SESSION = "0a8d5f5e-2f6c-4d6b-9c1e-0123456789ab", "6f2e8f0a-7b3c-4a57-8f6e-ba9876543210"
MESSAGES = PROTOCOLS["anthropic_messages"]
DEVICE = "ab" * 32
JOINED = f"user_{DEVICE}_account_{ACCOUNT}_session_{SESSION}"
SIGNED_OUT = f"user_{DEVICE}_account__session_{SESSION}"
AS_JSON = json.dumps({"device_id": DEVICE, "account_uuid": ACCOUNT, "session_id": SESSION})
SIGNED_OUT_AS_JSON = json.dumps({"device_id": DEVICE, "account_uuid": "", "session_id": SESSION})


@pytest.mark.parametrize(
    ("protocol", "document", "user"),
    [
        ("openai_chat", {"user": "a", "metadata": {"user_id": "b"}}, "a"),
        ("openai_chat", {"user": "", "metadata": {"user_id": "b"}}, "b"),
        ("openai_chat", {"user": "x" * 257}, None),
        ("openai_chat", {"user": "a\0"}, None),
        ("openai_responses", {"user": 5, "metadata": "odd"}, None),
        ("anthropic_messages", {"metadata": {"user_id": "b"}}, "b"),
        ("gemini_content", {"user": "a", "labels": {"user": "b"}, "metadata": {"user_id": "c"}}, None),
    ],
)
def test_the_customer_is_read_from_the_protocols_fields(
    protocol: str, document: dict[str, Any], user: str | None
) -> None:
    assert find_text(document, PROTOCOLS[protocol].user_fields) == user


@pytest.mark.parametrize(
    ("user", "customer", "session"),
    [
        (JOINED, ACCOUNT, SESSION),
        (AS_JSON, ACCOUNT, SESSION),
        (SIGNED_OUT, "agents", SESSION),
        (SIGNED_OUT_AS_JSON, "agents", SESSION),
        ("user_42", "user_42", None),
        ('{"name": "x"}', '{"name": "x"}', None),
        ("{nope", "{nope", None),
        ("{}", "{}", None),
        ("[" * 200, "[" * 200, None),
    ],
)
def test_the_account_in_an_agents_user_id_is_the_customer(user: str, customer: str, session: str | None) -> None:
    document = {"metadata": {"user_id": user}}
    found = identify({b"user-agent": b"claude-cli/2.1.5 (external, cli)"}, document, MESSAGES, "agents")
    assert found == Identity(customer, session, "claude-code")


def test_the_header_x_user_id_wins_over_an_agents_user_id() -> None:
    found = identify({b"x-user-id": b"anna"}, {"metadata": {"user_id": JOINED}}, MESSAGES, "agents")
    assert found == Identity("anna", SESSION, None)


def test_a_request_that_names_nobody_is_anonymous() -> None:
    assert identify({}, {}, MESSAGES, "agents") == Identity("anonymous", None, None)


@pytest.mark.parametrize(
    ("headers", "document", "session"),
    [
        ({b"x-session-id": b"a", b"session-id": b"b"}, {"prompt_cache_key": "c"}, "a"),
        ({b"x-claude-code-session-id": b"a", b"x-session-affinity": b"b"}, {}, "a"),
        ({b"session_id": b"b"}, {"prompt_cache_key": "c"}, "b"),
        ({}, {"prompt_cache_key": "c", "client_metadata": {"session_id": "d"}}, "c"),
        ({}, {"client_metadata": {"session_id": "d"}}, "d"),
        ({}, {"client_metadata": "odd", "prompt_cache_key": 5}, None),
        ({b"x-session-id": b" ", b"session-id": b"b"}, {}, "b"),
        ({b"x-session-id": "ü".encode()}, {}, None),
        ({b"x-session-id": b"x" * 257}, {"prompt_cache_key": "x" * 257}, None),
    ],
)
def test_the_session_is_the_first_one_that_the_request_names(
    headers: dict[bytes, bytes], document: dict[str, Any], session: str | None
) -> None:
    assert identify(headers, document, PROTOCOLS["openai_responses"], "key").session == session


def test_a_session_in_a_header_must_be_usable_as_a_label() -> None:
    assert session_in({b"x-session-id": b"\xff"}) is None


@pytest.mark.parametrize(
    ("user_agent", "agent"),
    [
        (b"claude-cli/2.1.278 (external, sdk-cli)", "claude-code"),
        (b"codex_cli_rs/0.171.0 (Debian 12; x86_64) xterm", "codex"),
        (b"codex_exec/0.171.0 (Debian 12; x86_64)", "codex"),
        (b"GeminiCLI/0.61.0/gemini-2.5-pro (linux; x64; terminal)", "gemini-cli"),
        (b"GeminiCLI-tui/0.61.0/gemini-2.5-pro (linux; x64; terminal)", "gemini-cli"),
        (b"OpenAI/Python 2.9.0", "openai-python"),
        (b"AsyncAnthropic/Python 0.75.0", "anthropic-python"),
        (b"Mozilla/5.0 claude-cli/2", "other"),
        (b"\xff", "other"),
        (b"", None),
        (None, None),
    ],
)
def test_the_program_is_named_by_the_beginning_of_its_user_agent(user_agent: bytes | None, agent: str | None) -> None:
    assert agent_of(user_agent) == agent
