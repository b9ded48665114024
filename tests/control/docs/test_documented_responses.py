"""The OpenAPI document describes the responses of the running gateway."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.uuid7 import new_id
from llm_gateway.protocols.registry import PROTOCOLS
from tests.application.driver import Client
from tests.application.straight_line import LEAST as ASKED
from tests.control.docs.document import assert_described, operations, resolved
from tests.control.management.test_overrides import LEAST as OVERRIDE
from tests.control.management.test_providers import LEAST as PROVIDER
from tests.upstream import MockUpstream


def test_errors_of_calls_name_the_headers_of_the_provider_and_require_none(document: Any) -> None:
    for path in ("/api/v1/generate", *(each.routes[0].path for each in PROTOCOLS.values())):
        for status in ("429", "502", "503", "504"):
            headers = resolved(document, document["paths"][path]["post"]["responses"][status])["headers"]
            for name in ("x-gateway-provider", "x-gateway-queued-ms", "x-ratelimit-remaining-tokens"):
                assert not resolved(document, headers[name]).get("required")
            assert resolved(document, headers["x-should-retry"])["required"]
            assert ("retry-after" in headers) is (status in ("429", "503"))


async def test_a_providers_error_has_the_documented_headers(client: Client, document: Any, mock: MockUpstream) -> None:
    await client.call("POST", "/api/v1/providers", {**PROVIDER, "base_url": mock.base_url, "models": ["status-400"]})
    asked = {"model": "status-400", "messages": [{"role": "user", "content": "Hi"}]}

    response = await client.call("POST", "/v1/chat/completions", asked)

    assert_described(document, "POST", "/v1/chat/completions", response)
    assert response.status == 400
    assert response.headers["x-gateway-provider"] == PROVIDER["name"]


async def test_responses_of_the_running_gateway_match_the_document(
    client: Client, document: Any, mock: MockUpstream
) -> None:
    provider = {**PROVIDER, "base_url": mock.base_url, "models": ["m", "status-400"]}
    nobody = Client(client.app, key=None)
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

    async def call(method: str, path: str, body: object = b"", *, by: Client = client, place: str = "") -> Any:
        response = await by.call(method, place or path, body)
        assert_described(document, method, path, response)
        return response

    one, test = "/api/v1/providers/{provider_id}", "/api/v1/providers/{provider_id}/test"
    made = (await call("POST", "/api/v1/providers", provider)).json
    place = f"/api/v1/providers/{made['id']}"
    override = (await call("POST", "/api/v1/overrides", OVERRIDE)).json
    answers = [
        await call("POST", "/api/v1/providers", provider),
        await call("POST", "/api/v1/providers", b"{"),
        await call("POST", "/api/v1/overrides", OVERRIDE),
        await call("POST", "/api/v1/overrides", {**OVERRIDE, "model_name": "x"}),
        await call("GET", one, place=place),
        await call("GET", one, place=f"/api/v1/providers/{new_id()}"),
        await call("PATCH", one, {"prices": {"m": {"input": 1, "output": 2}}}, place=place),
        await call("PATCH", one, {"name": None}, place=place),
        await call("POST", test, place=f"{place}/test"),
        await call("POST", "/api/v1/generate", ASKED),
        await call("POST", "/api/v1/generate", {}),
        await call("POST", "/api/v1/generate", ASKED, by=nobody),
        await call("POST", "/api/v1/generate", {**ASKED, "stream": True, "prompt": "another"}),
        *[await call("POST", "/v1/chat/completions", chat | {"stream": stream}) for stream in (False, True)],
        await call("POST", "/v1/chat/completions", {}),
    ]
    statuses = [409, 422, 409, 422, 200, 404, 200, 422, 200, 200, 422, 401, 200, 200, 200, 400]
    assert [a.status for a in answers] == statuses
    for path in ("/api/v1/generate", "/v1/chat/completions"):
        answered = document["paths"][path]["post"]["responses"]["200"]
        assert answered["headers"].keys() >= {"x-gateway-budget", "x-gateway-budget-warning"}
        assert {*answered["content"]} == {"application/json", "text/event-stream"}
    for (method, path), operation in operations(document).items():
        if method == "get" and "{" not in path:
            assert (await call("GET", path)).status == 200
            shut = await call("GET", path, by=nobody)
            assert shut.status == (200 if operation.get("security") == [] else 401)
    gone = "/api/v1/overrides/{override_id}"
    assert (await call("DELETE", gone, place=f"/api/v1/overrides/{override['id']}")).status == 204
    assert (await call("DELETE", one, place=place)).status == 204
    assert (await call("POST", "/api/v1/generate", ASKED)).status == 503
