"""Kinds, presets and protocols: what is configured by name exists, and fits."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.presets import Preset, load_presets
from llm_gateway.providers.registry import DIALECTS, all_protocols, choose_codecs, kind_of, protocols_problem


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
    presets = {"acme": Preset("gemini")}

    assert kind_of("acme", "anthropic", presets) == "anthropic"
    assert kind_of("acme", None, presets) == "gemini"
    assert kind_of("other", None, presets) == "openai"


def test_presets() -> None:
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
def test_every_preset_is_a_callable_address(name: str, preset: Preset) -> None:
    assert preset.kind in DIALECTS
    assert protocols_problem(preset.kind, preset.protocols or (), DIALECTS[preset.kind]) is None
    if preset.base_url is None:
        assert name == "local"
        return
    parts = urlsplit(preset.base_url)
    assert parts.scheme == ("http" if parts.hostname == "localhost" else "https")
    assert (parts.query, parts.fragment, parts.username) == ("", "", None)
    assert not preset.base_url.endswith("/")


def test_every_protocol_that_clients_speak_can_be_spoken_to_an_account() -> None:
    assert PROTOCOLS.keys() <= set(all_protocols())


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_kind_speaks_by_default_a_protocol_into_which_others_are_translated(kind: str) -> None:
    assert choose_codecs(DIALECTS[kind], None).translation_codec is not None


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
        codecs, translation_codec = choose_codecs(openai, protocols)

        assert set(codecs) == set(protocols or ("openai_chat", "openai_embeddings"))
        assert translation_codec == (main and openai.codecs[main])

    def test_a_protocol_of_another_kind_is_named_with_those_there_are(self) -> None:
        assert protocols_problem("openai", ("openai_chat", "gemini_content"), openai) == (
            "A provider of kind 'openai' cannot speak 'gemini_content'; it can speak: openai_chat, openai_responses, "
            "openai_embeddings."
        )
