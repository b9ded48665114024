"""Protection of providers' API keys: they are never shown, and in production are sent to public addresses only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.management.provider_rules import ProviderRules
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import Invalid
from llm_gateway.providers.presets import load_presets
from llm_gateway.upstream.egress import Egress
from tests.application.driver import Client, Response, assert_problem
from tests.application.fixtures import Start
from tests.control.management.test_providers import CANARY, LEAST, PATH, PRODUCTION, created
from tests.upstream import MockUpstream
from tests.worker.pipeline.fakes import provider

SERVICE_KEY = "0123456789abcdef" * 2


async def everything(client: Client, base_url: str) -> list[Response]:
    """Send requests that involve the key, some of which fail. Returns the responses."""
    own = await created(client, base_url=base_url)
    one = f"{PATH}/{own['id']}"
    ask = {"user_id": "u", "service": "s", "prompt": "Hi"}
    soon = {"x-request-timeout-ms": "180"}  # too short for a second attempt at the same provider
    answers = [await client.call("POST", "/api/v1/generate", ask)]
    for word in ("status-401", "status-400", "status-500", "garbage", "echo"):
        answers.append(await client.call("PATCH", one, {"models": [word]}))
        answers.append(
            await client.call("POST", "/api/v1/generate", {**ask, "prompt": f"{word} {CANARY}"}, headers=soon)
        )
    answers += [
        await client.call("POST", PATH, LEAST),
        await client.call("POST", PATH, {**LEAST, "colour": CANARY}),
        await client.call("POST", PATH, {**LEAST, "api_key": [CANARY]}),
        await client.call("POST", PATH, {**LEAST, "api_key": CANARY * 400}),
        await client.call("POST", PATH, {**LEAST, "base_url": f"http://{CANARY}@x"}),
        await client.call("PATCH", one, {"api_key": CANARY + "\n"}),
        await client.call("POST", "/api/v1/generate", {**ask, "prompt": "once more"}, headers=soon),
        await client.call("PATCH", one, {"api_key": CANARY, "nonsense": 1}),
        await client.call("PATCH", one, {"models": ["leak"]}),
        await client.call("POST", "/api/v1/generate", {**ask, "prompt": "the key is refused"}),
        await client.call("POST", "/api/v1/generate", {**ask, "prompt": "and again, which is logged"}),
    ]
    for path in (PATH, one, "/api/v1/health/providers", "/api/v1/usage/summary", "/metrics", "/openapi.json"):
        answers.append(await client.call("GET", path))
    answers.append(await client.call("DELETE", one))
    return answers


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("console", ["json", "console"])
async def test_a_stored_key_appears_in_no_response_file_or_log(
    start: Start, mock: MockUpstream, data_dir: Path, capfd: pytest.CaptureFixture[str], console: str
) -> None:
    mock.behave("status-500", model="canary")
    async with start(log_format=console, log_level="debug") as app:
        answers = await everything(Client(app), mock.base_url)
        files = contents(data_dir)
        assert any(path.parent.name != "data" for path in files), "the journal is looked through too"
    files.update(contents(data_dir))
    assert mock.calls[0].key == CANARY
    echoed = [answer for answer in answers if answer.status == 200 and CANARY.encode() in answer.body]
    assert all(b'"content"' in answer.body for answer in echoed), "only a prompt's own echo brings it back"
    for answer in answers:
        assert answer in echoed or CANARY not in f"{answer.headers}{answer.body!r}"
    output = capfd.readouterr()
    assert "provider account paused" in output.out
    assert CANARY not in output.out + output.err
    assert [path for path, content in files.items() if CANARY.encode() in content] == []


async def test_a_stored_key_cannot_be_read_without_the_encryption_key(start: Start, data_dir: Path) -> None:
    async with start() as app:
        await created(Client(app))
    (data_dir / "encryption.key").write_text("00" * 32)
    async with start() as app:
        client = Client(app)
        [found] = (await client.call("GET", "/api/v1/health/providers")).json["providers"]
        assert (found["name"], found["is_enabled"]) == ("acme", False)
        assert_problem(
            await client.call("POST", "/api/v1/generate", {"user_id": "u", "service": "s", "prompt": "p"}),
            503,
            "no_provider",
        )


FORBIDDEN_URLS = [
    "http://93.184.216.34/v1", "http://example.com/v1", "https://10.0.0.1/v1", "https://127.0.0.1", "https://[::1]/",
    "https://localhost/v1", "https://169.254.169.254/latest", "https://192.168.1.1", "https://172.16.0.1",
    "https://100.64.0.1", "https://168.63.129.16", "https://192.0.0.192", "https://0.0.0.0", "https://2130706433/",
    "https://0x7f.1/", "https://0177.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://[64:ff9b::a00:1]/",
    "https://[fe80::1]/", "https://[fd00::1]/", "https://" + "x" * 70 + ".example/",
]  # fmt: skip


async def test_production_calls_public_addresses_over_https_only(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        client = Client(app, SERVICE_KEY)
        for url in FORBIDDEN_URLS:
            response = await client.call("POST", PATH, {**LEAST, "base_url": url})
            problem = assert_problem(response, 422, "validation_error")
            assert problem["errors"][0]["loc"] == ["body", "base_url"]


async def test_production_calls_private_hosts_that_the_settings_allow(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        client = Client(app, SERVICE_KEY)
        urls = (
            "https://93.184.216.34/v1",
            "http://10.1.2.3/v1",
            "http://internal.example",
            "http://INTERNAL.example:1",
        )
        for number, url in enumerate(urls):
            assert (await created(client, name=f"p{number}", base_url=url))["base_url"] == url


async def test_in_production_a_new_origin_needs_the_key_again(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        client = Client(app, SERVICE_KEY)
        one = f"{PATH}/{(await created(client, base_url='https://93.184.216.34/v1'))['id']}"

        async def patch(**changes: Any) -> Response:
            return await client.call("PATCH", one, changes)

        moved = await patch(base_url="https://93.184.216.35/v1")
        assert assert_problem(moved, 422, "validation_error")["errors"][0]["loc"] == ["body", "api_key"]
        assert (await patch(base_url="https://93.184.216.34/v2")).status == 200
        assert_problem(await patch(base_url="https://93.184.216.34:444/v2"), 422, "validation_error")
        assert_problem(await patch(base_url="http://10.1.2.3/v2"), 422, "validation_error")
        assert_problem(await patch(name="openai", base_url=None), 422, "validation_error")
        assert (await patch(base_url="https://93.184.216.35/v1", api_key="sk-new")).status == 200
        assert (await patch(priority=1)).status == 200


async def test_in_dev_a_new_origin_does_not_need_the_key_again(client: Client) -> None:
    made = await created(client)
    response = await client.call("PATCH", f"{PATH}/{made['id']}", {"base_url": "http://other.example/v1"})
    assert response.status == 200


async def test_a_provider_with_a_forbidden_address_can_still_be_disabled(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        made = await created(Client(app, SERVICE_KEY), base_url="http://10.1.2.3/v1")
    async with start(**{**PRODUCTION, "allowed_private_hosts": ""}) as app:
        client = Client(app, SERVICE_KEY)
        one = f"{PATH}/{made['id']}"
        assert (await client.call("PATCH", one, {"is_enabled": False})).json["is_enabled"] is False
        assert_problem(await client.call("PATCH", one, {"base_url": "http://10.1.2.3/v2"}), 422, "validation_error")
        assert (await client.call("DELETE", one)).status == 204


async def test_a_missing_database_is_a_503(client: Client, data_dir: Path) -> None:
    await created(client)
    (data_dir / "gateway.db").rename(data_dir / "moved.db")
    for method, path, body in (("GET", PATH, b""), ("POST", PATH, LEAST), ("DELETE", f"{PATH}/{new_id()}", b"")):
        response = await client.call(method, path, body)
        assert_problem(response, 503, "database_unavailable")
        assert response.headers["retry-after"]
        assert response.headers["x-should-retry"] == "true"
    async with asyncio.timeout(5):  # control checks the database once a second
        while (await client.call("GET", "/api/v1/health")).json["status"] != "degraded":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_presets_of_servers_on_this_machine_are_private_too(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        client = Client(app, SERVICE_KEY)
        for name in ("ollama", "vllm", "lmstudio"):
            assert_problem(
                await client.call("POST", PATH, {**LEAST, "name": name, "base_url": None}), 422, "validation_error"
            )
        assert (await created(client, name="openai", base_url=None))["base_url"] is None
    async with start(**{**PRODUCTION, "allowed_private_hosts": "localhost"}) as app:
        assert (await created(Client(app, SERVICE_KEY), name="ollama", base_url=None))["kind"] == "openai"


def test_a_kind_that_another_version_stored_does_not_forbid_other_changes() -> None:
    rules = ProviderRules(load_presets(), Egress(strict=False), lambda: None)
    smoke = provider("acme", kind="smoke", base_url="http://127.0.0.1:9/v1", protocols=("smoke_signals",))
    rules.check(smoke, {"name"})
    assert rules.effective_base_url("acme", "smoke", None) is None
    with pytest.raises(Invalid, match="base_url is required: there is no default for the kind 'smoke'"):
        rules.check(provider("acme", kind="smoke"), {"base_url"})


async def test_the_embedded_model_can_be_configured_while_it_runs() -> None:
    rules = ProviderRules(load_presets(), Egress(strict=True), lambda: "http://127.0.0.1:1/v1")
    embedded = provider("local", kind="local")
    rules.check(embedded, {"kind"})
    assert rules.effective_base_url("local", "local", None) is None
    assert rules.needs_key_again(embedded, provider("local", kind="local", base_url="https://93.184.216.34"))
    assert not rules.needs_key_again(embedded, embedded)
    assert rules.effective_base_url("local", "openai", None) == "https://api.openai.com/v1"


async def test_in_production_a_kind_with_another_address_needs_the_key_again(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        client = Client(app, SERVICE_KEY)
        made = await created(client, base_url=None)
        one = f"{PATH}/{made['id']}"
        moved = await client.call("PATCH", one, {"kind": "anthropic"})
        assert assert_problem(moved, 422, "validation_error")["errors"][0]["loc"] == ["body", "api_key"]
        moved = await client.call("PATCH", one, {"kind": "anthropic", "api_key": "sk-ant-new"})
        assert moved.json["effective_base_url"] == "https://api.anthropic.com"


@pytest.mark.parametrize(
    ("name", "kind", "meant"),
    [
        ("opnai", "openai", "openai"),
        ("groq-eu", "openai", "groq"),
        ("my_mistral", "openai", "mistral"),
        ("antropic", "anthropic", "anthropic"),
        ("openai-2", "openai", None),
        ("acme", "openai", None),
        ("openai", "openai", None),
        ("local-2", "local", None),
    ],
)
def test_a_name_that_resembles_a_vendors_brings_a_warning(name: str, kind: str, meant: str | None) -> None:
    rules = ProviderRules(load_presets(), Egress(strict=True), lambda: None)
    warnings = rules.warnings(provider(name, kind=kind), {})
    assert [f"Did you mean {meant}?" in each for each in warnings] == ([True] if meant else [])
    assert rules.warnings(provider(name, kind=kind, base_url="https://93.184.216.34/v1"), {}) == []
