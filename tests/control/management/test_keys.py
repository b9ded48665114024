"""Key endpoints: create, list, get, patch, rotate, delete, and their effect on the next request."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from unittest.mock import ANY

import pytest

from llm_gateway.control.management.key_schemas import Effort, KeyOut
from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.domain.key_secret import is_intact, looks_like_secret
from tests.application.driver import Client, Response, assert_problem
from tests.control.management.test_providers import created
from tests.upstream import MockUpstream

PATH = "/api/v1/keys"
ASK = {"user_id": "u", "service": "s", "prompt": "Hello"}
Made = dict[str, Any]


@pytest.fixture
async def acme(client: Client, mock: MockUpstream) -> Any:
    return await created(client, base_url=mock.base_url, models=["m", "other"])


async def made(client: Client, name: str = "shop", **fields: object) -> Made:
    response = await client.call("POST", PATH, {"name": name, **fields})
    assert response.status == 201, response.body
    key: Made = response.json
    return key


async def ask(client: Client, key: Made, **fields: object) -> Response:
    headers = {"cache-control": "no-store"}
    return await Client(client.app, key["secret"]).call("POST", "/api/v1/generate", {**ASK, **fields}, headers=headers)


async def patched(client: Client, key: Made, **changes: object) -> Any:
    response = await client.call("PATCH", f"{PATH}/{key['id']}", changes)
    assert response.status == 200, response.body
    return response.json


async def refused(client: Client, key: Made, words: str) -> None:
    """Check that a call with the key is a 401 whose sentence has these words."""
    assert words in assert_problem(await ask(client, key), 401, "unauthorized")["detail"]


@pytest.mark.usefixtures("acme")
async def test_a_key_from_creation_to_deletion(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    key = await made(client)
    secret = key.pop("secret")
    assert looks_like_secret(secret)
    assert is_intact(secret.encode())
    assert set(key) == set(KeyOut.model_fields)
    assert (key["name"], key["source"], key["scopes"], key["last4"]) == ("shop", "api", ["call"], secret[-4:])
    assert (await client.call("GET", f"{PATH}/{key['id']}")).json == key
    own = Client(client.app, secret)
    assert (await own.call("POST", "/api/v1/generate", ASK)).status == 200
    spent = {"since": ANY, "cost_usd": ANY, "tokens": ANY, "requests": 1}
    mine = {**key, "in_force": ANY, "last_used_at": ANY, "spend": spent, "budgets": []}
    assert (await own.call("GET", "/api/v1/me")).json == mine
    assert_problem(await own.call("GET", PATH), 403, "forbidden")
    assert (await client.call("DELETE", f"{PATH}/{key['id']}")).status == 204
    await refused(client, {"secret": secret}, "The key is not known: it was deleted or replaced")
    await refused(client, {"secret": f"{secret[:-1]}{'0' if secret[-1] != '0' else '1'}"}, "The key is damaged")
    assert_problem(await client.call("GET", f"{PATH}/{key['id']}"), 404, "not_found")
    assert secret not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("acme")
async def test_a_change_of_a_key_is_in_force_for_the_next_request(client: Client) -> None:
    key = await made(client)
    assert (await ask(client, key)).status == 200
    assert (await patched(client, key, disabled=True))["disabled"] is True
    await refused(client, key, "The key 'shop' is disabled")
    await patched(client, key, disabled=False, name="other", owner="ann")
    assert (await ask(client, key)).status == 200
    rotated = (await client.call("POST", f"{PATH}/{key['id']}/rotate", {"overlap_s": 0.3})).json
    assert (rotated["id"], rotated["last4"]) == (key["id"], rotated["secret"][-4:])
    assert [(await ask(client, each)).status for each in (key, rotated)] == [200, 200]
    await until_refused(client, key)
    await refused(client, key, "has expired, or this secret of it was replaced")
    assert (await ask(client, rotated)).status == 200
    newest = (await client.call("POST", f"{PATH}/{key['id']}/rotate", {"overlap_s": 0})).json
    await refused(client, rotated, "The key is not known")
    soon = datetime.now(UTC) + timedelta(milliseconds=500)
    await patched(client, key, expires_at=soon.isoformat())
    await until_refused(client, newest)


async def until_refused(client: Client, key: Made) -> None:
    for _ in range(500):
        if (await ask(client, key)).status == 401:
            return
        await asyncio.sleep(0.01)
    pytest.fail("The key stays in force.")


@pytest.mark.usefixtures("acme")
async def test_a_key_is_narrowed_by_its_lists_its_limits_and_its_parent(client: Client) -> None:
    team = (await client.call("POST", "/api/v1/teams", {"name": "core"})).json["id"]
    end = "2999-01-01T00:00:00.000Z"
    rights = {"scopes": ["call", "read"], "models": ["m*"], "max_tokens": 50, "tpm": 1_000_000}
    parent = await made(client, "parent", **rights, team_id=team, expires_at=end)
    assert (parent["team_id"], parent["expires_at"]) == (team, end)
    lists = {"customers": ["team-*"], "services": {"fixed": "batch"}, "tags": {"stage": "beta"}}
    scopes = ["call", "read"]
    key = await made(client, "child", parent_id=parent["id"], scopes=scopes, rpm=5, **lists)
    ours = {"user_id": "team-a"}
    assert (await ask(client, key, **ours, max_tokens=1000)).status == 200
    rows = {
        "customer_not_allowed": {"user_id": "other"},
        "model_not_allowed": {**ours, "model": "other"},
    }
    for code, fields in rows.items():
        assert_problem(await ask(client, key, **fields), 403, code)
    own = Client(client.app, key["secret"])
    listed = [each["id"] for each in (await own.call("GET", "/v1/models")).json["data"]]
    assert listed == ["auto", "acme/m", "m"]
    await sees_what_is_in_force(own, parent)
    await count_and_explain(client, own)
    answers = [await ask(client, key, **ours) for _ in range(5)]
    assert [each.status for each in answers][:3] == [200] * 3
    assert "at its limit of 5 requests" in assert_problem(answers[-1], 429, "rate_limited")["detail"]
    await patched(client, key, rpm=None, max_request_usd=0.000001, max_parallel=1)
    assert_problem(await ask(client, key, **ours), 403, "request_not_allowed")
    await patched(client, parent, disabled=True)
    await refused(client, key, "is disabled")
    services = (await client.call("GET", "/api/v1/usage/by-service")).json
    assert {each["service_name"] for each in services} == {"batch"}


async def sees_what_is_in_force(own: Client, parent: Made) -> None:
    """Check that the key `child` learns what its parent leaves it: not only its own fields."""
    mine = (await own.call("GET", "/api/v1/me")).json
    assert (mine["max_tokens"], mine["models"], mine["team_id"]) == (None, None, None)
    assert mine["in_force"] == {
        "scopes": ["call", "read"], "team_id": parent["team_id"],
        "customers": [["team-*"]], "services": [], "models": [["m*"]],
        "fixed_customer": None, "fixed_service": "batch", "fixed_model": None,
        "rpm": 5, "tpm": 1_000_000, "max_parallel": None, "max_tokens": 50,
        "max_reasoning_effort": None, "max_request_usd": None, "tags": {"stage": "beta"},
        "expires_at": parent["expires_at"],
    }  # fmt: skip


async def count_and_explain(client: Client, own: Client) -> None:
    """Check that counts of tokens and explanations follow the rights of the keys `child` and `parent`."""
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    chat_path, team = "/v1/chat/completions", {"user_id": "team-a"}
    asks: list[tuple[Client, str, dict[str, Any], int]] = [
        (own, "/v1/messages/count_tokens", {"model": "m", **chat}, 200),
        (own, "/v1/messages/count_tokens", {"model": "other", **chat}, 403),
        (client, "/v1/messages/count_tokens", {"model": "other", **chat}, 200),
        (own, EXPLAIN_PATH, {"body": ASK | team | {"model": "m"}}, 200),
        (own, EXPLAIN_PATH, {"body": ASK | team | {"model": "other"}}, 403),
        (client, EXPLAIN_PATH, {"body": ASK | {"model": "other"}}, 200),
        (client, EXPLAIN_PATH, {"body": ASK | {"model": "other"}, "key": "parent"}, 403),
        (client, EXPLAIN_PATH, {"body": ASK, "key": "child"}, 403),
        (client, EXPLAIN_PATH, {"path": chat_path, "body": {"model": "m", **chat}, "key": "child"}, 403),
        (client, EXPLAIN_PATH, {"path": chat_path, "body": {"model": "m", **chat}, "key": "child", **team}, 200),
        (client, EXPLAIN_PATH, {"path": chat_path, "body": {"model": "other", **chat}, "key": "parent"}, 403),
        (client, EXPLAIN_PATH, {"body": ASK, "key": "dev"}, 200),
        (client, EXPLAIN_PATH, {"body": ASK, "key": "reads"}, 403),
        (client, EXPLAIN_PATH, {"body": ASK, "key": "jwt:somebody"}, 200),
        (client, EXPLAIN_PATH, {"body": ASK, "key": "ended"}, 422),
    ]
    await made(client, "reads", scopes=["read"])
    await made(client, "ended", disabled=True)
    for who, path, body, status in asks:
        response = await who.call("POST", path, body)
        assert response.status == status, (path, body, response.body)
    refused = await client.call("POST", EXPLAIN_PATH, {"body": ASK, "key": "parnt"})
    assert "There is no key named 'parnt'" in assert_problem(refused, 422, "validation_error")["detail"]
    assert refused.json["detail"].endswith("Did you mean parent?")


def test_efforts_are_those_of_requests() -> None:
    assert get_args(Effort) == REASONING_EFFORTS


async def test_bad_keys_are_refused_in_one_sentence_and_change_nothing(client: Client) -> None:
    team = (await client.call("POST", "/api/v1/teams", {"name": "core"})).json
    parent = await made(client, "parent", expires_at="2999-01-01T00:00:00Z", team_id=team["id"])
    child = await made(client, "child", parent_id=parent["id"])
    nobody = "01890a5d-ac96-774b-bcce-b302099a8057"
    rows: list[tuple[str, str, object, int, str]] = [
        ("POST", "", {"name": "parent"}, 409, "A key named 'parent' exists"),
        ("POST", "", {"name": "dev"}, 409, "'dev' is the name of a key of the environment"),
        ("POST", "", {"name": "a:b"}, 422, "name must not contain colons"),
        ("POST", "", {"name": "x", "team_id": nobody}, 422, "There is no team with this id"),
        ("POST", "", {"name": "x", "parent_id": nobody}, 422, "There is no key with this id"),
        ("POST", "", {"name": "x", "parent_id": "y"}, 422, "parent_id must be an id"),
        ("POST", "", {"name": "x", "parent_id": parent["id"], "scopes": ["admin"]}, 422, "lacks the scope 'admin'"),
        (
            "POST", "", {"name": "x", "parent_id": parent["id"], "expires_at": "2999-01-02T00:00:00Z"},
            422, "would outlive its parent 'parent'",
        ),
        ("POST", "", {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, 422, "expires_at is in the past"),
        ("POST", "", {"name": "x", "expires_at": "2999-01-01"}, 422, "with its time zone"),
        ("POST", "", {"name": "x", "models": []}, 422, "takes 1 to 100 globs"),
        ("POST", "", {"name": "x", "models": ["a" * 257]}, 422, "1 to 256 characters"),
        ("POST", "", {"name": "x", "models": ["*a" * 9]}, 422, "at most 8 wildcards"),
        ("POST", "", {"name": "x", "models": "m"}, 422, "must be a list of globs"),
        ("POST", "", {"name": "x", "tags": {"a b": "c"}}, 422, "tags"),
        ("POST", "", {"name": "x", "scopes": ["call", "call"]}, 422, "names one twice"),
        ("POST", "", {"name": "x", "scopes": ["write"]}, 422, "scopes.0 must be 'call', 'read'"),
        ("POST", "", {"name": "x", "rpm": 0}, 422, "rpm must be at least 1"),
        ("PATCH", parent["id"], {"parent_id": child["id"]}, 422, "a key that descends from it"),
        ("PATCH", parent["id"], {"parent_id": parent["id"]}, 422, "itself"),
        ("PATCH", nobody, {"owner": "a"}, 404, "There is no key"),
        ("DELETE", parent["id"], b"", 409, "is the parent of 1 key"),
        ("POST", f"{parent['id']}/rotate", {}, 422, "overlap_s is required"),
    ]  # fmt: skip
    environment = (await client.call("GET", f"{PATH}?name=dev")).json["keys"]
    assert [(each["name"], each["source"]) for each in environment] == [("dev", "env")]
    of_environment = ({"owner": "a"}, 409, "a key of the environment")
    rows += [(method, environment[0]["id"], *of_environment) for method in ("PATCH", "DELETE")]
    for method, place, body, status, words in rows:
        response = await client.call(method, f"{PATH}/{place}".rstrip("/"), body)
        assert response.status == status, (body, response.body)
        assert words in response.json["detail"], (body, response.body)
    page = (await client.call("GET", f"{PATH}?limit=1")).json
    assert [each["name"] for each in page["keys"]] == ["dev", "parent"]
    page = (await client.call("GET", f"{PATH}?limit=1&cursor={page['next_cursor']}")).json
    assert ([each["name"] for each in page["keys"]], page["next_cursor"]) == (["child"], None)
    one = f"/api/v1/teams/{team['id']}"
    assert "1 key belongs to this team" in (await client.call("DELETE", one)).json["detail"]
    assert (await client.call("PATCH", one, {"description": "The core"})).json["description"] == "The core"
    for key in (child, parent):
        assert (await client.call("DELETE", f"{PATH}/{key['id']}")).status == 204
    assert (await client.call("DELETE", one)).status == 204
    assert (await client.call("GET", "/api/v1/teams")).json == {"teams": [], "next_cursor": None}
