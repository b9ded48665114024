"""Registry of dialects: kinds, presets and the codecs of an account."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.presets import Preset, load_presets
from llm_gateway.providers.registry import DIALECTS, all_protocols, choose_codecs, kind_of, protocols_problem


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_kind_implements_the_dialect_contract(kind: str) -> None:
    dialect = DIALECTS[kind]

    assert all(callable(part) for part in (dialect.target, dialect.decode_error, dialect.classify_error))
    assert dialect.static_key.headers("k")


def test_the_name_of_a_kind_is_the_name_of_its_file() -> None:
    modules = (openai, anthropic, gemini, local)
    assert {module.__name__: module for module in modules} == {
        f"llm_gateway.providers.{kind}": dialect for kind, dialect in DIALECTS.items()
    }


def test_the_kind_is_the_configured_one_else_that_of_the_preset_else_openai() -> None:
    presets = {"acme": Preset("gemini")}

    assert kind_of("acme", "anthropic", presets) == "anthropic"
    assert kind_of("acme", None, presets) == "gemini"
    assert kind_of("other", None, presets) == "openai"


def test_presets_have_the_vendors_urls_and_protocols() -> None:
    presets = load_presets()

    spoken = ("openai_chat", "openai_responses", "openai_embeddings")
    assert presets["openai"] == Preset("openai", "https://api.openai.com/v1", protocols=spoken)
    assert presets["anthropic"] == Preset("anthropic", "https://api.anthropic.com")
    assert presets["gemini"] == Preset("gemini", "https://generativelanguage.googleapis.com")
    assert presets["local"] == Preset("local", None)
    assert presets["lmstudio"] == Preset("openai", "http://localhost:1234/v1", has_json_mode=False)
    assert {
        *("groq", "mistral", "deepseek", "together", "fireworks", "openrouter", "xai", "cerebras", "perplexity"),
        *("cohere", "ollama", "vllm"),
    } <= set(presets)


@pytest.mark.parametrize(("name", "preset"), load_presets().items())
def test_every_preset_has_a_valid_base_url_and_protocols(name: str, preset: Preset) -> None:
    assert preset.kind in DIALECTS
    assert protocols_problem(preset.kind, preset.protocols or (), DIALECTS[preset.kind]) is None
    if preset.base_url is None:
        assert name == "local"
        return
    parts = urlsplit(preset.base_url)
    assert parts.scheme == ("http" if parts.hostname == "localhost" else "https")
    assert (parts.query, parts.fragment, parts.username) == ("", "", None)
    assert not preset.base_url.endswith("/")


def test_every_client_protocol_has_a_codec_for_accounts() -> None:
    assert PROTOCOLS.keys() <= set(all_protocols())


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_kind_has_a_default_protocol_for_translations(kind: str) -> None:
    assert choose_codecs(DIALECTS[kind], None).translation_codec is not None


class TestCodecs:
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
    def test_an_account_has_the_codecs_of_its_protocols_and_translates_into_the_first_writable_one(
        self, protocols: tuple[str, ...] | None, main: str | None
    ) -> None:
        codecs, translation_codec = choose_codecs(openai, protocols)

        assert set(codecs) == set(protocols or ("openai_chat", "openai_embeddings"))
        assert translation_codec == (main and openai.codecs[main])

    def test_the_error_for_a_protocol_of_another_kind_lists_the_possible_ones(self) -> None:
        assert protocols_problem("openai", ("openai_chat", "gemini_content"), openai) == (
            "A provider of kind 'openai' does not support the protocol 'gemini_content': choose from openai_chat, "
            "openai_responses, openai_embeddings."
        )
