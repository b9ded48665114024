"""Override endpoints: create, list, delete, and their effect on the next request."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from llm_gateway.domain.uuid7 import new_id
from tests.application.driver import READS_ONLY, Client, Response, assert_problem
from tests.control.management.test_providers import PATH as PROVIDERS
from tests.control.management.test_providers import created
from tests.upstream import MockUpstream

PATH = "/api/v1/overrides"
LEAST = {"user_id": "u", "provider_name": "acme", "model_name": "m"}
SHOWN = {
    "id", "user_id", "service_name", "provider_name", "model_name", "created_at", "updated_at", "allow_fallback",
}  # fmt: skip


@pytest.fixture
async def acme(client: Client) -> Any:
    return await created(client, models=["m", "other"])


async def overridden(client: Client, **fields: object) -> Any:
    response = await client.call("POST", PATH, {**LEAST, **fields})
    assert response.status == 201, response.body
    return response.json


async def ask(client: Client, user: str = "u", service: str = "s") -> Response:
    body = {"user_id": user, "service": service, "prompt": "Hello"}
    return await client.call("POST", "/api/v1/generate", body, headers={"cache-control": "no-store"})


async def served_by(client: Client, user: str = "u", service: str = "s") -> str:
    answer = (await ask(client, user, service)).json
    return f"{answer['provider']}/{answer['model']}"


@pytest.mark.usefixtures("acme")
async def test_an_override_from_creation_to_deletion(client: Client) -> None:
    assert (await client.call("GET", PATH)).json == []
    override = await overridden(client, service_name="chat")
    assert set(override) == SHOWN
    assert UUID(override["id"]).version == 7
    assert {name: override[name] for name in LEAST} == LEAST
    assert (override["service_name"], override["allow_fallback"]) == ("chat", True)
    assert override["created_at"] == override["updated_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", override["created_at"])
    assert (await client.call("GET", PATH)).json == [override]
    response = await client.call("DELETE", f"{PATH}/{override['id']}")
    assert (response.status, response.body) == (204, b"")
    assert response.headers["x-request-id"]
    assert "content-type" not in response.headers
    assert (await client.call("GET", PATH)).json == []
    assert_problem(await client.call("DELETE", f"{PATH}/{override['id']}"), 404, "not_found")


@pytest.mark.usefixtures("acme")
async def test_an_override_without_a_service_applies_to_all_services(client: Client) -> None:
    assert (await overridden(client))["service_name"] is None
    assert (await overridden(client, user_id="v", service_name=None))["service_name"] is None


@pytest.mark.usefixtures("acme")
async def test_the_list_is_sorted_and_can_be_filtered_by_customer(client: Client) -> None:
    for user, service in (("b", None), ("a", "z"), ("a", None), ("ü&=x", "c")):
        await overridden(client, user_id=user, service_name=service)

    async def listed(query: str = "") -> list[tuple[str, str | None]]:
        return [(o["user_id"], o["service_name"]) for o in (await client.call("GET", PATH + query)).json]

    assert await listed() == [("a", None), ("a", "z"), ("b", None), ("ü&=x", "c")]
    assert await listed("?user_id=a") == [("a", None), ("a", "z")]
    assert await listed("?user_id=%C3%BC%26%3Dx") == [("ü&=x", "c")]
    assert await listed("?user_id=A") == []
    assert await listed("?user_id=%25") == []


@READS_ONLY
@pytest.mark.parametrize("user", ["", "a%00b", "x" * 257])
async def test_listing_an_invalid_customer_is_a_422(reader: Client, user: str) -> None:
    problem = assert_problem(await reader.call("GET", f"{PATH}?user_id={user}"), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["query", "user_id"]


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("service", [None, "chat"])
async def test_a_second_override_for_the_same_customer_and_service_is_a_conflict(
    client: Client, service: str | None
) -> None:
    first = await overridden(client, service_name=service)
    response = await client.call("POST", PATH, {**LEAST, "service_name": service, "model_name": "other"})
    assert_problem(response, 409, "conflict")
    assert response.headers["x-should-retry"] == "false"
    await overridden(client, service_name="zoo")
    await overridden(client, user_id="v", service_name=service)
    assert (await client.call("GET", f"{PATH}?user_id=u")).json[0] == first


@pytest.mark.usefixtures("acme")
async def test_concurrent_creations_of_an_override_create_one(client: Client) -> None:
    answers = await asyncio.gather(*(client.call("POST", PATH, LEAST) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7


UNFIT = [
    ("user_id", ""), ("user_id", None), ("user_id", 1), ("user_id", "x" * 257), ("user_id", "a\x00"),
    ("service_name", ""), ("service_name", 1), ("service_name", "x" * 257), ("service_name", "\x00"),
    ("provider_name", ""), ("provider_name", None), ("provider_name", "nobody"), ("provider_name", "Acme"),
    ("provider_name", "acme\x00"), ("model_name", ""), ("model_name", None), ("model_name", "M"), ("model_name", ["m"]),
    ("allow_fallback", None), ("allow_fallback", 1), ("allow_fallback", "false"), ("colour", "red"), ("id", "x"),
]  # fmt: skip


@pytest.mark.usefixtures("acme")
async def test_an_invalid_field_of_an_override_is_named(client: Client) -> None:
    for field, value in UNFIT:
        problem = assert_problem(await client.call("POST", PATH, {**LEAST, field: value}), 422, "validation_error")
        assert problem["errors"][0]["loc"][:2] == ["body", field]
    assert (await client.call("GET", PATH)).json == []


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("field", sorted(LEAST))
async def test_an_override_without_a_required_field_is_rejected(client: Client, field: str) -> None:
    body = {name: value for name, value in LEAST.items() if name != field}
    problem = assert_problem(await client.call("POST", PATH, body), 422, "validation_error")
    assert (problem["errors"][0]["loc"], problem["errors"][0]["type"]) == (["body", field], "missing")


async def test_an_override_can_name_a_disabled_provider(client: Client) -> None:
    await created(client, is_enabled=False)
    assert (await overridden(client))["provider_name"] == "acme"


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("wrong", ["x", "7f0dd64a-7c99-46a2-b929-d289b146a19d", "..", "%00", "a" * 5000, "' OR 1=1 --"])
async def test_an_unknown_override_id_is_404(client: Client, wrong: str) -> None:
    kept = await overridden(client)
    assert_problem(await client.call("DELETE", f"{PATH}/{wrong}"), 404, "not_found")
    assert (await client.call("GET", PATH)).json == [kept]


async def test_an_unsupported_method_is_405_and_lists_the_supported(client: Client) -> None:
    response = await client.call("PUT", PATH)
    assert_problem(response, 405, "method_not_allowed")
    assert "POST" in response.headers["allow"].split(", ")
    response = await client.call("PATCH", f"{PATH}/{new_id()}")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE"


async def test_an_override_is_in_force_for_the_next_request(client: Client, mock: MockUpstream) -> None:
    await created(client, name="first", base_url=mock.base_url, models=["one"], priority=20)
    await created(client, name="acme", base_url=mock.base_url, models=["m", "other"])
    assert await served_by(client) == "first/one"
    everywhere = await overridden(client, model_name="other")
    assert await served_by(client) == "acme/other"
    assert await served_by(client, user="v") == "first/one"
    chat = await overridden(client, service_name="chat", provider_name="first", model_name="one")
    assert await served_by(client, service="chat") == "first/one"
    assert await served_by(client) == "acme/other"
    for override, service in ((chat, "chat"), (everywhere, "s")):
        await client.call("DELETE", f"{PATH}/{override['id']}")
        assert await served_by(client, service=service) == ("acme/other" if override is chat else "first/one")


@pytest.mark.parametrize("change", [{"is_enabled": False}, {"models": ["other"]}, None])
async def test_an_override_without_its_target_is_ignored_or_503_when_pinned(
    client: Client, mock: MockUpstream, change: dict[str, object] | None
) -> None:
    await created(client, name="spare", base_url=mock.base_url, models=["one"], priority=1)
    acme = await created(client, base_url=mock.base_url, models=["m", "other"], priority=0)
    await overridden(client)
    await overridden(client, user_id="pinned", allow_fallback=False)
    assert await served_by(client, "pinned") == "acme/m"
    one = f"{PROVIDERS}/{acme['id']}"
    await (client.call("DELETE", one) if change is None else client.call("PATCH", one, change))
    assert await served_by(client) == "spare/one"
    response = await ask(client, "pinned")
    assert_problem(response, 503, "no_provider")
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("30", "30000")
    assert response.headers["x-should-retry"] == "false"
    assert len((await client.call("GET", PATH)).json) == 2
    if change is None:
        await created(client, base_url=mock.base_url, models=["m"], priority=0)
    else:
        await client.call("PATCH", one, {"is_enabled": True, "models": ["m", "other"]})
    assert await served_by(client, "pinned") == "acme/m"


async def test_a_pinned_override_allows_no_other_provider(client: Client, mock: MockUpstream) -> None:
    await created(client, name="spare", base_url=mock.base_url, models=["one"])
    await created(client, base_url=mock.base_url, models=["status-500"])
    override = await overridden(client, model_name="status-500", allow_fallback=False)
    assert_problem(await ask(client), 502, "provider_error")
    await client.call("DELETE", f"{PATH}/{override['id']}")
    await overridden(client, model_name="status-500")
    assert await served_by(client) == "spare/one"


async def test_renaming_a_provider_renames_it_in_its_overrides(client: Client, mock: MockUpstream) -> None:
    acme = await created(client, base_url=mock.base_url, models=["m", "other"])
    other = await created(client, name="spare", base_url=mock.base_url)
    override = await overridden(client, model_name="other")
    taken = await client.call("PATCH", f"{PROVIDERS}/{acme['id']}", {"name": "spare"})
    assert_problem(taken, 409, "conflict")
    assert (await client.call("GET", PATH)).json == [override]
    await client.call("PATCH", f"{PROVIDERS}/{acme['id']}", {"name": "renamed"})
    [moved] = (await client.call("GET", PATH)).json
    assert moved == {**override, "provider_name": "renamed", "updated_at": moved["updated_at"]}
    assert moved["updated_at"] > override["updated_at"]
    assert await served_by(client) == "renamed/other"
    await client.call("PATCH", f"{PROVIDERS}/{other['id']}", {"name": "acme"})
    assert await served_by(client) == "renamed/other"


@pytest.mark.usefixtures("acme")
async def test_a_missing_database_is_a_503(client: Client, data_dir: Path) -> None:
    (data_dir / "gateway.db").rename(data_dir / "moved.db")
    for method, path, body in (("GET", PATH, b""), ("POST", PATH, LEAST), ("DELETE", f"{PATH}/{new_id()}", b"")):
        assert_problem(await client.call(method, path, body), 503, "database_unavailable")
