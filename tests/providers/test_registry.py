"""Kinds, presets and protocols: what is configured by name exists, and fits."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.base import Vendor, load_vendors
from llm_gateway.providers.registry import DIALECTS, all_protocols, kind_of, protocols_problem, speech


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_kind_is_a_dialect(kind: str) -> None:
    dialect = DIALECTS[kind]

    assert all(callable(part) for part in (dialect.target, dialect.decode_error, dialect.interpret))
    assert dialect.static_key.headers("k")


def test_the_name_of_a_kind_is_the_name_of_its_file() -> None:
    modules = (openai, anthropic, gemini, local)
    assert {module.__name__: module for module in modules} == {
        f"llm_gateway.providers.{kind}": dialect for kind, dialect in DIALECTS.items()
    }


def test_the_kind_is_the_given_one_else_the_presets_else_openai() -> None:
    vendors = {"acme": Vendor("gemini")}

    assert kind_of("acme", "anthropic", vendors) == "anthropic"
    assert kind_of("acme", None, vendors) == "gemini"
    assert kind_of("other", None, vendors) == "openai"


def test_presets() -> None:
    vendors = load_vendors()

    spoken = ("openai_chat", "openai_responses", "openai_embeddings")
    assert vendors["openai"] == Vendor("openai", "https://api.openai.com/v1", protocols=spoken)
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
    assert vendor.kind in DIALECTS
    assert protocols_problem(vendor.kind, vendor.protocols or (), DIALECTS[vendor.kind]) is None
    if vendor.base_url is None:
        assert name == "local"
        return
    parts = urlsplit(vendor.base_url)
    assert parts.scheme == ("http" if parts.hostname == "localhost" else "https")
    assert (parts.query, parts.fragment, parts.username) == ("", "", None)
    assert not vendor.base_url.endswith("/")


def test_every_protocol_that_clients_speak_can_be_spoken_to_an_account() -> None:
    assert PROTOCOLS.keys() <= set(all_protocols())


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_kind_speaks_by_default_a_protocol_into_which_others_are_translated(kind: str) -> None:
    assert speech(DIALECTS[kind], None).main_wire is not None


class TestSpeech:
    @pytest.mark.parametrize(
        ("protocols", "main"),
        [
            (None, "openai_chat"),
            (("openai_chat",), "openai_chat"),
            (("openai_embeddings", "openai_chat"), "openai_chat"),
            (("openai_responses",), None),
            (("openai_embeddings",), None),
        ],
    )
    def test_an_account_has_the_wires_of_its_protocols_and_is_written_to_in_one_that_can_be_written(
        self, protocols: tuple[str, ...] | None, main: str | None
    ) -> None:
        wires, main_wire = speech(openai, protocols)

        assert set(wires) == set(protocols or ("openai_chat", "openai_embeddings"))
        assert main_wire == (main and openai.wires[main])

    def test_a_protocol_of_another_kind_is_named_with_those_there_are(self) -> None:
        assert protocols_problem("openai", ("openai_chat", "gemini_content"), openai) == (
            "A provider of kind 'openai' cannot speak 'gemini_content'; it can speak: openai_chat, openai_responses, "
            "openai_embeddings."
        )
