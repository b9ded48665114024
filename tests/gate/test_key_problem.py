"""Messages for requests without a valid key: a sentence for each cause, in the terms of the path's protocol."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.types import Receive, Scope, Send

from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.key_problem import MOST_COMPARED
from tests.application.driver import DEV_KEY, Client, ignore
from tests.rows import each_row

SERVICE = "Send a service key of the gateway as `X-Service-Key: KEY`."
SECRET = "Zq81-secret-value"


async def inside(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError


async def detail(path: str, headers: Mapping[str, str | bytes], *, dev_key: str | None = None) -> str:
    keyring = Keyring([("all", "key-of-all", frozenset({"admin"}))])
    client = Client(Gate(inside, keyring, local_only=True, log=ignore, dev_key=dev_key), key=None)
    response = await client.call("GET", path, headers=headers)
    assert response.status == 401
    assert SECRET not in response.body.decode()
    answer = response.json
    found: str = answer["error"]["message"] if "error" in answer else answer["detail"]
    return found


@pytest.mark.parametrize(
    ("path", "headers", "place"),
    [
        ("/api/v1/generate", {}, "`X-Service-Key: KEY`"),
        ("/metrics", {}, "`X-Service-Key: KEY`"),
        ("/v1/chat/completions", {}, "`Authorization: Bearer KEY`"),
        ("/v1/embeddings", {}, "`Authorization: Bearer KEY`"),
        ("/v1/models", {}, "`Authorization: Bearer KEY`"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "`x-api-key: KEY`"),
        ("/v1/nothing", {}, "`Authorization: Bearer KEY`"),
        ("/v1/messages", {}, "`x-api-key: KEY`"),
        ("/v1/messages/count_tokens", {}, "`x-api-key: KEY`"),
        ("/v1beta/models", {}, "`x-goog-api-key: KEY`"),
        ("/v1beta/models/gemini-2.5-pro:generateContent", {}, "`x-goog-api-key: KEY`"),
    ],
)
async def test_each_protocols_message_names_its_own_header(
    path: str, headers: dict[str, str | bytes], place: str
) -> None:
    assert await detail(path, headers) == f"No key was sent. Send a service key of the gateway as {place}."


@each_row(
    ("headers", "problem"),
    [
        ({"x-service-key": ""}, "The header X-Service-Key is empty"),
        ({"authorization": ""}, "The header Authorization is empty"),
        ({"authorization": SECRET}, "does not begin with the word Bearer"),
        ({"authorization": "Bearer"}, "holds no key after Bearer"),
        ({"authorization": "Bearer "}, "holds no key after Bearer"),
        ({"authorization": f"Bearer:{SECRET}"}, "needs one space, and nothing else, between Bearer and the key"),
        ({"authorization": f"Basic {SECRET}"}, "the scheme basic, not Bearer"),
        ({"authorization": f"Token {SECRET}"}, "the scheme token, not Bearer"),
        ({"authorization": f"{SECRET} {SECRET}"}, "does not begin with the word Bearer"),
        ({"authorization": f"Bearer Bearer {SECRET}"}, "The key begins with the word Bearer"),
        ({"x-service-key": f"Bearer {SECRET}"}, "The key begins with the word Bearer"),
        ({"x-service-key": f"X-Service-Key: {SECRET}"}, "the name of a header in front of it"),
        ({"api-key": SECRET}, "does not read one from the header api-key"),
        ({"x-service-keys": SECRET}, "does not read one from the header x-service-keys"),
        ({"x-service-key": f'"{SECRET}"'}, "with quotes around it"),
        ({"authorization": f"Bearer '{SECRET}'"}, "with quotes around it"),
        ({"x-service-key": f"“{SECRET}”".encode()}, "with quotes around it"),
        ({"x-service-key": f"{SECRET} {SECRET}"}, "contains a blank or a line break"),
        ({"x-service-key": f"{SECRET}\\n"}, "contains a blank or a line break"),
        ({"x-service-key": f"\u200b{SECRET}".encode()}, "characters other than printable ASCII"),
        ({"x-service-key": "$GATEWAY_KEY"}, "the name of a shell variable"),
        ({"x-service-key": "<your key>"}, "contains a blank"),
        ({"x-service-key": "<KEY>"}, "looks like a placeholder"),
        ({"x-service-key": f"sk-ant-{SECRET}"}, "looks like a key of Anthropic"),
        ({"x-service-key": f"sk-{SECRET}"}, "looks like a key of OpenAI"),
        (
            {"x-service-key": SECRET},
            "The key is not known: it is neither in LLM_GATEWAY_SERVICE_KEYS nor made with",
        ),
    ],
)
async def test_each_cause_has_a_sentence_of_its_own(headers: dict[str, str | bytes], problem: str) -> None:
    found = await detail("/api/v1/providers", headers)
    assert problem in found
    assert found.endswith(SERVICE)


async def test_a_key_in_the_query_string_is_named_where_it_is_not_read() -> None:
    assert "from the query string" in await detail(f"/api/v1/providers?api_key={SECRET}", {})
    assert "not known" in await detail(f"/v1beta/models?key={SECRET}", {})


async def test_the_message_names_the_public_development_key_if_it_is_valid() -> None:
    for path, headers in (("/api/v1/generate", {}), ("/v1/messages", {"x-api-key": SECRET})):
        assert (await detail(path, headers, dev_key=DEV_KEY)).endswith(f" In dev mode the key is {DEV_KEY}.")
        assert DEV_KEY not in await detail(path, headers)


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ([f"x-custom-{number}" for number in range(98)], True),
        (["accept-language", "user-agent", "x-keep", "x-author"], True),
        ([f"x-key-{number}-ecivres" for number in range(MOST_COMPARED)], False),
        ([f"x-servicekey-{number:04}" for number in range(98)], False),
    ],
    ids=["names that are not compared", "few that are", "as many as are compared", "very many"],
)
async def test_few_headers_are_compared_for_a_misspelt_name(others: list[str], found: bool) -> None:
    headers: dict[str, str | bytes] = dict.fromkeys(others, "x")
    assert ("the header x-servise-key" in await detail("/x", {**headers, "x-servise-key": "x"})) is found
