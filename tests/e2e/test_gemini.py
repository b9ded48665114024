"""Google's protocol over the wire: credentials, paths, models, invalid bodies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.e2e.gemini_calls import ASKED, OPENAI, error, post
from tests.e2e.process import KEY, GatewayProcess, until
from tests.e2e.streaming_vendor import Pause, StreamingVendor
from tests.e2e.test_streams import configure, records
from tests.e2e.wire import ask as send
from tests.e2e.wire import request
from tests.upstream import UpstreamProcess

WRONG = "wrong-key-0123456789"
PUBLIC_KEY_TOLD = f"In dev mode the key is {KEY}.".encode()
"""The public development key is told to those who sent another one, whichever it was."""
MEBIBYTE = 1024 * 1024


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


class TestCredentials:
    @pytest.mark.parametrize("version", ["v1beta", "v1"])
    def test_the_key_can_be_in_googles_header_or_in_the_query(
        self, gateway: GatewayProcess, streamer: StreamingVendor, version: str
    ) -> None:
        configure(gateway, streamer, *OPENAI)
        path = f"/{version}/models/auto:generateContent"
        streamer.answer = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}

        by_header = gateway.call("POST", path, ASKED, key=None, x_goog_api_key=KEY)
        by_query = gateway.call("POST", f"{path}?key={KEY}", ASKED, key=None)

        for answer in (by_header, by_query):
            assert answer.json["candidates"][0]["content"]["parts"] == [{"text": "Hi"}]

    def test_a_wrong_key_is_rejected_in_googles_format(self, gateway: GatewayProcess) -> None:
        path = "/v1beta/models/auto:generateContent"
        for answer in (
            gateway.call("POST", path, ASKED, key=None),
            gateway.call("POST", path, ASKED, key=None, x_goog_api_key=WRONG),
            gateway.call("POST", f"{path}?key={WRONG}", ASKED, key=None),
            gateway.call("GET", f"/v1/models?key={WRONG}", key=None),
        ):
            error(answer, 401, "UNAUTHENTICATED")

    def test_two_different_keys_are_rejected_unless_one_comes_first(self, gateway: GatewayProcess) -> None:
        path = "/v1beta/models/auto:countTokens"
        for answer in (
            gateway.call("POST", f"{path}?key={WRONG}", ASKED, key=None, x_goog_api_key=KEY),
            gateway.call("POST", f"{path}?key={KEY}&key={WRONG}", ASKED, key=None),
            gateway.call("GET", "/v1beta/models", key=None, x_goog_api_key=KEY, authorization=f"Bearer {WRONG}"),
        ):
            assert "two different keys" in error(answer, 400, "INVALID_ARGUMENT")["message"]
        for answer in (
            gateway.call("GET", f"/v1beta/models?key={WRONG}"),
            gateway.call("GET", "/v1beta/models", x_goog_api_key=WRONG),
        ):
            assert answer.status == 200, "X-Service-Key comes first"
        assert gateway.call("GET", f"/v1beta/models?key={KEY}").status == 200

    def test_a_key_in_the_query_of_other_paths_is_ignored(self, gateway: GatewayProcess) -> None:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/messages"),
            ("POST", "/api/v1/generate"),
            ("GET", "/api/v1/providers"),
            ("GET", "/metrics"),
        ):
            assert gateway.call(method, f"{path}?key={KEY}", {}, key=None).status == 401

    def test_a_key_in_a_path_appears_in_no_log_line_error_or_record(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer, *OPENAI)
        streamer.answer = {"error": {"message": "oh"}}
        told = []
        for method in ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "foo"):
            for separator in ("?", "%3F"):
                for key in (KEY, WRONG):
                    path = f"/v1beta/models/auto:{method}{separator}key={key}"
                    told.append(gateway.call("POST", path, ASKED, key=None))
                    told.append(gateway.call("GET", path, key=None))
        told.append(gateway.call("GET", f"/v1beta/nothing?key={KEY}", key=None))
        post(gateway, "generateContent", model="nothing")

        assert {answer.status for answer in told} >= {200, 401, 404, 405, 502}
        for answer in told:
            assert WRONG.encode() not in answer.body
            assert KEY.encode() not in answer.body.replace(PUBLIC_KEY_TOLD, b"")
        until(lambda: "/v1beta/nothing" in gateway.log and "/v1beta/models/auto:foo" in gateway.log)
        for key in (KEY, WRONG):
            assert f"key={key}" not in gateway.log
            assert WRONG not in gateway.log
        assert WRONG not in json.dumps(records(gateway))
        assert KEY not in json.dumps(records(gateway))


class TestPaths:
    @pytest.mark.parametrize(
        "model", ["streamer-1", "streamer/streamer-1", quote("streamer/streamer-1", safe=""), "streamer%2Fstreamer-1"]
    )
    def test_the_path_names_the_model(self, gateway: GatewayProcess, streamer: StreamingVendor, model: str) -> None:
        configure(gateway, streamer, *OPENAI)
        answer = post(gateway, "streamGenerateContent", model=model)
        assert (answer.status, streamer.calls[0]["model"]) == (200, "streamer-1")

    def test_a_model_name_can_contain_a_colon(self, gateway: GatewayProcess, streamer: StreamingVendor) -> None:
        streamer.steps = OPENAI
        gateway.provider("streamer", streamer.url, "llama3:8b")
        assert post(gateway, "streamGenerateContent", model="llama3:8b").status == 200
        assert gateway.call("GET", "/v1beta/models/llama3:8b").json["name"] == "models/llama3:8b"

    @pytest.mark.parametrize("model", ["%00", "a%00b"])
    @pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens", "embedContent"])
    def test_a_model_name_with_a_nul_is_rejected(self, gateway: GatewayProcess, model: str, method: str) -> None:
        found = error(post(gateway, method, model=model), 400, "INVALID_ARGUMENT")
        assert found["message"] == "The model's name must not contain a NUL character."

    @pytest.mark.parametrize(
        "model",
        [
            "no-such-model",
            "..%2F..%2Fapi%2Fv1%2Fproviders",
            "../../api/v1/providers",
            "m" * 8000,
            "%FF",
        ],
    )
    @pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens", "embedContent"])
    def test_an_unknown_model_is_a_404(self, gateway: GatewayProcess, model: str, method: str) -> None:
        found = error(post(gateway, method, model=model), 404, "NOT_FOUND")
        assert "Available models: auto" in found["message"]
        assert len(found["message"]) < 600

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/v1beta/models/auto:foo"),
            ("POST", "/v1/models/auto:foo"),
            ("POST", "/v1beta/models/auto:generatecontent"),
            ("POST", "/v1beta/tunedModels/x:generateContent"),
            ("POST", "/v1beta/models/auto:generateContent/"),
            ("GET", "/v1beta/"),
            ("GET", "/v1beta/files"),
            ("GET", "/v1beta/models/no-such-model"),
            ("POST", "/v1beta/models/auto:predict"),
        ],
    )
    def test_an_unknown_path_or_method_is_a_404(self, gateway: GatewayProcess, method: str, path: str) -> None:
        answer = gateway.call(method, path, ASKED, x_goog_api_key=KEY)
        assert "docs/GEMINI.md" in error(answer, 404, "NOT_FOUND")["message"] or path.endswith("no-such-model")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/v1beta/models/auto:generateContent", "POST"),
            ("DELETE", "/v1/models/auto:streamGenerateContent", "POST"),
            ("PUT", "/v1beta/models/auto:countTokens", "POST"),
            ("GET", "/v1beta/models/auto:embedContent", "POST"),
            ("POST", "/v1beta/models", "GET, HEAD"),
            ("POST", "/v1beta/models/auto", "GET, HEAD"),
        ],
    )
    def test_an_unsupported_http_method_is_405(
        self, gateway: GatewayProcess, method: str, path: str, allowed: str
    ) -> None:
        answer = gateway.call(method, path, ASKED)
        error(answer, 405, "UNIMPLEMENTED")
        assert answer.headers["allow"] == allowed


class TestModels:
    def test_a_google_client_gets_the_list_in_googles_format(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer)
        names = ["models/auto", "models/streamer-1", "models/streamer/streamer-1"]
        for answer in (
            gateway.call("GET", "/v1beta/models"),
            gateway.call("GET", "/v1beta/models?pageSize=3"),
            gateway.call("GET", "/v1/models", key=None, x_goog_api_key=KEY),
            gateway.call("GET", f"/v1/models?key={KEY}", key=None),
        ):
            assert [model["name"] for model in answer.json["models"]] == names
        for path in ("/v1beta/models/streamer/streamer-1", "/v1beta/models/streamer%2Fstreamer-1"):
            assert gateway.call("GET", path).json["name"] == names[2]
        assert gateway.call("GET", "/v1/models/auto", key=None, x_goog_api_key=KEY).json["name"] == names[0]
        assert gateway.call("GET", "/v1/models").json["object"] == "list"

    def test_an_unknown_model_is_reported_in_the_clients_format(self, gateway: GatewayProcess) -> None:
        error(gateway.call("GET", "/v1/models/none", key=None, x_goog_api_key=KEY), 404, "NOT_FOUND")
        told = gateway.call("GET", "/v1/models/none", anthropic_version="2023-06-01").json
        assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")
        assert gateway.call("GET", "/v1/models/none").json["error"]["code"] == "model_not_found"


class TestBodies:
    @pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (b"", ""),
            (b"{", ""),
            (b"[]", ""),
            (b"\xff", ""),
            (b"{}", "contents"),
            (b'{"contents": []}', "contents"),
            (b'{"contents": "Hi"}', "contents"),
            (b'{"contents": [{"parts": []}]}', "contents[0].parts"),
            (b'{"contents": [{"role": "system", "parts": [{"text": "x"}]}]}', "contents[0].role"),
            (b'{"contents": [{"parts": [{"text": "x", "inlineData": {}}]}]}', "contents[0].parts[0]"),
        ],
    )
    def test_an_invalid_body_is_an_invalid_argument(
        self, gateway: GatewayProcess, streamer: StreamingVendor, method: str, body: bytes, field: str
    ) -> None:
        configure(gateway, streamer, *OPENAI)
        answer = send(gateway.port, request("POST", f"/v1beta/models/auto:{method}", body))
        assert (answer.status, answer.json["error"]["code"]) == (400, 400)
        assert answer.json["error"]["status"] == "INVALID_ARGUMENT"
        violations = [one for one in answer.json["error"]["details"] if "fieldViolations" in one]
        assert [one["fieldViolations"][0]["field"] for one in violations] == ([field] if field else [])
        assert streamer.calls == []

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"generateContentRequest": 5}'])
    def test_an_invalid_body_to_count_is_an_invalid_argument(self, gateway: GatewayProcess, body: bytes) -> None:
        answer = send(gateway.port, request("POST", "/v1beta/models/auto:countTokens", body))
        assert (answer.status, answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")

    def test_a_body_over_32_mib_is_413(self, gateway: GatewayProcess) -> None:
        body = b"x" * (32 * MEBIBYTE + 1)
        answer = send(gateway.port, request("POST", "/v1beta/models/auto:generateContent", body))
        assert (answer.status, answer.json["error"]["status"]) == (413, "INVALID_ARGUMENT")

    def test_a_passed_deadline_is_reported(self, gateway: GatewayProcess, streamer: StreamingVendor) -> None:
        configure(gateway, streamer, Pause(5))
        answer = post(gateway, "streamGenerateContent?alt=sse", x_request_timeout_ms="200")
        error(answer, 504, "DEADLINE_EXCEEDED")

    def test_a_rate_limit_error_has_a_retry_delay(self, gateway: GatewayProcess, streamer: StreamingVendor) -> None:
        configure(gateway, streamer, *OPENAI, rate_limit_rpm=1)
        assert post(gateway, "streamGenerateContent").status == 200
        answer = post(gateway, "generateContent")
        *_, retry = error(answer, 429, "RESOURCE_EXHAUSTED")["details"]
        assert retry["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
        assert float(retry["retryDelay"].removesuffix("s")) * 1000 == pytest.approx(
            float(answer.headers["retry-after-ms"]), abs=1
        )

    def test_a_providers_error_is_returned_without_the_key(
        self, gateway: GatewayProcess, mock: UpstreamProcess
    ) -> None:
        gateway.provider("mock", mock.base_url, "leak", api_key="sk-0123456789")
        message = error(post(gateway, "generateContent"), 502, "UNAVAILABLE")["message"]
        assert "answered 401" in message
        assert "0123456789" not in message

    def test_count_tokens_estimates_all_parts_of_a_request(
        self, gateway: GatewayProcess, streamer: StreamingVendor
    ) -> None:
        configure(gateway, streamer)
        long = {"parts": [{"text": "x y " * 1000}]}
        for body in (
            {"contents": [long]},
            {
                "generateContentRequest": {
                    "model": "models/auto",
                    "contents": [{"parts": []}],
                    "systemInstruction": long,
                }
            },
            {"generate_content_request": {"contents": [], "system_instruction": long}},
        ):
            answer = post(gateway, "countTokens", body)
            assert 1000 <= answer.json["totalTokens"] < 1050
            assert answer.headers["x-gateway-estimated"] == "true"
