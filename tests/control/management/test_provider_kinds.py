"""Kinds, protocols and addresses of providers: what a preset brings, and what is rejected."""

from __future__ import annotations

import pytest

from llm_gateway.providers.registry import DIALECTS, all_protocols
from tests.application.driver import Client, assert_problem
from tests.control.management.test_providers import LEAST, PATH, created


async def test_presets_bring_kind_and_address(client: Client) -> None:
    openai = await created(client, name="openai", base_url=None)
    assert (openai["kind"], openai["base_url"]) == ("openai", None)
    groq = await created(client, name="groq", base_url="http://127.0.0.1:1/v1")
    assert groq["base_url"] == "http://127.0.0.1:1/v1"
    assert (await created(client, name="mistral", base_url="http://127.0.0.1:1/v1", kind="local"))["kind"] == "local"


@pytest.mark.parametrize(
    ("name", "kind", "address"),
    [
        ("acme", None, "https://api.openai.com/v1"),
        ("acme", "anthropic", "https://api.anthropic.com"),
        ("acme", "gemini", "https://generativelanguage.googleapis.com"),
        ("groq", None, "https://api.groq.com/openai/v1"),
        ("anthropic", None, "https://api.anthropic.com"),
    ],
)
async def test_without_a_base_url_the_address_is_that_of_the_preset_or_the_kind(
    client: Client, name: str, kind: str | None, address: str
) -> None:
    body = {field: value for field, value in LEAST.items() if field != "base_url"}
    response = await client.call("POST", PATH, {**body, "name": name, "kind": kind})
    assert response.status == 201
    made = response.json
    assert (made["base_url"], made["effective_base_url"], made["warnings"]) == (None, address, [])
    assert (await client.call("GET", f"{PATH}/{made['id']}")).json == made


async def test_a_misspelt_preset_is_accepted_with_a_warning(client: Client) -> None:
    made = await created(client, name="opnai", base_url=None)
    assert made["effective_base_url"] == "https://api.openai.com/v1"
    [warning] = made["warnings"]
    assert warning == (
        "'opnai' is not the name of a known vendor, so its requests and its key go to https://api.openai.com/v1, the "
        "address of kind 'openai'. Did you mean openai? Rename it, or set base_url."
    )
    patched = (await client.call("PATCH", f"{PATH}/{made['id']}", {"name": "openai"})).json
    assert (patched["warnings"], patched["effective_base_url"]) == ([], "https://api.openai.com/v1")


async def test_an_own_base_url_is_effective_until_it_is_set_to_null(client: Client) -> None:
    own = await created(client)
    assert own["effective_base_url"] == own["base_url"] == LEAST["base_url"]
    after = (await client.call("PATCH", f"{PATH}/{own['id']}", {"base_url": None})).json
    assert (after["base_url"], after["effective_base_url"]) == (None, "https://api.openai.com/v1")


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_a_preset_determines_the_providers_dialect(client: Client, name: str) -> None:
    made = await created(client, name=name, base_url=None)
    assert (made["kind"], made["base_url"]) == (name, None)


async def test_an_explicit_kind_overrides_the_presets(client: Client) -> None:
    assert (await created(client, name="anthropic", kind="openai"))["kind"] == "openai"
    assert (await created(client, name="acme", kind="gemini"))["kind"] == "gemini"


async def test_an_unknown_kind_or_protocol_is_rejected_with_the_known_ones(client: Client) -> None:
    async def told(**fields: object) -> str:
        problem = assert_problem(await client.call("POST", PATH, {**LEAST, **fields}), 422, "validation_error")
        return str(problem["detail"])

    assert (
        await told(kind="soap")
        == "kind: there is no provider kind 'soap': choose from openai, anthropic, gemini, local."
    )
    assert (await told(kind="openia")).endswith("choose from openai, anthropic, gemini, local. Did you mean openai?")
    assert (await told(protocols=["openai-chat"])).endswith(". Did you mean openai_chat?")
    every = "openai_chat, openai_responses, openai_embeddings, anthropic_messages, gemini_content"
    every += ", gemini_embeddings, gemini_batch_embeddings"
    assert await told(protocols=["soap"]) == f"protocols: there is no protocol 'soap': choose from {every}."
    assert await told(protocols=["gemini_content"] * 2) == "protocols: gemini_content is named twice; name it once."
    assert await told(kind="anthropic", protocols=["openai_chat"]) == (
        "protocols: A provider of kind 'anthropic' does not support the protocol 'openai_chat': choose from "
        "anthropic_messages."
    )


async def test_changing_the_kind_to_one_without_the_protocols_is_rejected(client: Client) -> None:
    own = await created(client, protocols=["openai_responses"])
    path = f"{PATH}/{own['id']}"

    problem = assert_problem(await client.call("PATCH", path, {"kind": "anthropic"}), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", "protocols"]

    both = {"kind": "anthropic", "protocols": ["anthropic_messages"]}
    assert (await client.call("PATCH", path, both)).json["protocols"] == ["anthropic_messages"]


async def test_the_openapi_document_lists_all_kinds_and_protocols(client: Client) -> None:
    fields = (await client.call("GET", "/openapi.json")).json["components"]["schemas"]["ProviderCreate"]["properties"]

    [kind] = [each for each in fields["kind"]["anyOf"] if each["type"] != "null"]
    assert kind["enum"] == list(DIALECTS)
    [protocols] = [each for each in fields["protocols"]["anyOf"] if each["type"] != "null"]
    assert protocols["items"]["enum"] == list(all_protocols())


async def test_a_local_provider_requires_the_running_embedded_model(client: Client) -> None:
    body = {**LEAST, "kind": "local", "base_url": None}
    problem = assert_problem(await client.call("POST", PATH, body), 422, "validation_error")
    assert "LLM_GATEWAY_LOCAL_MODEL=true" in problem["detail"]


async def test_renaming_a_presets_provider_keeps_the_address_of_its_kind(client: Client) -> None:
    provider = await created(client, name="groq", base_url=None)
    renamed = (await client.call("PATCH", f"{PATH}/{provider['id']}", {"name": "groq-2"})).json
    assert renamed["effective_base_url"] == "https://api.openai.com/v1"
    assert "Did you mean groq?" in renamed["warnings"][0]
