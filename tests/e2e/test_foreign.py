"""Fields that only the vendor's protocol knows pass through, are billed, and do not affect other requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.process import KEY, GatewayProcess
from tests.e2e.streaming_vendor import DONE, HEAD, StreamingVendor, delta, event, finish

TOOLS = [{"type": "custom", "custom": {"name": "sh"}}]
CALL = {"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
WHOLE = {
    **HEAD,
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [CALL]}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
}
ASKED = {"model": "auto", "messages": [{"role": "user", "content": "List"}], "tools": TOOLS}


@pytest.fixture
def vendor(gateway: GatewayProcess) -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        gateway.provider("streamer", running.url, "streamer-1")
        yield running


def ask(gateway: GatewayProcess, **fields: Any) -> Any:
    return gateway.call("POST", "/v1/chat/completions", {**ASKED, **fields})


def test_a_call_of_a_custom_tool_passes_through(gateway: GatewayProcess, vendor: StreamingVendor) -> None:
    vendor.answer = WHOLE
    for _ in range(4):  # more failures than open the circuit breaker
        answer = ask(gateway)
        assert (answer.status, answer.json) == (200, WHOLE)
    assert len(vendor.calls) == 4, "asked once each, and nothing kept that could not be told again"


def test_a_streamed_call_of_a_custom_tool_passes_through(gateway: GatewayProcess, vendor: StreamingVendor) -> None:
    vendor.steps = [delta(tool_calls=[{**CALL, "index": 0}]), finish("tool_calls"), DONE]
    for _ in range(4):
        answer = ask(gateway, stream=True)
        assert (answer.status, answer.body) == (200, b"".join(vendor.steps))  # type: ignore[arg-type]
    assert len(vendor.calls) == 4


@pytest.mark.parametrize("counts", [{"prompt_tokens": 0, "completion_tokens": 0}, {}])
def test_usage_events_that_the_client_did_not_request_are_removed(
    gateway: GatewayProcess, vendor: StreamingVendor, counts: Any
) -> None:
    words = [delta(content="Hello"), finish()]
    vendor.steps = [*words, event({**HEAD, "choices": [], "usage": counts}), DONE]

    assert ask(gateway, stream=True).body == b"".join([*words, DONE])


@pytest.mark.parametrize("depth", [398, 700, 975, 990, 5000])
def test_a_deeply_nested_body_is_served_or_rejected_with_400(
    gateway: GatewayProcess, vendor: StreamingVendor, depth: int
) -> None:
    vendor.answer = WHOLE
    text = '{"model":"auto","messages":[{"role":"user","content":"x"}],"x":' + '{"a":' * depth + "1" + "}" * (depth + 1)

    answer = gateway.send("POST", "/v1/chat/completions", text, {"x-service-key": KEY})

    assert answer.status == (200 if depth < 400 else 400)
