"""The mock vendor itself: its responses, faults and bills follow the behaviour it is set to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest

from tests.upstream import MockUpstream, UpstreamProcess, completion_tokens, prompt_tokens, read_bills
from tests.upstream.behaviour import FAULTS, OK, REFUSALS, SHAPES, parse


@pytest.fixture
async def mock() -> AsyncIterator[MockUpstream]:
    async with MockUpstream() as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("It never came to be")


async def call(port: int, model: str = "ok", *, key: str = "sk-test", prompt: str = "Hi", **more: Any) -> bytes:
    """Send a chat completion request, and return the response's bytes until the connection ends."""
    body = msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": prompt}], **more})
    return await send(port, "POST /v1/chat/completions", body, key)


async def send(port: int, what: str, body: bytes = b"", key: str = "sk-test") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{what} HTTP/1.1\r\nhost: mock\r\nAuthorization: Bearer {key}\r\nconnection: close\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def content(answer: bytes) -> Any:
    choice = json.loads(answer.split(b"\r\n\r\n", 1)[1])["choices"][0]
    return choice["message"]["content"]


async def test_a_completion_is_as_large_as_the_benchmark_says_and_billed(mock: MockUpstream) -> None:
    head, body = (await call(mock.port, "gpt-4o-mini", prompt="marker:abc-1 hello")).split(b"\r\n\r\n")
    answer = json.loads(body)
    assert head.startswith(b"HTTP/1.1 200")
    assert 670 <= len(body) <= 710
    [seen] = mock.calls
    assert answer["id"] == seen.id
    assert answer["model"] == "gpt-4o-mini"
    assert answer["usage"]["prompt_tokens"] == seen.prompt_tokens == prompt_tokens(1)
    assert answer["usage"]["completion_tokens"] == seen.completion_tokens == completion_tokens(1)
    assert (seen.marker, seen.prompt, seen.key) == ("abc-1", "marker:abc-1 hello", "sk-test")
    assert seen.json["model"] == "gpt-4o-mini"


async def test_calls_are_numbered_on_after_a_reset(mock: MockUpstream) -> None:
    await call(mock.port)
    mock.reset()
    await call(mock.port)
    assert mock.total == 1
    assert mock.calls[0].n == 2


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("status-500", 500),
        ("status-401", 401),
        ("status-529", 529),
        ("bad-json", 200),
        ("empty", 200),
        ("status-302", 302),
    ],
)
async def test_the_models_name_chooses_the_response(mock: MockUpstream, model: str, expected: int) -> None:
    assert status(await call(mock.port, model)) == expected


async def test_retry_after_is_sent_only_if_the_behaviour_names_it(mock: MockUpstream) -> None:
    assert b"\r\nretry-after: 3\r\n" in await call(mock.port, "status-429-after-3")
    assert b"retry-after" not in await call(mock.port, "status-429")


@pytest.mark.parametrize(
    ("model", "expected"),
    [("json", True), ("not-json-content", False), ("length", False), ("null-content", True), ("ok", False)],
)
async def test_content_is_json_only_if_the_behaviour_requires_it(
    mock: MockUpstream, model: str, expected: bool
) -> None:
    text = content(await call(mock.port, model))
    try:
        json.loads(text if text is not None else "null")
    except ValueError:
        assert not expected
    else:
        assert expected


async def test_requested_json_is_sent_unless_the_behaviour_forbids_it(mock: MockUpstream) -> None:
    asked = {"type": "json_object"}
    assert json.loads(content(await call(mock.port, response_format=asked)))
    assert "{" not in content(await call(mock.port, "not-json-content", response_format=asked))


async def test_echo_returns_the_prompt(mock: MockUpstream) -> None:
    assert content(await call(mock.port, "echo", prompt="Grüße")) == "Grüße"


async def test_usage_can_be_missing_or_wrong(mock: MockUpstream) -> None:
    assert b'"usage":' not in await call(mock.port, "no-usage")
    assert b'"prompt_tokens":-12' in await call(mock.port, "bad-usage")


async def test_the_mock_sends_a_huge_answer(mock: MockUpstream) -> None:
    assert len(await call(mock.port, "huge")) > 10_000_000


async def test_connections_break_as_the_behaviour_requires(mock: MockUpstream) -> None:
    with pytest.raises(ConnectionResetError):
        await call(mock.port, "reset")
    assert await call(mock.port, "close") == b""
    assert (await call(mock.port, "garbage")).startswith(b"220")
    head, half = (await call(mock.port, "half")).split(b"\r\n\r\n")
    assert 0 < len(half) < int(head.rsplit(b" ", 1)[1])
    assert mock.total == 4


@pytest.mark.parametrize("model", ["stall", "stall-body"])
async def test_stalled_calls_are_in_flight_until_the_client_disconnects(mock: MockUpstream, model: str) -> None:
    task = asyncio.create_task(call(mock.port, model))
    await until(lambda: mock.in_flight == 1)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not mock.connections)
    assert mock.in_flight == 0


async def test_a_drip_is_in_flight_until_its_last_byte(mock: MockUpstream) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    body = json.dumps({"model": "drip", "messages": []}).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(3) == b'{"i'
    assert mock.in_flight == 1
    writer.close()
    await until(lambda: not mock.connections)


async def test_a_leak_quotes_the_key(mock: MockUpstream) -> None:
    answer = await call(mock.port, "leak", key="sk-secret")
    assert status(answer) == 401
    assert b"Incorrect API key provided: sk-secret." in answer


async def test_behaviours_can_be_joined(mock: MockUpstream) -> None:
    start = monotonic()
    assert status(await call(mock.port, "slow-50+status-503")) == 503
    assert monotonic() - start >= 0.05


async def test_a_flaky_mock_fails_every_third_call(mock: MockUpstream) -> None:
    assert [status(await call(mock.port, "flaky-3")) for _ in range(6)] == [200, 200, 500, 200, 200, 500]
    assert [seen.behaviour for seen in mock.calls] == ["ok", "ok", "flaky-3"] * 2


async def test_an_override_wins_over_the_key_and_the_key_over_the_model(mock: MockUpstream) -> None:
    assert status(await call(mock.port, "ok", key="status-401")) == 401
    mock.behave("status-503", model="ok", times=2)
    answers = [status(await call(mock.port, "ok", key="status-401")) for _ in range(3)]
    assert answers == [503, 503, 401]
    mock.behave("status-404")
    assert status(await call(mock.port, "whatever")) == 404
    mock.behave(None)
    assert status(await call(mock.port, "whatever")) == 200
    with pytest.raises(ValueError, match="names no behaviour"):
        mock.behave("statsu-500")


async def test_random_behaviours_repeat_after_a_reset(mock: MockUpstream) -> None:
    async def drawn() -> list[int]:
        mock.reset()
        return [status(await call(mock.port, "random-15+status-429-after-1")) for _ in range(100)]

    first = await drawn()
    assert 5 <= first.count(429) <= 30
    assert first.count(200) == 100 - first.count(429)
    assert await drawn() == first


@pytest.mark.parametrize("word", REFUSALS)
async def test_refusals_have_a_vendors_status_and_error(mock: MockUpstream, word: str) -> None:
    answer = await call(mock.port, word)
    assert status(answer) == REFUSALS[word][0]
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1]) == {"error": REFUSALS[word][1]}


async def test_a_stream_sends_the_content_in_pieces(mock: MockUpstream) -> None:
    head, body = (await call(mock.port, "echo", prompt="Hello there", stream=True)).split(b"\r\n\r\n", 1)
    *events, done, rest = body.split(b"\n\n")
    assert b"text/event-stream" in head
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    texts = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "Hello there"
    assert chunks[-1]["usage"] == {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}
    assert status(await call(mock.port, "status-503", stream=True)) == 503


async def test_the_model_list_obeys_the_keys_behaviour(mock: MockUpstream) -> None:
    assert b'"gpt-4o-mini"' in await send(mock.port, "GET /v1/models")
    assert status(await send(mock.port, "GET /v1/models", key="status-401")) == 401
    assert (mock.listed, mock.total) == (2, 0)


async def test_invalid_requests_are_refused_and_not_billed(mock: MockUpstream) -> None:
    assert status(await send(mock.port, "POST /v1/chat/completions", b"{")) == 400
    assert status(await send(mock.port, "GET /nothing")) == 404
    assert status(await send(mock.port, "no HTTP")) == 400
    assert mock.total == 0


def test_only_names_of_behaviours_are_parsed() -> None:
    assert parse("gpt-4o-mini") is None
    assert parse("status-99") is None
    assert parse("reset+half") is None
    assert parse("ok") == OK
    for word in SHAPES | FAULTS | REFUSALS.keys():
        assert parse(word) is not None


@pytest.mark.parametrize("fsync", [False, True])
def test_a_process_bills_before_it_answers_and_can_be_controlled(tmp_path: Path, fsync: bool) -> None:
    journal = tmp_path / "bills.jsonl"
    with UpstreamProcess(journal=journal, fsync=fsync, kept_calls=2) as mock:
        for marker in ("a", "b", "c"):
            asyncio.run(call(mock.port, "status-500", prompt=f"marker:{marker}"))
        bills = read_bills(journal)
        assert [bill.marker for bill in bills] == ["a", "b", "c"]
        assert [bill.prompt_tokens for bill in bills] == [prompt_tokens(n) for n in (1, 2, 3)]
        seen = mock.seen()
        assert (seen.total, len(seen.calls), seen.calls[-1].id) == (3, 2, bills[-1].id)
        mock.behave("status-404", times=1)
        assert status(asyncio.run(call(mock.port))) == 404
        mock.reset()
        assert mock.seen().total == 0
        os.kill(mock.pid, signal.SIGKILL)
    assert len(read_bills(journal)) == 4
