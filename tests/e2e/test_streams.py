"""Streams that break, stall or lose their client: the client's view, the usage record, the upstream connection."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import KEY, GatewayProcess, until
from tests.e2e.streaming_vendor import BEGIN, CUT, DONE, Pause, Step, StreamingVendor, delta, event, finish, usage

WORDS = [delta(content=word) for word in ("one ", "two ", "three ")]
ASKED = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Count"}]}


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


def ask(gateway: GatewayProcess, path: str = "/v1/chat/completions", **fields: Any) -> tuple[int, str]:
    """Send a streaming request. Returns its status and body, read to the end."""
    body = {**ASKED, **fields}
    answer = gateway.call("POST", path, body, cache_control="no-store")
    return answer.status, answer.body.decode()


def told(body: str) -> list[Any]:
    """Return the decoded data of the events."""
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]


def text(body: str) -> str:
    return "".join(choice["delta"].get("content") or "" for e in told(body) for choice in e.get("choices", []))


def records(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """Return the usage records of the last 100 requests, in order."""
    gateway.summary()
    with sqlite3.connect(gateway.directory / "data" / "gateway.db") as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM usage_records ORDER BY id DESC LIMIT 100")]
    return rows[::-1]


def configure(gateway: GatewayProcess, streamer: StreamingVendor, *steps: Step, **fields: Any) -> None:
    streamer.steps = steps
    gateway.provider("streamer", streamer.url, "streamer-1", **fields)


def test_events_pass_through_and_are_counted(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, finish(), usage(11, 7), DONE)

    status, body = ask(gateway, future_parameter={"x": 1})

    assert (status, text(body)) == (200, "one two three ")
    assert body.encode() == b"".join([BEGIN, *WORDS, finish(), DONE]), (
        "as they came, without the usage nobody asked for"
    )
    assert streamer.calls[0]["future_parameter"] == {"x": 1}
    assert streamer.calls[0]["stream_options"] == {"include_usage": True}
    record = records(gateway)[-1]
    assert (record["outcome"], record["stream"], record["surface"]) == ("ok", 1, "chat_completions")
    assert (record["input_tokens"], record["output_tokens"], record["cost_nanos"]) == (11, 7, 25_000)
    assert record["first_token_ms"] is not None


def test_usage_is_sent_to_clients_that_request_it(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, finish(), usage(11, 7), DONE)

    _, body = ask(gateway, stream_options={"include_usage": True})

    assert [e["usage"]["prompt_tokens"] for e in told(body) if e.get("usage")] == [11]


def test_missing_usage_of_a_stream_is_estimated(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, finish(), DONE)

    assert ask(gateway)[0] == 200

    record = records(gateway)[-1]
    assert (record["outcome"], record["cost_status"]) == ("ok", "estimated")
    assert (record["input_tokens"], record["output_tokens"]) == (13, 4)


BREAKS = [
    pytest.param([CUT], "ended", id="cut"),
    pytest.param([b"data: {garbage\n\n"], "Invalid chat completion chunk", id="garbage"),
    pytest.param([event({"error": {"message": "on fire", "type": "server_error"}})], "on fire", id="error"),
    pytest.param([], "ended before it was complete", id="no end"),
    pytest.param([b"data: " + b"x" * 4_500_000 + b"\n\n"], "larger than", id="huge"),
]


@pytest.mark.parametrize(("steps", "says"), BREAKS)
@pytest.mark.parametrize("surface", ["chat", "messages", "responses", "generate"])
def test_a_stream_that_breaks_in_its_middle_ends_with_an_error(
    gateway: GatewayProcess, streamer: StreamingVendor, steps: list[Step], says: str, surface: str
) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, *steps)
    paths = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
    if surface == "generate":
        body = {"user_id": "u", "service": "s", "prompt": "Count", "stream": True}
        answer = gateway.call("POST", "/api/v1/generate", body, cache_control="no-store")
        status, said = answer.status, answer.body.decode()
    else:
        asked = {"input": "Count", "messages": None} if surface == "responses" else {"max_tokens": 10}
        status, said = ask(gateway, paths[surface], **asked)

    last = told(said)[-1]
    assert status == 200
    assert "three" in said
    assert says in json.dumps(last).replace("closed too early", "ended"), last
    for complete in ("[DONE]", "message_stop", "response.completed", "event: result"):
        assert complete not in said
    record = records(gateway)[-1]
    assert (record["outcome"], record["error_code"], record["cost_status"]) == ("failed", "provider_error", "estimated")
    assert record["output_tokens"] >= 3


@pytest.mark.parametrize(
    "steps",
    [[CUT], [BEGIN, CUT], [b"data: {garbage\n\n"], [BEGIN], [Pause(3)], [event({"error": {"message": "no"}})]],
    ids=["cut", "cut after the head", "garbage", "no end", "stall", "error"],
)
def test_a_stream_that_breaks_before_its_first_word_fails_over(
    gateway: GatewayProcess, streamer: StreamingVendor, steps: list[Step]
) -> None:
    configure(gateway, streamer, *steps, priority=20, timeout_s=1)
    with StreamingVendor() as other:
        other.steps = [BEGIN, *WORDS, finish(), usage(11, 7), DONE]
        gateway.provider("other", other.url, "streamer-1")

        status, body = ask(gateway)

    assert (status, text(body)) == (200, "one two three ")
    assert "error" not in body
    record = records(gateway)[-1]
    assert (record["outcome"], record["provider"], len(json.loads(record["attempts"]))) == ("ok", "other", 2)


def test_a_stream_cut_at_the_length_limit_without_text_is_ok(
    gateway: GatewayProcess, streamer: StreamingVendor
) -> None:
    configure(gateway, streamer, finish("length"), usage(3, 0), DONE)

    status, body = ask(gateway)

    assert (status, text(body)) == (200, "")
    assert records(gateway)[-1]["outcome"] == "ok"


def test_a_streamed_answer_is_served_from_the_cache(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, finish(), usage(11, 7), DONE)
    asked = {**ASKED, "messages": [{"role": "user", "content": "Keep"}]}
    first, second = (gateway.call("POST", "/v1/chat/completions", asked) for _ in range(2))
    whole = gateway.call("POST", "/v1/chat/completions", {**asked, "stream": False})

    assert text(first.body.decode()) == text(second.body.decode()) == "one two three "
    assert second.body.endswith(DONE)
    assert (second.headers["x-gateway-cache"], whole.headers["x-gateway-cache"]) == ("hit", "hit")
    assert whole.json["choices"][0]["message"]["content"] == "one two three "
    assert len(streamer.calls) == 1


class Client:
    """A client that reads a stream step by step and can disconnect."""

    def __init__(self, gateway: GatewayProcess, prompt: str = "Count") -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        body = json.dumps({**ASKED, "messages": [{"role": "user", "content": prompt}]}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\ncache-control: no-store\r\n"
        )
        self.socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def read_until(self, wanted: bytes) -> bytes:
        seen = b""
        while wanted not in seen:
            data = self.socket.recv(65536)
            assert data, seen
            seen += data
        return seen

    def leave(self) -> None:
        self.socket.close()


@pytest.fixture(params=["drain", "abort"])
def alone(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path, on_disconnect=request.param, request_timeout_seconds=2) as gateway:
        gateway.policy = request.param  # type: ignore[attr-defined]
        yield gateway


def test_a_client_that_disconnects_is_billed_per_policy(alone: GatewayProcess, streamer: StreamingVendor) -> None:
    is_drained = alone.policy == "drain"  # type: ignore[attr-defined]
    configure(alone, streamer, BEGIN, *WORDS, Pause(1.5), *WORDS, finish(), usage(11, 7), DONE)
    client = Client(alone)
    client.read_until(b"three")
    left = time.monotonic()
    client.leave()

    if is_drained:
        until(lambda: streamer.ended == 1)
    else:
        assert streamer.gone.acquire(timeout=5)
        assert streamer.gone_at[0] - left < 1
    until(lambda: len(records(alone)) == 1)
    [record] = records(alone)
    if is_drained:
        assert (record["outcome"], record["output_tokens"], record["cost_status"]) == ("ok", 7, "exact")
    else:
        assert (record["outcome"], record["status"], record["cost_status"]) == ("cancelled", 499, "estimated")
        assert record["output_tokens"] == 4


def test_a_long_stream_is_not_cut_by_the_deadline(alone: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(alone, streamer, BEGIN, *[step for word in WORDS for step in (word, Pause(1))], finish(), DONE)

    status, body = ask(alone)

    assert (status, text(body)) == (200, "one two three ")
    assert records(alone)[-1]["outcome"] == "ok"


def test_a_stop_ends_a_stream_with_an_error(tmp_path: Path, streamer: StreamingVendor) -> None:
    with GatewayProcess(tmp_path, drain_seconds=1) as gateway:
        configure(gateway, streamer, BEGIN, *WORDS, Pause(20), finish(), DONE)
        client = Client(gateway)
        client.read_until(b"three")
        gateway.process.send_signal(signal.SIGTERM)

        said = client.read_until(b"0\r\n\r\n")
        client.leave()
        assert b"stopping" in said
        assert b"[DONE]" not in said
        assert gateway.ended() == 0
    with GatewayProcess(tmp_path) as again:
        record = records(again)[-1]
        assert (record["outcome"], record["output_tokens"]) == ("cancelled", 4)


def test_a_slow_stream_gets_keep_alive_comments(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, Pause(16), BEGIN, *WORDS, finish(), usage(11, 7), DONE)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=40)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(ASKED), {"x-service-key": KEY, "cache-control": "no-store"}
    )
    answer = connection.getresponse()
    first = answer.readline()
    body = answer.read().decode()
    connection.close()

    assert (answer.status, first) == (200, b": keep-alive\n")
    assert text(body) == "one two three "


def test_a_client_can_disconnect_before_the_first_word(alone: GatewayProcess, streamer: StreamingVendor) -> None:
    is_drained = alone.policy == "drain"  # type: ignore[attr-defined]
    configure(alone, streamer, BEGIN, Pause(1.5), *WORDS, finish(), usage(11, 7), DONE)
    client = Client(alone)
    until(lambda: len(streamer.calls) == 1)
    time.sleep(0.1)
    left = time.monotonic()
    client.leave()

    if is_drained:
        until(lambda: streamer.ended == 1)
    else:
        assert streamer.gone.acquire(timeout=5)
        assert streamer.gone_at[0] - left < 1
    until(lambda: len(records(alone)) == 1)
    [record] = records(alone)
    assert record["outcome"] == ("ok" if is_drained else "cancelled")
    assert record["cost_status"] == ("exact" if is_drained else "estimated")


def test_a_protocols_own_headers_reach_a_provider_of_that_protocol(
    gateway: GatewayProcess, streamer: StreamingVendor
) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, finish(), DONE)

    gateway.call("POST", "/v1/chat/completions", ASKED, openai_beta="x=1", cache_control="no-store", x_other="2")

    assert streamer.headers["openai-beta"] == "x=1"
    assert "x-other" not in streamer.headers
