"""Kinds, protocols and addresses of providers: what a preset brings, and what is rejected."""

from __future__ import annotations

from typing import Any

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


async def test_a_kind_that_was_never_set_follows_a_rename_to_a_preset(client: Client) -> None:
    """Each rename gives what a provider with that name would have been created with, unless something was set."""
    provider = await created(client, name="anthropik", base_url=None)
    path = f"{PATH}/{provider['id']}"
    addresses = {
        "anthropic": "https://api.anthropic.com",
        "gemini": "https://generativelanguage.googleapis.com",
        "groq": "https://api.groq.com/openai/v1",
        "openai": "https://api.openai.com/v1",
    }
    for name in ("anthropic", "gemini", "groq", "anthropic", "openai", "gemini"):
        renamed = (await client.call("PATCH", path, {"name": name})).json
        kind = "openai" if name == "groq" else name
        assert (renamed["kind"], renamed["effective_base_url"], renamed["warnings"]) == (kind, addresses[name], [])

    rows: list[tuple[str, str, dict[str, Any], dict[str, Any], str]] = [
        ("no name of a preset brings a kind", "gemini", {}, {"name": "mine"}, "gemini"),
        ("an address of its own stays, so its kind does", "m1", {"base_url": LEAST["base_url"]}, {}, "openai"),
        ("the address goes", "m2", {"base_url": LEAST["base_url"]}, {"base_url": None}, "anthropic"),
        ("a kind that was set stays", "m3", {"kind": "gemini"}, {}, "gemini"),
        ("a kind that is sent wins", "m4", {}, {"kind": "gemini"}, "gemini"),
        ("null is the kind of the name", "m5", {"kind": "gemini"}, {"kind": None}, "anthropic"),
    ]
    await client.call("DELETE", path)
    for why, own_name, fields, changes, kind in rows:
        made = await created(client, **{"name": own_name, "base_url": None, **fields})
        path = f"{PATH}/{made['id']}"
        assert (await client.call("PATCH", path, {"name": "anthropic", **changes})).json["kind"] == kind, why
        await client.call("DELETE", path)


async def test_a_kind_that_is_not_that_of_its_vendors_address_is_warned_of(client: Client) -> None:
    made = await created(client, name="anthropic", kind="openai", base_url=None)
    [warning] = made["warnings"]
    assert warning == (
        "Requests go to https://api.anthropic.com as kind 'openai', but the API of anthropic is of kind 'anthropic': "
        "set kind to null, or set base_url."
    )
    path = f"{PATH}/{made['id']}"
    assert (await client.call("PATCH", path, {"base_url": LEAST["base_url"]})).json["warnings"] == []
    mended = (await client.call("PATCH", path, {"kind": None, "base_url": None})).json
    assert (mended["kind"], mended["warnings"]) == ("anthropic", [])


async def test_names_of_models_that_lead_to_another_provider_are_warned_of(client: Client) -> None:
    both = {"models": ["gpt-4o", "gpt-4o-mini"], "model_aliases": {"fast*": "gpt-4o-mini"}}
    first = await created(client, name="openai", **both)
    router = await created(client, name="router", models=["openai/gpt-4o", "openai/other", "openai/fastest"])
    told = (
        "A request that names 'openai/gpt-4o' goes to the provider openai: name 'router/openai/gpt-4o' for this one. "
        "So does another name."
    )
    path = f"{PATH}/{router['id']}"
    assert (first["warnings"], router["warnings"]) == ([], [told])
    assert [each["warnings"] for each in (await client.call("GET", PATH)).json] == [[], [told]]
    assert (await client.call("GET", path)).json["warnings"] == [told]
    await client.call("PATCH", f"{PATH}/{first['id']}", {"is_enabled": False})
    assert (await client.call("GET", path)).json["warnings"] == []


async def test_a_model_that_is_called_auto_is_listed_once_and_named_with_its_provider(client: Client) -> None:
    """A gateway behind this one has such a model."""
    made = await created(client, models=["auto", "m"])
    [warning] = made["warnings"]
    assert warning == "A request that names 'auto' goes where the gateway chooses: name 'acme/auto' for this one."
    listed = (await client.call("GET", "/v1/models")).json["data"]
    assert [each["id"] for each in listed if "acme" in (each["id"], each["owned_by"]) or each["id"] == "auto"] == [
        *("auto", "acme/auto", "acme/m", "m"),
    ]
    asked = {"model": "none", "messages": [{"role": "user", "content": "Hi"}]}
    told = (await client.call("POST", "/v1/chat/completions", asked)).json["error"]["message"]
    assert "Available models: auto, m;" in told


async def test_renaming_a_presets_provider_keeps_the_address_of_its_kind(client: Client) -> None:
    provider = await created(client, name="groq", base_url=None)
    renamed = (await client.call("PATCH", f"{PATH}/{provider['id']}", {"name": "groq-2"})).json
    assert renamed["effective_base_url"] == "https://api.openai.com/v1"
    assert "Did you mean groq?" in renamed["warnings"][0]
