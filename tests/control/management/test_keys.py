"""Key endpoints: create, list, get, patch, rotate, delete, and their effect on the next request."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.control.management.key_schemas import KeyOut
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
    assert (await own.call("GET", "/api/v1/me")).json == key
    assert_problem(await own.call("GET", PATH), 403, "forbidden")
    assert (await client.call("DELETE", f"{PATH}/{key['id']}")).status == 204
    await refused(client, {"secret": secret}, "The key is not known: it was deleted or replaced")
    await refused(client, {"secret": f"{secret[:-1]}{'0' if secret[-1] != '0' else '1'}"}, "The key is damaged")
    assert_problem(await client.call("GET", f"{PATH}/{key['id']}"), 404, "not_found")
    assert secret not in "".join(capfd.readouterr())
