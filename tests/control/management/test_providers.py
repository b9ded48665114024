"""Provider endpoints: create, list, get, patch and delete, over the gateway's application in the test process."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.application.driver import READS_ONLY, Client, assert_problem
from tests.upstream import MockUpstream

PATH = "/api/v1/providers"
CANARY = "sk-canary-3f9b2c7e1d"
LEAST = {
    "name": "acme",
    "display_name": "Acme",
    "api_key": CANARY,
    "models": ["m"],
    "base_url": "http://127.0.0.1:9/v1",
}
SHOWN = {
    "id", "name", "display_name", "base_url", "models", "is_enabled", "rate_limit_rpm", "rate_limit_tpm", "priority",
    "created_at", "updated_at",
}  # fmt: skip
MORE = {
    "kind", "prices", "timeout_s", "protocols", "effective_base_url", "model_aliases", "context_window",
    "max_output_tokens", "trace", "warnings",
}  # fmt: skip
PRODUCTION = {
    "env": "production",
    "service_keys": "ops:" + "0123456789abcdef" * 2,
    "encryption_keys": "0123456789abcdef" * 4,
    "allowed_private_hosts": "internal.example, 10.1.2.3",
}


async def created(client: Client, **fields: object) -> Any:
    response = await client.call("POST", PATH, {**LEAST, **fields})
    assert response.status == 201, response.body
    return response.json


async def test_a_provider_from_creation_to_deletion(client: Client) -> None:
    assert (await client.call("GET", PATH)).json == []
    provider = await created(client)
    assert set(provider) == SHOWN | MORE
    one = f"{PATH}/{provider['id']}"
    assert (await client.call("GET", PATH)).json == [provider]
    assert (await client.call("GET", one)).json == provider
    patched = (await client.call("PATCH", one, {"display_name": "Acme Inc."})).json
    assert patched == {**provider, "display_name": "Acme Inc.", "updated_at": patched["updated_at"]}
    response = await client.call("DELETE", one)
    assert (response.status, response.body) == (204, b"")
    assert response.headers["x-request-id"]
    assert (await client.call("GET", PATH)).json == []
    for method in ("GET", "PATCH", "DELETE"):
        assert_problem(await client.call(method, one, {} if method == "PATCH" else b""), 404, "not_found")


async def test_omitted_fields_have_the_defaults_of_the_reference(client: Client) -> None:
    provider = await created(client)
    assert UUID(provider["id"]).version == 7
    assert provider["is_enabled"] is True
    assert (provider["rate_limit_rpm"], provider["rate_limit_tpm"], provider["priority"]) == (60, 100_000, 10)
    assert (provider["kind"], provider["prices"], provider["timeout_s"]) == ("openai", None, 60.0)
    assert provider["protocols"] is None
    assert (provider["model_aliases"], provider["context_window"], provider["max_output_tokens"]) == (None, None, None)
    assert (provider["trace"], provider["warnings"]) == (False, [])
    for name in ("created_at", "updated_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", provider[name])
        assert abs((datetime.now(UTC) - datetime.fromisoformat(provider[name])).total_seconds()) < 5


async def test_all_fields_of_a_new_provider_are_stored(client: Client) -> None:
    said = {
        "name": "a" + "-_9" * 20 + "xy", "display_name": "Ünïcode ☃", "models": ["b", "a"], "is_enabled": False,
        "rate_limit_rpm": 1, "rate_limit_tpm": 2, "priority": -5, "kind": "local", "timeout_s": 0.5,
        "base_url": "https://[2001:db8::1]:8443/v1/", "prices": {"b": {"input": 2.5, "output": 10}},
        "protocols": ["openai_embeddings", "openai_chat"], "model_aliases": {"claude-*": "b", "a/*": "a"},
        "context_window": {"b": 8192}, "max_output_tokens": 4096, "trace": True,
    }  # fmt: skip
    provider = await created(client, **said)
    assert {name: provider[name] for name in said} == said


async def test_the_list_is_an_array_ordered_by_priority(client: Client) -> None:
    for name, priority in (("b", 1), ("a", 1), ("z", 99)):
        await created(client, name=name, priority=priority)
    assert [provider["name"] for provider in (await client.call("GET", PATH)).json] == ["z", "a", "b"]


async def test_a_second_provider_of_the_same_name_is_a_conflict(client: Client) -> None:
    first = await created(client)
    response = await client.call("POST", PATH, {**LEAST, "display_name": "Other"})
    assert_problem(response, 409, "conflict")
    assert response.headers["x-should-retry"] == "false"
    other = await created(client, name="other")
    assert_problem(await client.call("PATCH", f"{PATH}/{other['id']}", {"name": "acme"}), 409, "conflict")
    assert (await client.call("GET", f"{PATH}/{other['id']}")).json == other
    assert (await client.call("PATCH", f"{PATH}/{first['id']}", {"name": "acme"})).status == 200


@READS_ONLY
@pytest.mark.parametrize(
    "wrong", ["x", "7f0dd64a-7c99-46a2-b929-d289b146a19d", "00000000", "..", "%00", "a" * 5000, "' OR 1=1 --"]
)
async def test_an_unknown_provider_id_is_404(reader: Client, wrong: str) -> None:
    for method, body in (("GET", b""), ("PATCH", {"priority": 1}), ("DELETE", b"")):
        assert_problem(await reader.call(method, f"{PATH}/{wrong}", body), 404, "not_found")


UNFIT = [
    ("name", "Acme"), ("name", ""), ("name", "-a"), ("name", "a" * 64), ("name", "a b"), ("name", "a\n"), ("name", 1),
    ("name", None), ("display_name", ""), ("display_name", None), ("display_name", "x" * 201), ("api_key", ""),
    ("api_key", None), ("api_key", 5), ("api_key", "sk-x\n"), ("api_key", " sk-x"), ("api_key", "sk-\u00e9"),
    ("api_key", "sk\x00"), ("display_name", "a\x00"), ("display_name", "a\n"), ("models", ["m\x00"]),
    ("models", []), ("models", None), ("models", "m"), ("models", [""]),
    ("models", [1]), ("models", {"m": 1}), ("is_enabled", None), ("is_enabled", 1), ("is_enabled", "true"),
    ("rate_limit_rpm", 0), ("rate_limit_rpm", -1), ("rate_limit_rpm", None), ("rate_limit_rpm", "60"),
    ("rate_limit_rpm", 1.5), ("rate_limit_rpm", True), ("rate_limit_tpm", 0), ("rate_limit_tpm", 10**20),
    ("priority", 0.5), ("priority", None), ("priority", 2**40), ("kind", "nonsense"), ("kind", "OPENAI"), ("kind", 1),
    ("timeout_s", 0), ("timeout_s", -1), ("timeout_s", 1e9), ("timeout_s", None), ("timeout_s", "60"),
    ("prices", {"m": {"input": -1, "output": 1}}), ("prices", {"m": {"nonsense": 1}}), ("prices", {"m": 1}),
    ("prices", {f"m{n}": {"input": 1, "output": 1} for n in range(1001)}),
    ("protocols", []), ("protocols", "openai_chat"), ("protocols", ["soap"]), ("protocols", [1]), ("protocols", [None]),
    ("protocols", ["openai_chat", "openai_chat"]), ("protocols", {"openai_chat": True}),
    ("model_aliases", []), ("model_aliases", "m"), ("model_aliases", {"": "m"}), ("model_aliases", {"x" * 201: "m"}),
    ("model_aliases", {"a": 1}), ("model_aliases", {"a": None}), ("model_aliases", {"a\n": "m"}),
    ("model_aliases", {f"a{n}": "m" for n in range(101)}), ("model_aliases", {"auto": "m"}),
    ("context_window", 0), ("context_window", 1.5), ("context_window", "8k"),
    ("context_window", True), ("context_window", []), ("context_window", {"m": 0}), ("context_window", {"m": "8k"}),
    ("context_window", 10**10),
    ("max_output_tokens", -1), ("trace", None), ("trace", 1),
    ("prices", []), ("colour", "red"), ("id", "7f0dd64a-7c99-46a2-b929-d289b146a19d"),
]  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_an_invalid_field_of_a_provider_is_named(client: Client, method: str) -> None:
    provider = await created(client, name="there")
    path, rest = (PATH, LEAST) if method == "POST" else (f"{PATH}/{provider['id']}", {})
    for field, value in UNFIT:
        problem = assert_problem(await client.call(method, path, {**rest, field: value}), 422, "validation_error")
        assert problem["errors"][0]["loc"][:2] == ["body", field]
        assert field in problem["detail"]
    assert (await client.call("GET", PATH)).json == [provider]


@pytest.mark.parametrize("field", ["name", "display_name", "api_key", "models"])
async def test_a_provider_without_a_required_field_is_rejected(client: Client, field: str) -> None:
    body = {name: value for name, value in LEAST.items() if name != field}
    problem = assert_problem(await client.call("POST", PATH, body), 422, "validation_error")
    assert (problem["errors"][0]["loc"], problem["errors"][0]["type"]) == (["body", field], "missing")


NO_OBJECT = [
    b"", b"{", b"null", b"[]", b'"x"', b"\xff", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b'{"priority": NaN}',
    b'{"priority": 1e999}', b'{"priority": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 50_000,
    b"name=acme&models=m",
]  # fmt: skip


async def test_a_body_that_is_not_an_object_is_a_422(client: Client) -> None:
    provider = await created(client)
    for body in NO_OBJECT:
        for method, path in (("POST", PATH), ("PATCH", f"{PATH}/{provider['id']}")):
            assert_problem(await client.call(method, path, body), 422, "validation_error")


async def test_a_body_with_another_content_type_is_accepted(client: Client) -> None:
    for number, said in enumerate(("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "")):
        body = {**LEAST, "name": f"p{number}"}
        assert (await client.call("POST", PATH, body, headers={"content-type": said})).status == 201


async def test_a_compressed_body_is_a_415(client: Client) -> None:
    response = await client.call("POST", PATH, LEAST, headers={"content-encoding": "gzip"})
    assert_problem(response, 415, "coding_not_supported")
    assert response.headers["accept-encoding"] == "identity"


async def test_a_body_over_four_mebibytes_is_a_413(client: Client) -> None:
    response = await client.call("POST", PATH, {**LEAST, "display_name": "x" * 4 * 1024 * 1024})
    assert_problem(response, 413, "payload_too_large")


async def test_an_alias_of_a_model_that_is_not_listed_is_rejected(client: Client) -> None:
    body = {**LEAST, "models": ["gpt-5-mini", "gpt-5"], "model_aliases": {"claude-*": "gpt-5-mimi"}}
    problem = assert_problem(await client.call("POST", PATH, body), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", "model_aliases", "claude-*"]
    assert problem["detail"] == (
        "model_aliases: 'claude-*' leads to 'gpt-5-mimi', which is not in models: choose from gpt-5-mini, gpt-5. "
        "Did you mean gpt-5-mini?"
    )
    own = await created(client)
    patch = await client.call("PATCH", f"{PATH}/{own['id']}", {"model_aliases": {"a": "gone"}})
    assert assert_problem(patch, 422, "validation_error")["detail"] == (
        "model_aliases: 'a' leads to 'gone', which is not in models: choose from m."
    )


async def test_a_model_that_an_alias_needs_cannot_be_removed_alone(client: Client) -> None:
    own = await created(client, models=["m", "n"], model_aliases={"*": "n"})
    path = f"{PATH}/{own['id']}"
    problem = assert_problem(await client.call("PATCH", path, {"models": ["m"]}), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", "models"]
    assert problem["detail"] == (
        "models: the alias '*' needs 'n': keep it, or change model_aliases in the same request."
    )
    assert (await client.call("GET", path)).json == own
    both = {"models": ["m"], "model_aliases": {"*": "m"}}
    assert (await client.call("PATCH", path, both)).json["model_aliases"] == {"*": "m"}
    assert (await client.call("PATCH", path, {"models": ["n"], "model_aliases": None})).json["models"] == ["n"]


async def test_a_token_limit_of_a_model_that_is_not_listed_is_rejected(client: Client) -> None:
    body = {**LEAST, "models": ["gpt-5"], "context_window": {"gtp-5": 400_000}}
    problem = assert_problem(await client.call("POST", PATH, body), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", "context_window", "gtp-5"]
    assert problem["detail"].endswith("'gtp-5' is not in models: choose from gpt-5. Did you mean gpt-5?")
    made = await created(client, context_window={"m": 8192.0})
    assert made["context_window"] == {"m": 8192}
    path = f"{PATH}/{made['id']}"
    assert_problem(await client.call("PATCH", path, {"max_output_tokens": {"gone": 1}}), 422, "validation_error")
    assert (await client.call("PATCH", path, {"models": ["n"]})).status == 200


async def test_a_misspelt_field_of_a_provider_is_suggested(client: Client) -> None:
    for wrong, meant in (("model_alias", "model_aliases"), ("contextWindow", "context_window"), ("traces", "trace")):
        problem = assert_problem(await client.call("POST", PATH, {**LEAST, wrong: None}), 422, "validation_error")
        assert meant in problem["detail"]


UNFIT_URLS = [
    "", "x", "example.com/v1", "//example.com", "ftp://example.com", "file:///etc/passwd", "http://", "http:///v1",
    "http://example.com?x=1", "http://example.com/?", "http://example.com#f", "http://u:p@example.com",
    "http://u@example.com", "http://@example.com", "http://example.com:99999", "http://example.com:x",
    "http://example.com:0", "http://example.com:0000",
    "http://[::1", "http://exa mple.com", "http://example.com/\n", "\thttp://example.com", "http://exam\x00ple.com",
    "http://example.com\\@evil.example", "http://ex\u00e4mple.com", "http://%31%32%37.0.0.1/",
    "http://example.com/" + "x" * 2000, "http://[fe80::1%25eth0]/", "javascript:alert(1)",
]  # fmt: skip


async def test_an_invalid_base_url_is_rejected(client: Client) -> None:
    for url in UNFIT_URLS:
        problem = assert_problem(await client.call("POST", PATH, {**LEAST, "base_url": url}), 422, "validation_error")
        assert problem["errors"][0]["loc"] == ["body", "base_url"]


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/v1", "https://api.example.com", "http://10.0.0.1/", "HTTPS://Api.Example.COM/v1"]
)
async def test_dev_accepts_any_base_url_and_returns_it_unchanged(client: Client, url: str) -> None:
    assert (await created(client, base_url=url))["base_url"] == url


async def test_patch_changes_only_what_is_sent(client: Client) -> None:
    before = await created(client, priority=3, prices={"m": {"input": 1, "output": 2}})
    path = f"{PATH}/{before['id']}"
    changes: dict[str, object] = {
        "name": "renamed", "display_name": "New", "base_url": "https://new.example/v1", "models": ["x", "y"],
        "is_enabled": False, "rate_limit_rpm": 7, "rate_limit_tpm": 8, "priority": 9, "timeout_s": 1.5,
        "prices": {"x": {"input": 0, "output": 0}}, "kind": "local", "protocols": ["openai_embeddings"],
        "model_aliases": {"*": "y"}, "context_window": {"x": 1, "y": 2}, "max_output_tokens": 3, "trace": True,
    }  # fmt: skip
    for name, value in changes.items():
        after = (await client.call("PATCH", path, {name: value})).json
        assert after["updated_at"] > before["updated_at"]
        derived = {"effective_base_url": value} if name == "base_url" else {}
        assert after == {**before, name: value, "updated_at": after["updated_at"], **derived}
        before = after
    assert (await client.call("PATCH", path, {})).json == before
    assert (await client.call("PATCH", path, {"api_key": "sk-other"})).status == 200


async def test_null_is_accepted_only_for_nullable_fields(client: Client) -> None:
    prices = {"m": {"input": 1, "output": 2}}
    more = {"model_aliases": {"*": "m"}, "context_window": 1, "max_output_tokens": {"m": 1}}
    before = await created(client, name="groq", kind="local", prices=prices, protocols=["openai_chat"], **more)
    path = f"{PATH}/{before['id']}"
    nullable = ("kind", "prices", "base_url", "protocols", "model_aliases", "context_window", "max_output_tokens")
    changes = dict.fromkeys(nullable)
    after = (await client.call("PATCH", path, changes)).json
    fixed = {"kind": "openai", "effective_base_url": "https://api.groq.com/openai/v1"}
    assert after == {**before, **changes, **fixed, "updated_at": after["updated_at"]}


async def test_an_unsupported_method_is_405_and_lists_the_supported(client: Client) -> None:
    response = await client.call("DELETE", PATH)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, POST"
    response = await client.call("PUT", f"{PATH}/{uuid4()}", LEAST)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, GET, HEAD, PATCH"
    assert_problem(await client.call("GET", PATH + "/"), 404, "not_found")
    response = await client.call("POST", "/openapi.json")
    assert response.headers["allow"] == "GET, HEAD"


async def test_concurrent_creations_of_a_provider_create_one(client: Client) -> None:
    answers = await asyncio.gather(*(client.call("POST", PATH, LEAST) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7


async def ask(client: Client, prompt: str = "Hello") -> Any:
    body = {"user_id": "u", "service": "s", "prompt": prompt}
    return await client.call("POST", "/api/v1/generate", body, headers={"cache-control": "no-store"})


async def test_a_change_is_in_force_for_the_next_request(client: Client, mock: MockUpstream) -> None:
    assert_problem(await ask(client), 503, "no_provider")
    provider = await created(client, base_url=mock.base_url, models=["one", "two"])
    path = f"{PATH}/{provider['id']}"
    assert (await ask(client)).json["model"] == "one"
    await client.call("PATCH", path, {"models": ["two"], "name": "renamed", "api_key": "sk-second"})
    answer = (await ask(client)).json
    assert (answer["model"], answer["provider"]) == ("two", "renamed")
    assert [call.key for call in mock.calls] == [CANARY, "sk-second"]
    await client.call("PATCH", path, {"is_enabled": False})
    assert_problem(await ask(client), 503, "no_provider")
    await client.call("PATCH", path, {"is_enabled": True})
    assert (await ask(client)).status == 200
    await client.call("DELETE", path)
    assert_problem(await ask(client), 503, "no_provider")
    assert mock.total == 3
