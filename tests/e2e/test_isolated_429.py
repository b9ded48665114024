"""A single provider that answers some calls with 429: a 429 of one request does not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.sdk_clients import closed_later
from tests.upstream import UpstreamProcess

MODEL = "random-15+status-429-after-1"
CALLS, THREADS = 200, 8
FLOOD = 60


@pytest.fixture
def running(tmp_path: Path) -> Iterator[GatewayProcess]:
    """Provide a new gateway for each test, since its log is read and its retries are counted over 10 seconds."""
    with GatewayProcess(tmp_path) as gateway:
        yield gateway


def whole(client: openai.OpenAI, model: str, number: int) -> str | None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": f"Hello {number}"}]
    return client.chat.completions.create(model=model, messages=messages).choices[0].message.content


def streamed(client: openai.OpenAI, model: str, number: int) -> str:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": f"Hello {number}"}]
    chunks = client.chat.completions.create(model=model, messages=messages, stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def ask_often(
    gateway: GatewayProcess, model: str, ask: Callable[[openai.OpenAI, str, int], str | None], calls: int
) -> list[bool]:
    """Send requests from THREADS clients without retries. Returns which were answered; the others must be 429."""
    client = closed_later(openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0))

    def answered(number: int) -> bool:
        try:
            return bool(ask(client, model, number))
        except openai.RateLimitError:
            return False

    with client, ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(answered, range(calls)))


@pytest.mark.parametrize("ask", [whole, streamed])
def test_15_percent_random_429s_are_answered_without_the_clients_retries(
    gateway: GatewayProcess, mock: UpstreamProcess, ask: Callable[[openai.OpenAI, str, int], str | None]
) -> None:
    gateway.provider("lone", mock.base_url, MODEL)

    answers = ask_often(gateway, MODEL, ask, CALLS)

    print(f"{sum(answers)} of {CALLS} answered")  # noqa: T201 - pytest shows it with a failure
    assert sum(answers) >= 190
    refused = sum(call.behaviour == MODEL for call in mock.seen().calls)
    assert refused >= CALLS // 10, "the mock refused too few for the test to mean anything"
    assert gateway.log.count("rate limit gate closed") <= 1  # five 429s in a row can happen by chance


@pytest.mark.parametrize("ask", [whole, streamed])
def test_a_flood_of_429s_is_not_answered_with_a_flood_of_calls(
    gateway: GatewayProcess, mock: UpstreamProcess, ask: Callable[[openai.OpenAI, str, int], str | None]
) -> None:
    model = "status-429-after-60"
    gateway.provider("lone", mock.base_url, model)

    assert ask_often(gateway, model, ask, FLOOD) == [False] * FLOOD

    assert mock.seen().total < 5 + THREADS
    assert gateway.log.count("rate limit gate closed") == 1
