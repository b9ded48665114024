"""A provider that answers some calls with 429, alone behind the gateway: one client's 429 is nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.upstream import UpstreamProcess

MODEL = "random-15+status-429-after-1"
CALLS, THREADS = 200, 8


def whole(client: openai.OpenAI, number: int) -> str | None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": f"Hello {number}"}]
    return client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content


def streamed(client: openai.OpenAI, number: int) -> str:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": f"Hello {number}"}]
    chunks = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("ask", [whole, streamed])
def test_15_percent_random_429s_are_answered_without_the_clients_retries(
    gateway: GatewayProcess, mock: UpstreamProcess, ask: Callable[[openai.OpenAI, int], str | None]
) -> None:
    gateway.provider("lone", mock.base_url, MODEL)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0)

    def answered(number: int) -> bool:
        try:
            return bool(ask(client, number))
        except openai.RateLimitError:
            return False

    with client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(answered, range(CALLS)))
    print(f"{sum(answers)} of {CALLS} answered")  # noqa: T201 - pytest shows it with a failure

    assert sum(answers) >= 150
    refused = sum(call.behaviour == MODEL for call in mock.seen().calls)
    assert refused >= CALLS // 10, "the mock refused too few for the test to mean anything"
