"""Tests of what replies report about their price: the tier that served them, searches, and vendors' own counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_gateway.domain.conversation import BillingUpdate, ChoiceEnd, Chunk, Completion, ReplyStart, TextDelta
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import RawEvent, ReplyContext
from llm_gateway.sse import Event
from tests.protocols.vendor_replies import DIALECTS, Dialect, Path, changed, encoded, read_stream
from tests.rows import each_row

ODD = ["2", True, 1e30, 10**30, -1, 2.5, [], {"a": 1}, "x"]


def both(name: str, path: Path, value: Any) -> list[Completion]:
    """Read a whole reply and a stream in which the field at `path` has this value."""
    dialect = placeless(DIALECTS[name])
    events: list[dict[str, Any]] = []
    for event in dialect.stream:
        holder = next((key for key in ("response", "message") if isinstance(event.get(key), dict)), None)
        if name == "chat" and path[0] == "usage":
            events.append(changed(event, path, value) if "usage" in event else event)
        elif holder is not None:
            events.append(
                {**event, holder: changed(event[holder], path, value) if path[0] in event[holder] else event[holder]}
            )
        elif path[0] in event and not isinstance(event[path[0]], int):
            events.append(changed(event, path, value))
        else:
            events.append(event)
    for event in events:  # a response in progress has no usage
        if event.get("type") == "response.created":
            event["response"]["usage"] = None
    return [dialect.read(encoded(changed(dialect.whole, path, value))), read_stream(dialect, events)[0]]


def placeless(dialect: Dialect) -> Dialect:
    """Return the dialect with samples whose inference had no place of its own (Anthropic's sample was in the US)."""
    text = json.dumps([dialect.whole, dialect.stream]).replace('"inference_geo": "us"', '"inference_geo": "global"')
    whole, stream = json.loads(text)
    return dialect._replace(whole=whole, stream=stream)


TIERS: dict[str, tuple[str, Path, list[tuple[Any, str | None]]]] = {
    "chat": (
        "chat",
        ("service_tier",),
        [("default", None), ("on_demand", None), (None, None), ("", None), (7, "7"), ([], None), ("flex", "flex"),
         ("Priority", "priority"), ("scale", "scale"), ("auto", None), ("x" * 32, "x" * 32), ("x" * 33, "other")],
    ),
    "responses": (
        "responses", ("service_tier",),
        [("default", None), ("auto", None), ("flex", "flex"), ("priority", "priority"), ({}, None)],
    ),
    "messages": (
        "messages",
        ("usage", "service_tier"),
        [("standard", None), ("priority", "priority"), ("batch", "batch"), (None, None), (3.0, "3.0")],
    ),
    "speed": ("messages", ("usage", "speed"), [("standard", None), ("fast", "fast"), (None, None), ([], None)]),
    "place": (
        "messages",
        ("usage", "inference_geo"),
        [("global", None), ("not_available", None), ("us", "geo:us"), ("eu", "geo:eu"), (None, None), ({}, None)],
    ),
    "gemini": (
        "gemini", ("usageMetadata", "serviceTier"),
        [("standard", None), ("flex", "flex"), ("priority", "priority")],
    ),
    "Vertex AI": (
        "gemini",
        ("usageMetadata", "trafficType"),
        [("ON_DEMAND", None), ("ON_DEMAND_PRIORITY", "priority"), ("ON_DEMAND_FLEX", "flex"),
         ("TRAFFIC_TYPE_UNSPECIFIED", None), ("PROVISIONED_THROUGHPUT", "provisioned_throughput"), (1, "1")],
    ),
}  # fmt: skip


@each_row(
    ("name", "path", "reported", "tier"),
    [(name, path, reported, tier) for name, path, cases in TIERS.values() for reported, tier in cases],
)
def test_the_tier_of_a_reply_is_read_whole_and_streamed(name: str, path: Path, reported: Any, tier: str | None) -> None:
    assert [completion.service_tier for completion in both(name, path, reported)] == [tier, tier]


def test_speed_and_place_multiply_the_price_of_the_tier() -> None:
    dialect = DIALECTS["messages"]
    usage = {**dialect.whole["usage"], "service_tier": "batch", "speed": "fast", "inference_geo": "us"}
    assert dialect.read(encoded({**dialect.whole, "usage": usage})).service_tier == "batch+fast+geo:us"


def test_the_tier_of_a_stream_that_is_cut_is_the_one_reported_so_far() -> None:
    for name, field in (("chat", None), ("messages", "message")):
        dialect = placeless(DIALECTS[name])
        first = dialect.stream[0]
        if field is None:
            first = {**first, "service_tier": "flex"}
        else:
            first = changed(first, (field, "usage", "service_tier"), "priority")
        completion, is_complete = read_stream(dialect._replace(done=b""), [first])
        assert (completion.service_tier, is_complete) == ("flex" if field is None else "priority", False)


def test_the_tier_that_served_a_response_replaces_the_one_that_was_requested() -> None:
    dialect = DIALECTS["responses"]
    first = changed(dialect.stream[0], ("response", "service_tier"), "priority")
    search = {"type": "response.output_item.done", "output_index": 1, "item": SEARCH}
    events = [first, search, *[event for event in dialect.stream[1:] if event["type"] != search["type"]]]
    cut, complete = read_stream(dialect, events[:2])[0], read_stream(dialect, events)[0]
    assert (cut.service_tier, cut.units) == ("priority", {"web_search": 1})
    assert (complete.service_tier, complete.units) == (None, {"web_search": 1})


@pytest.mark.parametrize(
    ("count", "units"), [(3, {"web_search": 3}), (3.0, {"web_search": 3}), (0, None), (None, None)], ids=repr
)
def test_searches_of_anthropic_are_counted(count: Any, units: dict[str, int] | None) -> None:
    for completion in both("messages", ("usage", "server_tool_use"), {"web_search_requests": count}):
        assert (completion.units, completion.usage_estimated) == (units, False)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_invalid_count_of_searches_makes_the_usage_estimated(odd: Any) -> None:
    for value in ({"web_search_requests": odd}, odd):
        if value in ([], {"a": 1}) and value is odd:
            value = [odd]  # noqa: PLW2901 - an object without counts is valid
        for completion in both("messages", ("usage", "server_tool_use"), value):
            assert (completion.units, completion.usage_estimated) == (None, True)


def response(*items: dict[str, Any]) -> list[Completion]:
    """Read a whole response and a stream with these output items."""
    dialect = DIALECTS["responses"]
    events: list[dict[str, Any]] = [event for event in dialect.stream if event["type"] != "response.output_item.done"]
    made = [
        {"type": f"response.output_item.{kind}", "output_index": 1, "item": item}
        for item in items
        for kind in ("added", "done")
    ]
    whole = {**dialect.whole, "output": [dialect.whole["output"][1], *items]}
    return [dialect.read(encoded(whole)), read_stream(dialect, [*events[:-1], *made, events[-1]])[0]]


SEARCH = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "x"}}
OPENED = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "open_page", "url": "x"}}


@pytest.mark.parametrize(
    ("items", "units"),
    [
        ([], None),
        ([SEARCH], {"web_search": 1}),
        ([SEARCH, OPENED, SEARCH], {"web_search": 2}),
        ([{"type": "web_search_call"}], {"web_search": 1}),
        ([{"type": "web_search_call", "action": 7}], {"web_search": 1}),
        ([OPENED], None),
        ([{"type": "file_search_call"}, SEARCH], {"file_search": 1, "web_search": 1}),
        ([{"type": "code_interpreter_call"}], {"code_interpreter": 1}),
        ([{"type": "image_generation_call", "result": "x"}], {"image_generation": 1}),
        ([{"type": "mcp_call", "action": 3}], None),
    ],
    ids=str,
)
def test_billed_items_of_a_response_are_counted(items: list[dict[str, Any]], units: dict[str, int] | None) -> None:
    assert [completion.units for completion in response(*items)] == [units, units]


@pytest.mark.parametrize(
    ("metadata", "units"),
    [
        ({"webSearchQueries": ["a", "b"]}, {"web_search": 2}),
        ({"webSearchQueries": ["a", "", "a", 7]}, {"web_search": 1}),
        ({"webSearchQueries": []}, None),
        ({"webSearchQueries": "a"}, None),
        ({}, None),
        ([], None),
    ],
    ids=str,
)
def test_different_searches_of_gemini_are_counted(metadata: Any, units: dict[str, int] | None) -> None:
    dialect = DIALECTS["gemini"]
    path: Path = ("candidates", 0, "groundingMetadata")
    whole = dialect.read(encoded(changed(dialect.whole, path, metadata)))
    events = [*dialect.stream[:1], *[changed(event, path, metadata) for event in dialect.stream[1:]]]
    assert [whole.units, read_stream(dialect, events)[0].units] == [units, units]


def test_sources_of_xais_live_search_are_counted() -> None:
    for completion in both("chat", ("usage", "num_sources_used"), 4):
        assert completion.units == {"search_source": 4}


CACHED: dict[str, tuple[str, dict[str, Any], Usage]] = {
    "DeepSeek: https://api-docs.deepseek.com/guides/kv_cache": (
        "chat",
        {"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109, "prompt_cache_hit_tokens": 64,
         "prompt_cache_miss_tokens": 36, "completion_tokens_details": {"reasoning_tokens": 5}},
        Usage(input_tokens=100, output_tokens=9, cache_read_tokens=64, reasoning_tokens=5),
    ),
    "DeepSeek, in both places": (
        "chat",
        {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64},
         "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        Usage(input_tokens=100, output_tokens=9, cache_read_tokens=64),
    ),
    "Moonshot: https://platform.kimi.ai/docs/api/chat": (
        "chat",
        {"prompt_tokens": 19, "completion_tokens": 13, "total_tokens": 32, "cached_tokens": 12},
        Usage(input_tokens=19, output_tokens=13, cache_read_tokens=12),
    ),
    "OpenRouter: https://openrouter.ai/docs/use-cases/usage-accounting": (
        "chat",
        {"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 0}, "cost": 0.95,
         "cost_details": {"upstream_inference_cost": 19}, "prompt_tokens": 194, "total_tokens": 196,
         "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 100, "audio_tokens": 0}},
        Usage(input_tokens=194, output_tokens=2, cache_read_tokens=20, cache_write_tokens=100),
    ),
    "xAI: https://docs.x.ai/developers/advanced-api-usage/prompt-caching/usage-and-pricing": (
        "chat",
        {"prompt_tokens": 125, "completion_tokens": 48, "total_tokens": 173,
         "prompt_tokens_details": {"text_tokens": 125, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 98},
         "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0}},
        Usage(input_tokens=125, output_tokens=48, cache_read_tokens=98),
    ),
    "Mistral: https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching": (
        "chat",
        {"prompt_tokens": 801, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 768}},
        Usage(input_tokens=801, output_tokens=2, cache_read_tokens=768),
    ),
    "Groq: https://console.groq.com/docs/prompt-caching#tracking-cache-usage": (
        "chat",
        {"queue_time": 0.1, "prompt_tokens": 4641, "prompt_time": 0.009, "completion_tokens": 1817,
         "completion_time": 5.57, "total_tokens": 6458, "total_time": 5.58,
         "prompt_tokens_details": {"cached_tokens": 4608}},
        Usage(input_tokens=4641, output_tokens=1817, cache_read_tokens=4608),
    ),
    "xAI's Responses, should they count reasoning apart as its chat does": (
        "responses",
        {"input_tokens": 125, "output_tokens": 48, "total_tokens": 273,
         "output_tokens_details": {"reasoning_tokens": 100}},
        Usage(input_tokens=125, output_tokens=148, reasoning_tokens=100),
    ),
}  # fmt: skip


@pytest.mark.parametrize("vendor", CACHED)
def test_cached_and_reasoning_tokens_are_read_where_the_vendor_reports_them(vendor: str) -> None:
    name, reported, usage = CACHED[vendor]
    for completion in both(name, ("usage",), reported):
        assert (completion.usage, completion.usage_estimated) == (usage, False)


@pytest.mark.parametrize("field", ["prompt_cache_hit_tokens", "cached_tokens"])
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_invalid_cached_tokens_leave_the_totals_and_make_the_usage_estimated(field: str, odd: Any) -> None:
    for completion in both("chat", ("usage",), {"prompt_tokens": 19, "completion_tokens": 13, field: odd}):
        usage = completion.usage
        assert (usage.input_tokens, usage.output_tokens, completion.usage_estimated) == (19, 13, True)


@pytest.mark.parametrize("field", ["prompt_cache_hit_tokens", "cached_tokens"])
def test_cached_tokens_may_be_whole_floats_and_null(field: str) -> None:
    for value, cached in ((12.0, 12), (None, 0), (0, 0)):
        for completion in both("chat", ("usage",), {"prompt_tokens": 19, "completion_tokens": 13, field: value}):
            assert completion.usage.cache_read_tokens == cached
            assert not completion.usage_estimated


@pytest.mark.parametrize("protocol", [openai_chat, anthropic_messages, openai_responses, gemini])
def test_a_client_of_another_protocol_sees_nothing_of_the_billing(protocol: Any) -> None:
    context = ReplyContext(request_id="1", model="m", created_s=7, document={})
    chunks: list[Chunk] = [ReplyStart(), TextDelta(text="Hello"), ChoiceEnd()]
    billing = BillingUpdate(service_tier="flex", units={"web_search": 1})
    streams = []
    for given in (chunks, [chunks[0], billing, *chunks[1:], billing]):
        writer = protocol.StreamWriter(context)
        streams.append(b"".join([writer.write(chunk) for chunk in given]) + writer.end())
    assert streams[0] == streams[1]


def test_the_usage_event_is_withheld_though_it_reports_a_tier() -> None:
    event = {"choices": [], "service_tier": "priority", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    raw = encoded(event)
    chunks = openai_chat.StreamReader().take(Event(b"", raw, b""))[1:]
    assert any(isinstance(chunk, BillingUpdate) for chunk in chunks)
    is_withheld = openai_chat.DESCRIPTOR.withheld_events({})
    assert is_withheld is not None
    assert is_withheld(RawEvent(raw, chunks))
