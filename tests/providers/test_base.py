"""Kinds and presets: what is configured by name exists, and fits."""

from __future__ import annotations

from typing import get_args
from urllib.parse import urlsplit

import pytest

from llm_gateway.control.management.providers import Kind
from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.base import KINDS, Vendor, load, load_vendors


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_dialect(kind: str) -> None:
    adapter = load(kind)

    parts = (adapter.target, adapter.decode_error, adapter.interpret)
    assert all(callable(part) for part in parts)


def test_the_name_of_a_kind_is_the_name_of_its_file() -> None:
    assert load("openai") is openai
    assert load("anthropic") is anthropic
    assert load("gemini") is gemini
    assert load("local") is local


def test_the_kinds_that_can_be_configured_are_those_that_are_spoken() -> None:
    assert get_args(Kind) == KINDS


@pytest.mark.parametrize("kind", ["", "base", "decoding", "prices", "OpenAI", "os"])
def test_other_modules_are_no_kinds(kind: str) -> None:
    with pytest.raises(KeyError) as raised:
        load(kind)

    assert raised.value.args == (kind,)


def test_presets() -> None:
    vendors = load_vendors()

    assert vendors["openai"] == Vendor("openai", "https://api.openai.com/v1", has_responses=True)
    assert vendors["anthropic"] == Vendor("anthropic", "https://api.anthropic.com")
    assert vendors["gemini"] == Vendor("gemini", "https://generativelanguage.googleapis.com")
    assert vendors["local"] == Vendor("local", None)
    assert vendors["lmstudio"] == Vendor("openai", "http://localhost:1234/v1", has_json_mode=False)
    assert {
        *("groq", "mistral", "deepseek", "together", "fireworks", "openrouter", "xai", "cerebras", "perplexity"),
        *("cohere", "ollama", "vllm"),
    } <= set(vendors)


@pytest.mark.parametrize(("name", "vendor"), load_vendors().items())
def test_every_preset_is_a_callable_address(name: str, vendor: Vendor) -> None:
    assert vendor.kind in KINDS
    if vendor.base_url is None:
        assert name == "local"
        return
    parts = urlsplit(vendor.base_url)
    assert parts.scheme == ("http" if parts.hostname == "localhost" else "https")
    assert (parts.query, parts.fragment, parts.username) == ("", "", None)
    assert not vendor.base_url.endswith("/")
