"""Edge cases of streams: slow readers at the end, empty streams, disconnects with a pipelined request."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.streaming_vendor import BEGIN, DONE, HEAD, Pause, StreamingVendor, delta, event, finish, usage
from tests.e2e.test_streams import ASKED, WORDS, ask, configure, records, text, told


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


def request_bytes() -> bytes:
    body = json.dumps(ASKED).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\ncache-control: no-store\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def test_a_client_that_reads_slowly_gets_the_whole_stream(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    """The vendor ends the stream while the client's buffers are full."""
    big = [delta(content="x" * 10_000)] * 320
    configure(gateway, streamer, BEGIN, *big, finish(), usage(11, 7), DONE)
    for count in (280, 290, 300, 310, 320):
        streamer.steps = [BEGIN, *big[:count], finish(), usage(11, 7), DONE]
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(30)
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(request_bytes())
            time.sleep(0.5)
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                more = client.recv(1 << 20)
                assert more, "it ended too early"
                got += more
        assert (got.count(b'xxxx"}'), b"data: [DONE]" in got, b"error" in got) == (count, True, False)
    assert [record["outcome"] for record in records(gateway)[-5:]] == ["ok"] * 5


def test_a_stream_that_only_ends_is_a_502(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, DONE)
    assert gateway.call("POST", "/v1/chat/completions", ASKED).status == 502

    streamer.steps = [BEGIN, *WORDS, finish(), DONE]
    assert text(gateway.call("POST", "/v1/chat/completions", ASKED).body.decode()) == "one two three "


def test_an_empty_finish_reason_does_not_end_a_stream(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    word = event({**HEAD, "choices": [{"index": 0, "delta": {"content": "one"}, "finish_reason": ""}]})
    configure(gateway, streamer, word)

    _, body = ask(gateway)

    assert told(body)[-1]["error"]["message"].endswith("ended before it was complete")
    assert records(gateway)[-1]["outcome"] == "failed"


def test_a_translated_stream_includes_estimated_usage(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    configure(gateway, streamer, BEGIN, *WORDS, finish(), DONE)

    _, body = ask(gateway, "/v1/messages", max_tokens=50)

    [counted] = [e["usage"] for e in told(body) if e["type"] == "message_delta"]
    record = records(gateway)[-1]
    assert (counted["input_tokens"], counted["output_tokens"]) == (record["input_tokens"], record["output_tokens"])
    assert record["input_tokens"] > 0


def test_a_streamed_answer_that_is_not_json_is_not_cached(gateway: GatewayProcess, streamer: StreamingVendor) -> None:
    """The same request without a stream must return JSON, so that this answer cannot be cached for it."""
    configure(gateway, streamer, BEGIN, *WORDS, finish(), DONE)
    asked = {"user_id": "c", "service": "e2e", "json_mode": True, "messages": ASKED["messages"]}
    assert gateway.call("POST", "/api/v1/generate", {**asked, "stream": True}).status == 200

    assert gateway.call("POST", "/api/v1/generate", {**asked, "stream": True}).status == 200
    assert len(streamer.calls) == 2


def test_a_disconnect_is_noticed_behind_a_pipelined_request(tmp_path: Path, streamer: StreamingVendor) -> None:
    """While a pipelined request waits, the server does not read from the client, so it does not see a disconnect."""
    with GatewayProcess(tmp_path, on_disconnect="abort") as gateway:
        configure(gateway, streamer, BEGIN, *WORDS, Pause(20))
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(request_bytes() * 2)
            assert client.recv(65536)
            time.sleep(0.2)
        left = time.monotonic()

        assert streamer.gone.acquire(timeout=5)
        assert streamer.gone_at[0] - left < 1
