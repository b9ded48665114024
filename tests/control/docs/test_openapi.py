"""The OpenAPI document is complete, and its schemas match the requests and responses of the running gateway."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, cast

import jsonschema_rs
import msgspec
import pytest
import pytest_asyncio

from llm_gateway.control.docs.openapi import SERVER_ERRORS
from llm_gateway.control.management import base_url
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.paths import MANAGEMENT_PATHS
from llm_gateway.errors import Unauthorized
from llm_gateway.gate.authentication import OPEN_PATHS
from llm_gateway.protocols.registry import GENERATE_PATH, PROTOCOLS, VENDOR_PATH_PREFIXES
from llm_gateway.server.shared_state import REFUSALS
from tests.application.driver import READS_ONLY, Client, Response, assert_problem
from tests.application.straight_line import LEAST as ASKED
from tests.control.docs.documented_statuses import STATUSES
from tests.control.management.test_overrides import LEAST as OVERRIDE
from tests.control.management.test_overrides import UNFIT as UNFIT_OVERRIDES
from tests.control.management.test_providers import LEAST as PROVIDER
from tests.control.management.test_providers import UNFIT as UNFIT_PROVIDERS
from tests.control.management.test_providers import UNFIT_URLS
from tests.gate.test_authentication import routes
from tests.in_one_loop import GatewayInOneLoop
from tests.rows import each_row
from tests.upstream import MockUpstream

"""Error statuses of each operation, in addition to those of any request."""
ERRORS = {each.vendor: msgspec.json.decode(each.write_error(Unauthorized("x"), "1")) for each in PROTOCOLS.values()}
ANY = {400, 408, 413, 431, 500, 503}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(reader: Client) -> Any:
    return (await reader.call("GET", "/openapi.json")).json


SPEND_LIMITS = "/v1/organizations/spend_limits"
"""A part of Anthropic's Admin API, whose errors have that vendor's shape."""
ONE_LIMIT = f"{SPEND_LIMITS}/{{spend_limit_id}}"


def operations(document: Any, start: str = "/") -> dict[tuple[str, str], Any]:
    """Return the operations whose path starts with `start`; by default those with problem documents as errors."""
    return {
        (method, path): found
        for path, item in document["paths"].items()
        if path.startswith(start) and path.startswith(VENDOR_PATH_PREFIXES) == start.startswith(VENDOR_PATH_PREFIXES)
        for method, found in item.items()
    }


def resolved(document: Any, part: Any) -> Any:
    """Return the target of a reference."""
    while "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def valid(document: Any, schema: Any, value: object) -> bool:
    whole = msgspec.json.encode({**schema, "components": document["components"]})
    return bool(validator(whole).is_valid(value))


@lru_cache(8)
def validator(schema: bytes) -> Any:
    """Build the validator of a schema as JSON; most are asked for many values in a row."""
    return jsonschema_rs.validator_for(msgspec.json.decode(schema))


def test_the_document_describes_every_route(document: Any, reader: Client) -> None:
    named = {key: found for start in ("/", *VENDOR_PATH_PREFIXES) for key, found in operations(document, start).items()}
    described = {(m.upper(), re.sub(r"\{.*?\}", "ID", path)) for m, path in named}
    registered = {(m, re.sub(r"[0-9a-f-]{36}", "ID", path)) for m, path in routes(cast(GatewayInOneLoop, reader.app))}
    assert registered - described == {("GET", "/"), ("GET", "/docs/ID")}
    assert described - registered == set()


def test_every_operation_lists_its_statuses(document: Any) -> None:
    found = {key: {int(status) for status in o["responses"]} - ANY for key, o in operations(document).items()}
    assert {key: statuses - {415} for key, statuses in found.items()} == STATUSES
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("415" in operation["responses"]) is ("requestBody" in operation), path
    assert all({int(s) for s in o["responses"]} >= ANY for o in operations(document).values())


def test_every_error_is_a_problem_with_its_codes(document: Any) -> None:
    answers = [each for operation in operations(document).values() for each in operation["responses"].items()]
    codes: dict[int, set[str]] = {}
    # Most operations refer to the same responses.
    for status, reference in {msgspec.json.encode(answer): answer for answer in answers if answer[0] >= "400"}.values():
        response = resolved(document, reference)
        [(media_type, content)] = response["content"].items()
        assert media_type == "application/problem+json"
        for name in ("x-request-id", "x-should-retry"):
            assert resolved(document, response["headers"][name])["required"] is True
        assert ("retry-after" in response["headers"]) is (status in ("429", "503"))
        for example in content["examples"].values():
            assert valid(document, content["schema"], example["value"])
            assert not valid(document, content["schema"], {**example["value"], "status": 200})
        codes[int(status)] = set(content["examples"])
    assert codes[429] == {"rate_limited", "request_exceeds_limit", "budget_exceeded", "budget_reserved"}
    assert codes[503] == {
        "no_provider", "providers_unavailable", "overloaded", "journal_unavailable", "database_unavailable",
        "management_unavailable", "budget_unavailable",
    }  # fmt: skip
    assert codes[502] == {"provider_error", "provider_account_refused"}
    assert (codes[504], codes[422]) == ({"deadline_exceeded"}, {"validation_error"})


def test_errors_of_the_http_server_are_described(document: Any) -> None:
    assert {status: REFUSALS[status] for status in SERVER_ERRORS} == SERVER_ERRORS
    for status, (code, _, _) in REFUSALS.items():
        [content] = document["components"]["responses"][f"Problem{status}"]["content"].values()
        assert code in content["examples"]


def test_the_vendor_compatible_endpoints_are_described(document: Any) -> None:
    found = {**operations(document, "/v1/"), **operations(document, "/v1beta/")}
    methods = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
    assert {path for _, path in found} == {
        "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/models", "/v1/models/{model}", "/v1beta/models", "/v1beta/models/{model}", SPEND_LIMITS, ONE_LIMIT,
        *(f"/{version}/models/{{model}}:{method}" for version in ("v1", "v1beta") for method in methods),
    }  # fmt: skip
    for (_, path), operation in found.items():
        assert {"200", "400", "401", "403", "404", "408", "413", "431", "500", "503"} <= set(operation["responses"])
        schema = operation["responses"]["401"]["content"]["application/json"]["schema"]
        if path.startswith("/v1/models") and ":" not in path:  # the path that clients of all three protocols share
            shapes = {one["$ref"].rpartition("/")[2] for one in schema["anyOf"]}
            assert shapes == {"OpenAIError", "AnthropicError", "GoogleError"}
            continue
        vendor = (
            "Google"
            if ":" in path or "v1beta" in path
            else "Anthropic"
            if re.search("/messages|/spend", path)
            else "OpenAI"
        )
        assert schema["$ref"].endswith(f"/{vendor}Error")
        assert valid(document, document["components"]["schemas"][f"{vendor}Error"], ERRORS[vendor])
        assert ({"GoogleKeyParameter": []} in operation.get("security", ())) is (vendor == "Google")
    names = [operation["operationId"] for operation in found.values()]
    assert len(set(names)) == len(names)


@READS_ONLY
async def test_a_trailing_slash_is_another_path(document: Any, reader: Client) -> None:
    for _, path in operations(document):
        place = re.sub(r"\{.*?\}", new_id(), path)
        for method in ("GET", "POST", "DELETE"):
            assert_problem(await reader.call(method, f"{place}/"), 404, "not_found")


@READS_ONLY
async def test_another_method_is_405_and_lists_the_allowed_ones(document: Any, reader: Client) -> None:
    for path, item in document["paths"].items():
        place = re.sub(r"\{.*?\}", new_id(), path)
        there = {method.upper() for method in item} | ({"HEAD"} if "get" in item else set())
        for method in sorted({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - there):
            response = await reader.call(method, place)
            if path.startswith("/v1beta/") or ":" in path:
                assert (response.status, response.json["error"]["status"]) == (405, "UNIMPLEMENTED")
            elif path.startswith(SPEND_LIMITS):
                assert (response.status, response.json["error"]["type"]) == (405, "invalid_request_error")
            elif path.startswith("/v1/"):
                assert (response.status, response.json["error"]["code"]) == (405, "method_not_allowed")
            elif method == "HEAD":  # its response has no content (RFC 9110, 9.3.2)
                assert response.status == 405
            else:
                assert_problem(response, 405, "method_not_allowed")
            assert response.headers["allow"] == ", ".join(sorted(there))


@READS_ONLY
async def test_every_get_path_accepts_head(document: Any, reader: Client) -> None:
    for path, item in document["paths"].items():
        if "get" in item and "{" not in path:
            assert (await reader.call("HEAD", path)).status == 200


def test_every_operation_lists_the_key_schemes_it_accepts(document: Any) -> None:
    keys: list[Any] = [{"ServiceKey": []}, {"Bearer": []}, {"ApiKey": []}, {"GoogApiKey": []}]
    assert document["security"] == keys
    assert set(document["components"]["securitySchemes"]) == {
        "ServiceKey", "Bearer", "ApiKey", "GoogApiKey", "GoogleKeyParameter",
    }  # fmt: skip
    for (_, path), operation in operations(document).items():
        if path in OPEN_PATHS:
            assert operation["security"] == []
        else:
            assert "security" not in operation
    assert "scope `call` or `admin`" in document["paths"]["/api/v1/generate"]["post"]["description"]
    assert "scope `admin`." in document["paths"]["/api/v1/providers"]["post"]["description"]


def test_generate_names_every_header_it_honours(document: Any) -> None:
    operation = document["paths"]["/api/v1/generate"]["post"]
    assert [p["name"] for p in operation["parameters"]] == [
        "x-request-id", "x-request-timeout-ms", "x-tags", "cache-control",
    ]  # fmt: skip
    assert all(p["in"] == "header" and not p.get("required") for p in operation["parameters"])


def test_every_operation_has_a_name_of_its_own(document: Any) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)


def test_the_document_has_no_error_schema_of_fastapi_and_no_url(document: Any) -> None:
    assert "HTTPValidationError" not in str(document)
    assert "http://" not in str(document).replace(base_url.PATTERN, "")


def body_schema(document: Any, method: str, path: str) -> Any:
    return document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]


SEMANTIC = {"nobody", "Acme", "M"}
"""Values that are invalid because of the gateway's configuration, which a schema cannot express."""


@pytest.mark.parametrize(
    ("method", "path", "least", "unfit"),
    [
        ("post", "/api/v1/providers", PROVIDER, UNFIT_PROVIDERS),
        ("patch", "/api/v1/providers/{provider_id}", {}, UNFIT_PROVIDERS),
        ("post", "/api/v1/overrides", OVERRIDE, UNFIT_OVERRIDES),
    ],
)
def test_the_schema_rejects_what_the_gateway_rejects(
    document: Any, method: str, path: str, least: dict[str, object], unfit: list[tuple[str, object]]
) -> None:
    schema = body_schema(document, method, path)
    assert valid(document, schema, least)
    for field, value in unfit:
        refused = not valid(document, schema, {**least, field: value})
        assert refused or (path.endswith("overrides") and value in SEMANTIC), (field, value)
    for field in least:
        if field != "base_url":
            assert not valid(document, schema, {name: value for name, value in least.items() if name != field})


@READS_ONLY
@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("user_id", "", False), ("user_id", "a\x00", False), ("user_id", "ü" * 256, True),
        ("user_id", "x" * 257, False),
        ("max_tokens", 0, False), ("max_tokens", 8001, False), ("max_tokens", 8000.0, True), ("max_tokens", 1.5, False),
        ("max_tokens", True, False), ("max_tokens", "1", False), ("temperature", 2, True), ("temperature", 2.1, False),
        ("json_mode", 1, False), ("system", "", True), ("system", None, False), ("prompt", "\x00", True),
        ("prompt", "", False), ("stream", True, True), ("streams", True, False),
    ],
)  # fmt: skip
async def test_the_schema_of_generate_accepts_what_the_gateway_accepts(
    document: Any, reader: Client, field: str, value: object, fits: bool
) -> None:
    body = {**ASKED, field: value}
    assert valid(document, body_schema(document, "post", "/api/v1/generate"), body) is fits
    assert ((await reader.call("POST", "/api/v1/generate", body)).status != 422) is fits


FIT_URLS = [
    "http://a", "https://a.example", "HTTPS://Api.Example.COM:8443/v1/", "http://localhost:11434/v1", "http://10.0.0.1",
    "http://[::1]:80/x", "https://[2001:db8::1]/", "http://[::ffff:10.0.0.1]", "http://llm_1:8000", "http://0a1b2c3d4e5f",
    "http://a/b@c", "http://xn--bcher-kva.example", "http://a:65535/", "http://x-1.y",
]  # fmt: skip


@each_row(
    "url",
    [
        *FIT_URLS,
        *UNFIT_URLS,
        "http://a:65536",
        "http://1.2.3.256",
        "http://[::12345]",
        "http://0x7f.1",
        "http://a:00080",
    ],
)
def test_the_pattern_of_base_url_matches_what_the_gateway_accepts(document: Any, url: str) -> None:
    schema = document["components"]["schemas"]["ProviderCreate"]["properties"]["base_url"]
    fits = valid(document, schema, url)
    assert fits is (base_url.problem_of(url) is None)
    assert fits is (url in FIT_URLS)


@READS_ONLY
@pytest.mark.parametrize("tags", ["", "a", "a=1,", "a=b=c", "k=" + "v" * 65, "a b=1", ",".join(["a=1"] * 11)])
async def test_the_pattern_of_x_tags_matches_what_the_gateway_accepts(document: Any, reader: Client, tags: str) -> None:
    [schema] = [
        p["schema"] for p in document["paths"]["/api/v1/generate"]["post"]["parameters"] if p["name"] == "x-tags"
    ]
    for sent, fits in ((tags, False), ("a=1,b_2=x y-z,c=", True)):
        assert valid(document, schema, sent) is fits
        response = await reader.call("POST", "/api/v1/generate", ASKED, headers={"x-tags": sent})
        assert (response.status != 400) is fits


def assert_described(document: Any, method: str, path: str, response: Response) -> None:
    """Assert that the document describes the response's status, content type, headers and body."""
    described = resolved(document, document["paths"][path][method.lower()]["responses"][str(response.status)])
    for name, header in described["headers"].items():
        if resolved(document, header).get("required"):
            assert name in response.headers
    own = {name for name in response.headers if name.startswith(("x-gateway-", "x-ratelimit-")) or name == "location"}
    assert own <= {*described["headers"]}
    if "content" not in described:
        assert response.body == b""
        return
    content = described["content"][response.headers["content-type"].partition(";")[0]]
    if response.headers["content-type"].partition(";")[0] in ("application/json", "application/problem+json"):
        assert valid(document, content["schema"], response.json), response.body


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


@READS_ONLY
async def test_the_listed_paths_of_the_control_plane_are_its_documented_ones(document: Any) -> None:
    documented = {path for path in document["paths"] if not path.startswith(("/v1", GENERATE_PATH, EXPLAIN_PATH))}
    assert documented == set(MANAGEMENT_PATHS)
