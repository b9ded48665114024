"""POST /generate over vendors of each dialect, played by the mock `llmock`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Match, Reply

from tests.e2e.process import GatewayProcess

MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5-20251001",
    "gemini": "gemini-2.5-pro",
}
DIALECTS = pytest.mark.parametrize("kind", MODELS)
OTHERS = {"openai": "anthropic", "anthropic": "gemini", "gemini": "openai"}


def configure(gateway: GatewayProcess, llmock: LLMock, kind: str, **fields: object) -> str:
    """Configure a provider of this dialect at the mock. Returns its name."""
    name = f"my-{kind}"
    gateway.provider(name, llmock.base_url(kind), MODELS[kind], kind=kind, **fields)
    return name


@DIALECTS
def test_an_answer_is_returned_with_its_cost(gateway: GatewayProcess, llmock: LLMock, kind: str) -> None:
    name = configure(gateway, llmock, kind)
    llmock.reply("The capital is Paris. It is a large town.")

    answer = gateway.ask("x" * 400, system="y" * 40, max_tokens=77, temperature=0.5).json

    assert answer["content"] == "The capital is Paris. It is a large town."
    assert (answer["provider"], answer["model"], answer["finish_reason"]) == (name, MODELS[kind], "stop")
    assert (answer["input_tokens"], answer["output_tokens"]) == (110, 10), "four characters a token, the mock says"
    assert answer["cost_usd"] == pytest.approx((110 + 2 * 10) / 1e6)
    [call] = llmock.requests
    assert (call.provider, call.status, call.model) == (kind, 200, MODELS[kind])
    told = call.body["generationConfig"] if kind == "gemini" else call.body
    assert {"temperature": 0.5}.items() <= told.items()
    assert told.get("maxOutputTokens", told.get("max_tokens")) == 77


@DIALECTS
def test_a_vendor_that_keeps_answering_429_gets_no_more_calls(
    gateway: GatewayProcess, llmock: LLMock, kind: str
) -> None:
    first, second = configure(gateway, llmock, kind, priority=20), configure(gateway, llmock, OTHERS[kind])
    llmock.rate_limit(times=5, retry_after=30, provider=kind)

    answers = [gateway.ask().json["provider"] for _ in range(8)]

    assert answers == [second] * 8
    called = [kind, OTHERS[kind]] * 5 + [OTHERS[kind]] * 3
    assert [call.provider for call in llmock.requests] == called, f"{first} is left alone after five 429s in a row"


@DIALECTS
@pytest.mark.parametrize("status", [401, 404, 500, 503, 529])
def test_another_vendor_answers_when_one_fails(gateway: GatewayProcess, llmock: LLMock, kind: str, status: int) -> None:
    configure(gateway, llmock, kind, priority=20)
    second = configure(gateway, llmock, OTHERS[kind])
    llmock.fail(status, provider=kind)

    assert gateway.ask().json["provider"] == second
    assert [call.status for call in llmock.requests] == [status, 200]
    llmock.assert_resilient()


@DIALECTS
def test_an_error_of_the_request_itself_is_returned_without_a_retry(
    gateway: GatewayProcess, llmock: LLMock, kind: str
) -> None:
    name = configure(gateway, llmock, kind)
    llmock.context_overflow(provider=kind)

    response = gateway.ask()

    assert (response.status, response.headers["x-should-retry"]) == (502, "false")
    said = "This model's maximum context length was exceeded."
    assert response.json["detail"] == f"Provider {name}: answered 400: {said}"
    assert len(llmock.requests) == 1
    llmock.assert_resilient(strict=True)


@DIALECTS
def test_the_only_vendor_is_retried_after_its_retry_after(gateway: GatewayProcess, llmock: LLMock, kind: str) -> None:
    name = configure(gateway, llmock, kind)
    llmock.fail(503, retry_after=0.5, provider=kind)

    assert gateway.ask().json["provider"] == name
    assert [call.status for call in llmock.requests] == [503, 200]
    llmock.assert_resilient(strict=True)


@pytest.mark.parametrize("kind", ["anthropic", "gemini"])
@pytest.mark.parametrize(("said", "canonical"), [("content_filter", "content_filter"), ("length", "length")])
def test_the_finish_reason_is_translated(
    gateway: GatewayProcess, llmock: LLMock, kind: str, said: str, canonical: str
) -> None:
    configure(gateway, llmock, kind)
    llmock.add(Reply(text="So far", finish_reason=said, match=Match(provider=kind)))

    answer = gateway.ask().json

    assert (answer["content"], answer["finish_reason"]) == ("So far", canonical)


class TestJsonMode:
    @DIALECTS
    def test_json_mode_returns_the_vendors_json(self, gateway: GatewayProcess, llmock: LLMock, kind: str) -> None:
        configure(gateway, llmock, kind)
        if kind == "anthropic":
            llmock.call_tool("json_answer", {"capital": "Paris"})
        else:
            llmock.reply('{"capital":"Paris"}')

        answer = gateway.ask(json_mode=True).json

        assert (answer["content"], answer["finish_reason"]) == ('{"capital":"Paris"}', "stop")

    @DIALECTS
    def test_prose_is_replaced_by_another_vendors_json(
        self, gateway: GatewayProcess, llmock: LLMock, kind: str
    ) -> None:
        configure(gateway, llmock, kind, priority=20)
        second = configure(gateway, llmock, OTHERS[kind])
        llmock.tool_mode("off").reply("It is Paris.", provider=kind).reply("```json\n{}\n```", provider=OTHERS[kind])

        answer = gateway.ask(json_mode=True).json

        assert (answer["provider"], answer["content"]) == (second, "{}")


class Broken:
    """A server that answers all requests with status 200 and `body`."""

    def __init__(self) -> None:
        self.body = b""
        broken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-length", str(len(broken.body)))
                self.end_headers()
                self.wfile.write(broken.body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    made = Broken()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@DIALECTS
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Maintenance</html>", b'{"error": {"message": "odd"}}', b'{"content": [], "candidates": [{}]}'],
    ids=["empty", "page", "error", "no content"],
)
def test_an_empty_or_malformed_answer_fails_over(
    gateway: GatewayProcess, llmock: LLMock, broken: Broken, kind: str, body: bytes
) -> None:
    broken.body = body
    gateway.provider("broken", broken.url, kind=kind, priority=20)
    second = configure(gateway, llmock, "openai")

    assert gateway.ask().json["provider"] == second
