"""Relay of a stream to its client: its final events are sent only once the usage record is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.upstream_call import Success, UpstreamCall
from llm_gateway.errors import ProviderFailed
from llm_gateway.protocols import gemini, openai_chat
from llm_gateway.protocols.contract import RawEvent, StreamReader
from llm_gateway.sse import Event, Splitter
from llm_gateway.worker.pipeline.open_stream import AttemptCallbacks, OpenStream
from llm_gateway.worker.pipeline.relay import MOST_HELD_BYTES, Relay
from llm_gateway.worker.pipeline.upstream_events import UpstreamEvents
from tests.worker.pipeline.fakes import provider


class FakeEvents(UpstreamEvents):
    """Upstream events that are delivered one by one."""

    def __init__(self, *events: bytes) -> None:
        self.events = [event for data in events for event in Splitter(10**7).take(data)]

    async def deliver(self, take: Callable[[list[Event]], bool], idle_s: float) -> bool:
        await asyncio.sleep(0)
        while self.events:
            if not take([self.events.pop(0)]):
                return True
        return False

    def close(self) -> None:
        self.events.clear()


class Client:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.before: list[bytes] | None = None
        """The events sent before the record was made durable."""

    async def ready(self) -> None:
        await asyncio.sleep(0)

    def take(self, raw_events: list[RawEvent]) -> bool:
        self.sent += [raw_event.raw for raw_event in raw_events]
        return True

    async def settled(self, _served: Success) -> Answer:
        self.before = list(self.sent)
        return cast(Answer, "answer")


async def relayed(reader: StreamReader, *events: bytes, call: UpstreamCall | None = None) -> Client:
    client = Client()
    call = call or UpstreamCall("/", b"", is_native=True)
    callbacks = AttemptCallbacks(
        lambda _stream: cast(Success, "served"), lambda _stream, cause, _is_ours: ProviderFailed(str(cause))
    )
    stream = OpenStream(FakeEvents(*events), reader, Candidate.of(provider("a"), "m1"), call, callbacks)
    relay = Relay(stream, route=b"model", settled=client.settled, failed=cast(Any, None), gone=lambda: None)
    assert relay.route == b"model"
    await relay.run(client)
    return client


def generated(text: str, reason: str = "") -> bytes:
    end = f',"finishReason":"{reason}"' if reason else ""
    return f'data: {{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}{end}}}]}}\n\n'.encode()


USAGE = b'data: {"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2}}\n\n'
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("reader", "events", "before"),
    [
        (gemini.StreamReader, [generated("one"), generated("two", "STOP")], 1),
        (gemini.StreamReader, [generated("one", "STOP")], 0),
        (gemini.StreamReader, [generated("one"), generated("two", "STOP"), USAGE], 1),
        (openai_chat.StreamReader, [FIRST, FINISH, DONE], 2),
    ],
)
async def test_the_end_of_the_reply_is_sent_once_the_record_is_durable(
    reader: Callable[[], StreamReader], events: list[bytes], before: int
) -> None:
    client = await relayed(reader(), *events)

    assert client.sent == events
    assert client.before == events[:before]


async def test_a_choice_that_begins_late_is_not_held_back() -> None:
    late = generated("three").replace(b'{"content"', b'{"index":1,"content"')
    last = generated("four", "STOP").replace(b'{"content"', b'{"index":1,"content"')
    events = [generated("one"), generated("two", "STOP"), late, last]

    client = await relayed(gemini.StreamReader(), *events)

    assert client.sent == events
    assert client.before == events[:3]


async def test_events_after_a_possible_end_are_held_back_up_to_a_size() -> None:
    events = [generated("one", "STOP"), *[generated("x" * 50_000)] * 20]

    client = await relayed(gemini.StreamReader(), *events)

    assert client.sent == events
    assert client.before is not None
    assert sum(map(len, events)) - sum(map(len, client.before)) <= MOST_HELD_BYTES + len(events[1])


async def test_names_of_tools_that_a_vendor_could_not_take_are_restored_in_its_events() -> None:
    tool = b'{"index":0,"id":"a","function":{"name":"short_1a2b3c4d","arguments":"{}"}}'
    called = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[%b]}}]}\n\n' % tool
    said = b'data: {"choices":[{"index":0,"delta":{"content":"I call \\"short_1a2b3c4d\\""}}]}\n\n'
    renamed = ((b'"short_1a2b3c4d"', b'"the client\'s own name"'),)
    call = UpstreamCall("/", b"", is_native=True, renamed=renamed)

    client = await relayed(openai_chat.StreamReader(), called, said, FINISH, DONE, call=call)

    assert client.sent[0] == called.replace(b"short_1a2b3c4d", b"the client's own name")
    assert client.sent[1] == said
