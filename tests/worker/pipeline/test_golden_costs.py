"""Golden table of costs: a vendor's reply is recorded, stored and repriced at the cost that its price page gives.

Every expected cost was computed by hand from the vendor's page, read on 2026-11-27, as tokens × price in nano-dollars
(a price of $2.50 per million tokens is 2,500 nano-dollars per token). The public lists are those of genai-prices.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import CostStatus, UsageRecord, decode_record, encode_record
from llm_gateway.providers.presets import load_presets
from llm_gateway.providers.prices import PriceList, attempt_quote
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.store.database import Database
from llm_gateway.store.repricing import Repricing, Wanted
from llm_gateway.store.usage import UsageStore
from llm_gateway.worker.pipeline.translation import reply_of
from tests.e2e.process import write_migrated
from tests.store.histories import stored_attempts
from tests.worker.pipeline.fakes import World, provider, request

AT_MS = 1_795_780_800_000
"""2026-11-27, 12:00 UTC."""
PRICES = PriceList()
PRESETS = load_presets()
OPENAI = "https://developers.openai.com/api/docs/pricing"
FLEX = "https://developers.openai.com/api/docs/guides/flex-processing"
PRIORITY = "https://openai.com/api-priority-processing/"
CLAUDE = "https://platform.claude.com/docs/en/about-claude/pricing"
FAST = "https://code.claude.com/docs/en/fast-mode"
PLACE = "https://platform.claude.com/docs/en/manage-claude/data-residency"
GEMINI = "https://ai.google.dev/gemini-api/docs/pricing"
OPTIMIZATION = "https://ai.google.dev/gemini-api/docs/optimization"
XAI = "https://docs.x.ai/developers/pricing"
GROQ = "https://console.groq.com/docs/flex-processing"

Document = dict[str, Any]


class Row(NamedTuple):
    """A reply, its cost in nano-dollars by the price page at `source`, and whether that page gives it exactly."""

    preset: str | None
    model: str
    protocol: str
    reply: Document
    nanos: int
    source: str
    status: CostStatus = "exact"


def chat(tokens_in: int, cached: int, tokens_out: int, tier: str | None = None, **usage: Any) -> Document:
    counts = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "prompt_tokens_details": {"cached_tokens": cached},
        **usage,
    }
    choice = {"message": {"content": "Hello"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": counts, "service_tier": tier}


def response(tier: str, searches: int) -> Document:
    items: list[Document] = [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]
    items += [{"type": "web_search_call", "action": {"type": "search"}}] * searches
    usage = {"input_tokens": 10_000, "output_tokens": 1_000, "input_tokens_details": {"cached_tokens": 4_000}}
    return {"status": "completed", "output": items, "usage": usage, "service_tier": tier}


def message(fresh: int, read: int = 0, written: int = 0, written_1h: int = 0, out: int = 500, **usage: Any) -> Document:
    counts = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - written_1h,
            "ephemeral_1h_input_tokens": written_1h,
        },
        "output_tokens": out,
        "service_tier": "standard",
        **usage,
    }
    return {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "usage": counts}


def generated(tokens_in: int, cached: int, tier: str, queries: int = 0) -> Document:
    candidate: Document = {"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}
    if queries:
        candidate["groundingMetadata"] = {"webSearchQueries": [f"query {number}" for number in range(queries)]}
    usage = {
        "promptTokenCount": tokens_in,
        "cachedContentTokenCount": cached,
        "candidatesTokenCount": 800,
        "thoughtsTokenCount": 200,
        "serviceTier": tier,
    }
    return {"candidates": [candidate], "usageMetadata": usage}


def openai(model: str, reply: Document, nanos: int, source: str, status: CostStatus = "exact") -> Row:
    return Row("openai", model, "openai_chat", reply, nanos, source, status)


def anthropic(model: str, reply: Document, nanos: int, source: str, status: CostStatus = "exact") -> Row:
    return Row("anthropic", model, "anthropic_messages", reply, nanos, source, status)


def google(model: str, reply: Document, nanos: int, source: str, status: CostStatus = "exact") -> Row:
    return Row("gemini", model, "gemini_content", reply, nanos, source, status)


HALF_LONG = 300_000, 100_000, 1_000
"""Input, of which cached, and output tokens of a call beyond GPT-5.4's 272,000 input tokens."""
ALL_KINDS = 1_000, 2_000, 3_000, 1_000
"""Fresh, read from the cache, written, of which for an hour: see `message`."""

ROWS = {
    # GPT-5.4: $2.50, cached $0.25, output $15
    "gpt-5.4, standard": openai(
        "gpt-5.4", chat(10_000, 4_000, 1_000, "default"), 6_000 * 2_500 + 4_000 * 250 + 1_000 * 15_000, OPENAI
    ),
    "gpt-5.4, no tier reported": openai("gpt-5.4", chat(10_000, 4_000, 1_000), 31_000_000, OPENAI),
    "gpt-5.4, flex": openai("gpt-5.4", chat(10_000, 4_000, 1_000, "flex"), 15_500_000, FLEX),
    # $5, cached $0.50, output $30
    "gpt-5.4, priority": openai(
        "gpt-5.4", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 5_000 + 4_000 * 500 + 1_000 * 30_000, PRIORITY
    ),
    "gpt-5.4 of a date, fast": openai(
        "gpt-5.4-2026-03-05", chat(10_000, 4_000, 1_000, "fast"), 62_000_000, PRIORITY
    ),
    "gpt-5.4, unknown tier": openai("gpt-5.4", chat(10_000, 4_000, 1_000, "scale"), 31_000_000, OPENAI, "estimated"),
    # beyond 272,000 input tokens $5, cached $0.50, output $22.50
    "gpt-5.4, long": openai(
        "gpt-5.4", chat(*HALF_LONG, "default"), 200_000 * 5_000 + 100_000 * 500 + 1_000 * 22_500, OPENAI
    ),
    "gpt-5.4, long, flex": openai("gpt-5.4", chat(*HALF_LONG, "flex"), 536_250_000, FLEX),
    "gpt-5.4, long, priority": openai(
        "gpt-5.4", chat(*HALF_LONG, "priority"), 2_145_000_000, PRIORITY, "estimated"
    ),
    # $12.50, cached $1.25, output $75
    "gpt-5.5, priority": openai(
        "gpt-5.5", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 12_500 + 4_000 * 1_250 + 1_000 * 75_000, PRIORITY
    ),
    # $0.45, cached $0.045, output $3.60
    "gpt-5-mini, priority": openai(
        "gpt-5-mini", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 450 + 4_000 * 45 + 1_000 * 3_600, PRIORITY
    ),
    # $3.50, cached $0.875, output $14
    "gpt-4.1, priority": openai(
        "gpt-4.1", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 3_500 + 4_000 * 875 + 1_000 * 14_000, PRIORITY
    ),
    # $4.25, cached $2.125, output $17
    "gpt-4o, priority": openai(
        "gpt-4o", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 4_250 + 4_000 * 2_125 + 1_000 * 17_000, PRIORITY
    ),
    # $0.25, cached $0.125, output $1
    "gpt-4o-mini, priority": openai(
        "gpt-4o-mini", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 250 + 4_000 * 125 + 1_000 * 1_000, PRIORITY
    ),
    # $2, cached $0.50, output $8
    "o4-mini, priority": openai(
        "o4-mini", chat(10_000, 4_000, 1_000, "priority"), 6_000 * 2_000 + 4_000 * 500 + 1_000 * 8_000, PRIORITY
    ),
    # The page has no price for it; its standard price is $0.20, cached $0.02, output $1.25.
    "gpt-5.4-nano, priority": openai(
        "gpt-5.4-nano", chat(10_000, 4_000, 1_000, "priority"), 2_530_000, PRIORITY, "estimated"
    ),
    # $10 per 1,000 searches
    "gpt-5.4, two searches": Row(
        "openai", "gpt-5.4", "openai_responses", response("default", 2), 31_000_000 + 20_000_000, OPENAI
    ),
    "gpt-5.4, two searches, flex": Row(
        "openai", "gpt-5.4", "openai_responses", response("flex", 2), 15_500_000 + 20_000_000, OPENAI
    ),
    "an account of a name of its own": Row(
        None, "gpt-5.4", "openai_chat", chat(10_000, 4_000, 1_000, "priority"), 62_000_000, PRIORITY
    ),
    # Claude Opus 4.8: $5, cache read $0.50, writes $6.25 and for an hour $10, output $25
    "opus 4.8, standard": anthropic(
        "claude-opus-4-8",
        message(*ALL_KINDS),
        1_000 * 5_000 + 2_000 * 500 + 2_000 * 6_250 + 1_000 * 10_000 + 500 * 25_000,
        CLAUDE,
    ),
    # $10 and $50
    "opus 4.8, fast": anthropic("claude-opus-4-8", message(*ALL_KINDS, speed="fast"), 82_000_000, FAST),
    "opus 4.8, in the US": anthropic("claude-opus-4-8", message(*ALL_KINDS, inference_geo="us"), 45_100_000, PLACE),
    "opus 4.8, fast in the US": anthropic(
        "claude-opus-4-8", message(*ALL_KINDS, speed="fast", inference_geo="us"), 90_200_000, FAST
    ),
    "opus 4.8, anywhere": anthropic(
        "claude-opus-4-8", message(*ALL_KINDS, speed="standard", inference_geo="global"), 41_000_000, PLACE
    ),
    "opus 4.8, batch": anthropic("claude-opus-4-8", message(*ALL_KINDS, service_tier="batch"), 20_500_000, CLAUDE),
    "opus 4.8, committed capacity": anthropic(
        "claude-opus-4-8", message(*ALL_KINDS, service_tier="priority"), 41_000_000, CLAUDE, "estimated"
    ),
    # $10 per 1,000 searches
    "opus 4.8, three searches": anthropic(
        "claude-opus-4-8",
        message(*ALL_KINDS, server_tool_use={"web_search_requests": 3, "web_fetch_requests": 2}),
        41_000_000 + 30_000_000,
        CLAUDE,
    ),
    # $30 and $150
    "opus 4.7, fast": anthropic(
        "claude-opus-4-7", message(1_000, speed="fast"), 1_000 * 30_000 + 500 * 150_000, FAST
    ),
    "opus 5.5, fast": anthropic(
        "claude-opus-5-5", message(1_000, speed="fast"), 1_000 * 4_000 + 500 * 20_000, CLAUDE, "estimated"
    ),
    # beyond 200,000 input tokens $6 and $22.50
    "sonnet 4.5, long": anthropic(
        "claude-sonnet-4-5", message(250_000), 250_000 * 6_000 + 500 * 22_500, CLAUDE
    ),
    # Gemini 2.5 Pro: $1.25, cached $0.125, output with thoughts $10; beyond 200,000 input tokens $2.50, $0.25, $15
    "gemini 2.5 pro, standard": google(
        "gemini-2.5-pro", generated(10_000, 4_000, "standard"), 6_000 * 1_250 + 4_000 * 125 + 1_000 * 10_000, GEMINI
    ),
    "gemini 2.5 pro, long": google(
        "gemini-2.5-pro",
        generated(300_000, 100_000, "standard"),
        200_000 * 2_500 + 100_000 * 250 + 1_000 * 15_000,
        GEMINI,
    ),
    "gemini 2.5 pro, flex": google("gemini-2.5-pro", generated(10_000, 0, "flex"), 11_250_000, OPTIMIZATION),
    "gemini 2.5 pro, flex, cached": google(
        "gemini-2.5-pro", generated(10_000, 4_000, "flex"), 9_000_000, OPTIMIZATION, "estimated"
    ),
    "gemini 2.5 pro, priority": google(
        "gemini-2.5-pro", generated(10_000, 4_000, "priority"), 36_000_000, OPTIMIZATION, "estimated"
    ),
    # $35 per 1,000 grounded prompts, some are free
    "gemini 2.5 pro, three searches": google(
        "gemini-2.5-pro", generated(10_000, 4_000, "standard", 3), 18_000_000 + 35_000_000, GEMINI, "estimated"
    ),
    # $1.50 and $9; $14 per 1,000 searches, some are free
    "gemini 3.5 flash, three searches": google(
        "gemini-3.5-flash",
        generated(10_000, 0, "standard", 3),
        10_000 * 1_500 + 1_000 * 9_000 + 3 * 14_000_000,
        GEMINI,
        "estimated",
    ),
    # Grok 4.7: $2, cached $0.50, output $6, reasoning beside the completion; from 200,000 input tokens $4, $1, $12
    "grok 4.7": Row(
        "xai",
        "grok-4.7",
        "openai_chat",
        chat(10_000, 4_000, 400, "default", total_tokens=11_000, completion_tokens_details={"reasoning_tokens": 600}),
        6_000 * 2_000 + 4_000 * 500 + 1_000 * 6_000,
        XAI,
    ),
    "grok 4.7, long": Row(
        "xai", "grok-4.7", "openai_chat", chat(200_000, 0, 1_000), 200_000 * 4_000 + 1_000 * 12_000, XAI
    ),
    "grok 4.7, priority": Row(
        "xai", "grok-4.7", "openai_chat", chat(10_000, 4_000, 1_000, "priority"), 20_000_000, XAI, "estimated"
    ),
    # $5 per 1,000 searches that succeed
    "grok 4.7, two searches": Row(
        "xai", "grok-4.7", "openai_responses", response("default", 2), 20_000_000 + 10_000_000, XAI, "estimated"
    ),
    # Llama 3.3 70B: $0.59 and $0.79
    "groq, on demand": Row(
        "groq",
        "llama-3.3-70b-versatile",
        "openai_chat",
        chat(10_000, 0, 1_000, "on_demand"),
        10_000 * 590 + 1_000 * 790,
        "https://groq.com/pricing",
    ),
    "groq, flex": Row(
        "groq", "llama-3.3-70b-versatile", "openai_chat", chat(10_000, 0, 1_000, "flex"), 6_690_000, GROQ
    ),
    "groq, provisioned": Row(
        "groq", "llama-3.3-70b-versatile", "openai_chat", chat(10_000, 0, 1_000, "performance"), 6_690_000, GROQ,
        "estimated",
    ),
}  # fmt: skip


def account(row: Row) -> Provider:
    """Build the account of a row: named like its preset, or else like no vendor."""
    preset = PRESETS[row.preset] if row.preset is not None else None
    price = PRICES.find_at(row.preset, row.model, AT_MS)
    assert price is not None
    return provider(
        row.preset or "mine",
        kind=preset.kind if preset is not None else "openai",
        models=(row.model,),
        price_by_model={row.model: price},
        price_vendor=PRICES.vendor_of(row.preset),
    )


async def recorded(world: World, row: Row) -> UsageRecord:
    """Return the record of a row's reply, as it comes out of the journal."""
    candidate = Candidate.of(account(row), row.model)
    asked = request()
    record = world.recorder.start(asked)
    attempt = world.recorder.new_attempt(asked, candidate, 0)
    await world.recorder.write_intent(record, attempt)
    attempt.started_ms = record.at_ms = AT_MS
    codec = DIALECTS[candidate.provider.kind].codecs[row.protocol]
    reply = reply_of(codec.read_reply(msgspec.json.encode(row.reply)))
    world.recorder.set_cost(candidate.provider, attempt, reply)
    success = Success(reply, candidate.provider.name, row.model, attempt.cost_nanos, b"")
    await world.recorder.settle_success(record, asked.started, success, b"")
    return decode_record(encode_record(record))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path: Path = tmp_path_factory.mktemp("golden") / "gateway.db"
    write_migrated(path)
    database = Database.open(f"sqlite:///{path}", fsync=False)
    yield database
    database.close()


@pytest.mark.parametrize("name", ROWS)
async def test_a_reply_is_recorded_at_the_vendors_price(world: World, name: str) -> None:
    row = ROWS[name]
    record = await recorded(world, row)
    assert (record.cost_nanos, record.cost_status) == (row.nanos, row.status)
    assert (record.attempts[0].cost_nanos, record.attempts[0].usage_estimated) == (row.nanos, False)


async def test_repricing_gives_every_reply_the_vendors_price(world: World, database: Database) -> None:
    accounts = {each.id: each for each in map(account, ROWS.values())}
    records = []
    for number, row in enumerate(ROWS.values()):
        record = await recorded(world, row)
        record.id = f"{AT_MS:012x}"[:8] + f"-{AT_MS:012x}"[9:] + f"-7000-8000-{number:012x}"
        for attempt in record.attempts:  # as if there had been no price when it was recorded
            attempt.price, attempt.cost_nanos, attempt.cost_status = None, 0, "unpriced"
        record.cost_nanos, record.cost_status = 0, "unpriced"
        records.append(record)
    UsageStore(database).write(records)
    quote_of = partial(attempt_quote, PRICES, PRESETS)
    wanted = Wanted(since_ms=AT_MS - 1, until_ms=AT_MS + 1)
    for changed in (len(ROWS), 0):
        repricing = Repricing(database, accounts.values(), quote_of, sleep=lambda _: None)
        report = repricing.run(wanted, dry_run=False, progress=lambda _: None)
        assert (report.changed, report.unknown) == (changed, 0)
        repriced = [(only.cost_nanos, only.cost_status) for [only] in stored_attempts(database)]
        assert repriced == [(row.nanos, row.status) for row in ROWS.values()]
