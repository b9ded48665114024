"""The OpenAPI document is complete: every route, status, error and key scheme of the running gateway is in it."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from llm_gateway.control.docs.openapi import SERVER_ERRORS
from llm_gateway.control.management import base_url
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.paths import MANAGEMENT_PATHS
from llm_gateway.errors import Unauthorized
from llm_gateway.gate.authentication import OPEN_PATHS
from llm_gateway.protocols.registry import GENERATE_PATH, PROTOCOLS, VENDOR_PATH_PREFIXES
from llm_gateway.server.shared_state import REFUSALS
from tests.application.driver import READS_ONLY, Client, assert_problem
from tests.control.docs.document import ONE_LIMIT, SPEND_LIMITS, operations, resolved, valid
from tests.control.docs.documented_statuses import STATUSES
from tests.gate.test_authentication import routes
from tests.in_one_loop import GatewayInOneLoop

ERRORS = {each.vendor: msgspec.json.decode(each.write_error(Unauthorized("x"), "1")) for each in PROTOCOLS.values()}
"""An error of each vendor's protocol."""
ANY = {400, 408, 413, 431, 500, 503}
"""Error statuses of all operations; `STATUSES` has those of each one in addition."""


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


@READS_ONLY
async def test_the_listed_paths_of_the_control_plane_are_its_documented_ones(document: Any) -> None:
    documented = {path for path in document["paths"] if not path.startswith(("/v1", GENERATE_PATH, EXPLAIN_PATH))}
    assert documented == set(MANAGEMENT_PATHS)
