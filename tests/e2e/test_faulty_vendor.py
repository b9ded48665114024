"""A lone vendor that fails in many ways at random, played and judged by the mock `llmock`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from llmock.chaos import StreamChaos
from llmock.testing import LLMockServer
from llmock.verdict import judge
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.sdk_clients import closed_later

MODEL = "gpt-4o-mini"
CALLS, THREADS = 150, 8
MUST_ANSWER = 120
"""Without the gateway some 103 are answered. No retry helps streams that break after their beginning, up to 5 %."""
SOUND = 20
"""Calls before the first fault, after which five failures in a row, as chance has them, open no circuit breaker."""
RATES = {429: 0.15, 503: 0.10, 500: 0.05}


@pytest.fixture
def vendor() -> Iterator[LLMockServer]:
    """Provide a vendor without faults."""
    random.seed(1)  # of the mock's faults, though threads draw them in any order
    with LLMockServer() as running:
        yield running


def become_faulty(vendor: LLMockServer) -> None:
    """Let the vendor fail 30 % of all calls from now on, and break off 5 % of the streams."""
    vendor.state.chaos.error_rates = RATES
    vendor.state.stream_chaos = StreamChaos(fault_rates=(("disconnect", 0.05),))


def outcome(client: openai.OpenAI, number: int) -> str:
    """Ask one question, every second one as a stream. Returns `answered` or the client's error."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"Question {number}: say something"}]
    try:
        if number % 2:
            chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
            ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
            return "answered" if ends else "a stream without an end"
        answer = client.chat.completions.create(model=MODEL, messages=messages)
        return "answered" if answer.choices[0].message.content else "an empty answer"
    except openai.APIError as error:
        return f"{type(error).__name__}: {error.message}"


def test_a_vendor_with_many_faults_is_handled_without_the_clients_retries(tmp_path: Path, vendor: LLMockServer) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.provider("acme", vendor.base_url("openai"), MODEL)
        client = closed_later(openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0))
        with client, ThreadPoolExecutor(THREADS) as pool:
            assert [outcome(client, -number) for number in range(SOUND)] == ["answered"] * SOUND
            become_faulty(vendor)
            outcomes = Counter(pool.map(lambda number: outcome(client, number), range(CALLS)))
        summary = gateway.summary()

    assert outcomes["answered"] >= MUST_ANSWER, outcomes
    assert outcomes["a stream without an end"] == outcomes["an empty answer"] == 0
    records = vendor.state.journal.records()
    assert sum(record.fault is not None for record in records) >= CALLS // 5, "too few faults to mean anything"
    assert judge(records).errors == ()
    assert summary["total_requests"] == SOUND + CALLS
    assert summary["error_requests"] == CALLS - outcomes["answered"]
