"""POST /providers/{id}/test: 200 for each known provider, with a sentence that says what to do on failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.management.probe import ERROR_CHARACTERS, TIMEOUT_S, Probe
from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.providers import openai
from llm_gateway.store.database import Database
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox, load_or_create_key_file
from llm_gateway.telemetry.redaction import Redactor
from tests.application.driver import READS_ONLY, Client, assert_problem
from tests.application.fixtures import Start
from tests.control.management.test_providers import CANARY, PATH, PRODUCTION, created
from tests.upstream import MockUpstream
from tests.worker.pipeline.fakes import KEY, provider


async def probed(client: Client, provider_id: str) -> Any:
    response = await client.call("POST", f"{PATH}/{provider_id}/test")
    assert response.status == 200, response.body
    assert set(response.json) == {"success", "error"}
    assert response.json["success"] is (response.json["error"] is None)
    return response.json["error"]


@pytest.mark.parametrize("is_enabled", [True, False])
async def test_a_provider_that_answers_passes_its_test(client: Client, mock: MockUpstream, is_enabled: bool) -> None:
    made = await created(client, base_url=mock.base_url, is_enabled=is_enabled)
    assert await probed(client, made["id"]) is None
    assert (mock.listed, mock.total) == (1, 0)


@READS_ONLY
@pytest.mark.parametrize("wrong", ["x", "7f0dd64a-7c99-46a2-b929-d289b146a19d", "%00"])
async def test_testing_an_unknown_id_is_404(reader: Client, wrong: str) -> None:
    assert_problem(await reader.call("POST", f"{PATH}/{wrong}/test"), 404, "not_found")


async def test_a_provider_is_tested_by_post_only(client: Client, mock: MockUpstream) -> None:
    made = await created(client, base_url=mock.base_url)
    response = await client.call("GET", f"{PATH}/{made['id']}/test")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert mock.listed == 0


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("status-401", "refused the key (401): set a valid api_key."),
        ("status-403", "refused the key (403)"),
        ("status-404", "no model list at that address (404): check base_url."),
        ("status-429", "limiting requests (429)"),
        ("status-500", "failed (500): try again later."),
        ("status-302", "redirects (302)"),
        ("status-400", "refused to list its models (400)"),
        ("reset", "The connection broke"),
        ("garbage", "The connection broke"),
    ],
)
async def test_each_failure_of_a_provider_is_explained(client: Client, mock: MockUpstream, key: str, says: str) -> None:
    made = await created(client, base_url=mock.base_url, api_key=key)
    assert says in await probed(client, made["id"])


async def test_an_address_where_nothing_listens_is_reported(client: Client) -> None:
    made = await created(client, base_url="http://127.0.0.1:1/v1")
    error = await probed(client, made["id"])
    assert error.startswith("No connection: ")
    assert error.endswith("Check base_url and the network in between.")


async def test_a_test_uses_the_latest_change_of_the_provider(client: Client, mock: MockUpstream) -> None:
    made = await created(client, base_url=mock.base_url, api_key="status-401")
    assert await probed(client, made["id"]) is not None
    await client.call("PATCH", f"{PATH}/{made['id']}", {"api_key": "sk-good", "name": "renamed"})
    assert await probed(client, made["id"]) is None


async def test_a_test_records_no_usage_and_takes_none_of_the_rate_limit(client: Client, mock: MockUpstream) -> None:
    made = await created(client, base_url=mock.base_url, models=["ok"], rate_limit_rpm=1)
    for _ in range(3):
        assert await probed(client, made["id"]) is None
    assert (await client.call("GET", "/api/v1/usage/summary")).json["total_requests"] == 0
    assert (await client.call("GET", "/api/v1/usage/by-provider")).json == []
    body = {"user_id": "u", "service": "s", "prompt": "p"}
    assert (await client.call("POST", "/api/v1/generate", body)).status == 200


async def test_a_provider_stored_by_another_process_can_be_tested(
    client: Client, mock: MockUpstream, data_dir: Path
) -> None:
    made = await created(client, base_url=mock.base_url, api_key="status-401")
    database = Database.open(f"sqlite:///{data_dir / 'gateway.db'}")
    elsewhere = ProviderStore(database, SecretBox(load_or_create_key_file(data_dir / "encryption.key")))
    elsewhere.update(made["id"], {"api_key": "sk-good"})
    assert await probed(client, made["id"]) is None
    database.close()


async def test_a_key_that_cannot_be_decrypted_is_reported(start: Start, data_dir: Path, mock: MockUpstream) -> None:
    async with start() as app:
        made = await created(Client(app), base_url=mock.base_url)
    (data_dir / "encryption.key").write_text("00" * 32)
    async with start() as app:
        error = await probed(Client(app), made["id"])
        assert error.startswith("The gateway cannot use this provider. ")
        assert "LLM_GATEWAY_ENCRYPTION_KEYS" in error
    assert mock.listed == 0


async def test_in_production_a_test_obeys_the_egress_rules(start: Start) -> None:
    async with start(**PRODUCTION) as app:
        made = await created(Client(app, "0123456789abcdef" * 2), base_url="https://10.1.2.3/v1")
    async with start(**{**PRODUCTION, "allowed_private_hosts": ""}) as app:
        error = await probed(Client(app, "0123456789abcdef" * 2), made["id"])
        assert "LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS" in error


async def test_a_missing_database_is_a_503(client: Client, data_dir: Path, mock: MockUpstream) -> None:
    made = await created(client, base_url=mock.base_url)
    (data_dir / "gateway.db").rename(data_dir / "moved.db")
    response = await client.call("POST", f"{PATH}/{made['id']}/test")
    assert_problem(response, 503, "database_unavailable")


async def nothing(_: Provider) -> None:
    """Do nothing with a provider that passed."""


async def said(exchange: UpstreamResult) -> str | None:
    async def list_models(asked: Provider, timeout_s: float) -> UpstreamResult:
        assert timeout_s == TIMEOUT_S <= 10
        return exchange

    return await Probe(list_models, {"openai": openai}, Redactor([KEY]), {}, nothing)(provider())


@pytest.mark.parametrize("body", [b'{"data": []}', b'{"models": [{"name": "x"}]}', b'[{"id": "m"}]'])
async def test_the_model_list_of_every_dialect_is_recognised(body: bytes) -> None:
    assert await said(UpstreamResult(200, body)) is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"data": {}}', b"[" * 9999, b"\xff", b"1", b'"data"'])
async def test_other_json_is_not_recognised_as_a_model_list(body: bytes) -> None:
    assert await said(UpstreamResult(200, body)) == (
        "The provider answered 200, but with no list of models: check base_url."
    )


async def test_a_timeout_names_the_seconds_waited() -> None:
    assert await said(UpstreamResult(fault="timeout", message="x")) == (
        "No answer within 10 s: check base_url, or try again."
    )


@pytest.mark.parametrize("text", [f'{{"error": {{"message": "no {KEY} here"}}}}', f"x {KEY}" + "y" * 3000])
async def test_the_providers_error_message_is_redacted_and_cut(text: str) -> None:
    error = await said(UpstreamResult(401, text.encode()))
    assert error is not None
    assert KEY not in error
    assert "[redacted]" in error
    assert len(error) <= ERROR_CHARACTERS


async def test_a_key_in_the_providers_error_message_is_not_shown(client: Client, mock: MockUpstream) -> None:
    made = await created(client, base_url=mock.base_url.replace("/v1", f"/{CANARY}"))
    error = await probed(client, made["id"])
    assert CANARY not in error
