"""Configuration endpoints: a document is applied, in force for the next request, and returned without secrets."""

from __future__ import annotations

from typing import Any

from tests.application.driver import Client, assert_problem
from tests.control.test_declared_configuration import ONE
from tests.upstream import MockUpstream

PATH = "/api/v1/configuration"
ASK = {"user_id": "ann", "service": "shop", "prompt": "Hello"}


async def applied(client: Client, document: dict[str, Any], **options: Any) -> Any:
    response = await client.call("POST", PATH, {"document": document, **options})
    assert response.status == 200, response.body
    return response.json


async def test_a_document_is_in_force_for_the_next_request(client: Client, mock: MockUpstream) -> None:
    provider = {"name": "acme", "base_url": mock.base_url, "api_key": "sk-acme", "models": ["m", "other"]}
    override = {"user_id": "ann", "service_name": "shop", "provider_name": "acme", "model_name": "other"}
    document = {"providers": [provider], "overrides": [override], "keys": [{"name": "shop", "secret": ONE}]}
    own = Client(client.app, ONE)
    tried = await applied(client, document, dry_run=True)
    assert [(each["action"], each["section"], each["name"], each["service_name"]) for each in tried["changes"]] == [
        ("add", "providers", "acme", None), ("add", "overrides", "ann", "shop"), ("add", "keys", "shop", None),
    ]  # fmt: skip
    assert (await own.call("POST", "/api/v1/generate", ASK)).status == 401
    done = await applied(client, document, version=tried["version"])
    assert done["changes"] == tried["changes"]
    assert "sk-acme" not in str(done)
    answer = await own.call("POST", "/api/v1/generate", ASK)
    assert (answer.status, answer.json["model"]) == (200, "other")
    returned = (await client.call("GET", PATH)).json
    again = await applied(client, returned["document"], prune=True)
    assert (again["changes"], again["unchanged"], again["version"]) == ([], 3, done["version"])
    changed = {"providers": [{**provider, "api_key": "sk-2", "priority": 5}]}
    assert (await applied(client, changed, dry_run=True))["changes"][0]["fields"] == [
        {"name": "priority", "before": 10, "after": 5},
        {"name": "api_key", "before": "(secret)", "after": "(another secret)"},
    ]
    late = await client.call("POST", PATH, {"document": {}, "version": tried["version"]})
    assert "has changed since" in assert_problem(late, 409, "conflict")["detail"]
    await applied(client, {"budgets": [{"name": "SHOP", "match": {"key": "shop"}, "limit_tokens": 1}]})
    mine = (await own.call("GET", "/api/v1/me")).json["budgets"]
    assert [(each["name"], each["limit"]) for each in mine] == [("SHOP", 1)]
    assert (await applied(client, {"overrides": []}))["unlisted"] == [
        {"section": "overrides", "name": "ann", "service_name": "shop"}
    ]


async def test_only_admins_see_and_apply_the_configuration(client: Client) -> None:
    await applied(client, {"keys": [{"name": "shop", "secret": ONE, "scopes": ["call", "read"]}]})
    own = Client(client.app, ONE)
    for method, body in (("GET", b""), ("POST", {"document": {}})):
        problem = assert_problem(await own.call(method, PATH, body), 403, "forbidden")
        assert "lacks the scope 'admin'" in problem["detail"]
    assert_problem(await client.call("POST", PATH, {"documents": {}}), 422, "validation_error")
