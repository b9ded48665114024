"""Write made-up usage records of the last 60 days into a database: `python -m tests.ui.sample_records FILE COUNT`.

Their labels are names as in use, and one that would run as a script if a page did not escape it, unless a third
argument `plain` is given.
"""

from __future__ import annotations

import random
import sys
import time
import uuid

from llm_gateway.domain.usage import RECORD_VERSION, AttemptRecord, Outcome, Price, Usage, UsageRecord, cost
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore

CANARY = "<img src=x onerror=alert(1)>"
MODELS = (
    ("openai", "gpt-4.1", 2_000, 8_000, 3),
    ("openai", "gpt-4o-mini", 150, 600, 5),
    ("anthropic", "claude-sonnet-4-5", 3_000, 15_000, 4),
    ("gemini", "gemini-2.5-flash", 300, 2_500, 3),
    ("mistral", "mistral-large", 2_000, 6_000, 1),
    ("deepseek", "deepseek-chat", 270, 1_100, 1),
)
"""Provider, model, price of a million input and output tokens in thousandths of a dollar, and share."""
OUTCOMES: tuple[Outcome, ...] = ("ok", "cached", "failed", "cancelled", "rate_limited")
DAYS = 60
BATCH = 2_000


def sample(count: int, now_ms: int) -> list[UsageRecord]:
    """Return made-up records, the same for the same `now_ms`, in the order of their time."""
    choose = random.Random(4)
    return sorted((_record(choose, now_ms) for _ in range(count)), key=lambda record: record.at_ms)


def _record(choose: random.Random, now_ms: int) -> UsageRecord:
    at_ms = now_ms - int(choose.random() ** 1.3 * DAYS * 86_400_000)
    provider, model, input_price, output_price, _ = choose.choices(MODELS, [row[-1] for row in MODELS])[0]
    outcome = choose.choices(OUTCOMES, (80, 12, 4, 2, 1))[0]
    bought = Usage(input_tokens=choose.randint(200, 9_000), output_tokens=choose.randint(20, 1_500))
    price = Price(input=((0, input_price * 1_000_000),), output=((0, output_price * 1_000_000),))
    latency_ms = choose.randint(300, 6_000)
    usage, paid = (bought, cost(price, bought)) if outcome == "ok" else (Usage(), 0)
    attempts = [] if outcome == "cached" else _attempts(choose, at_ms, latency_ms, provider, model)
    if attempts:
        last = attempts[-1]
        last.usage, last.price, last.cost_nanos = usage, price, paid
        last.status, last.error = (200, None) if outcome == "ok" else (500, "provider_error")
        last.finish_reason = "stop" if outcome == "ok" else None
    return UsageRecord(
        id=_id(choose, at_ms),
        at_ms=at_ms,
        instance="sample",
        key_name=choose.choice(("shop", "agents", "dev")),
        user_id=choose.choice(("acme", "globex", "initech", "umbrella", "alice")),
        service=choose.choice(("support-bot", "search", "code-review", "translation", CANARY)),
        task_type=choose.choice(("chat", "code", "general")),
        surface="openai_chat",
        version=RECORD_VERSION,
        session=f"session-{choose.randint(1, 60)}",
        agent=choose.choice(("claude-code", "codex", "curl", None)),
        requested_model=model,
        route="priority",
        tags={"project": "apollo"} if choose.random() < 0.3 else {},
        outcome=outcome,
        error_code="provider_error" if outcome == "failed" else None,
        status=200 if outcome in ("ok", "cached") else 502,
        cache="hit" if outcome == "cached" else "miss",
        saved_cost_nanos=cost(price, bought) if outcome == "cached" else 0,
        provider=provider,
        model=model,
        usage=usage,
        cost_nanos=paid,
        latency_ms=latency_ms,
        first_token_ms=latency_ms // 4,
        attempts=attempts,
    )


def _attempts(choose: random.Random, at_ms: int, latency_ms: int, provider: str, model: str) -> list[AttemptRecord]:
    """Return the attempts of a request: one, or after a failed one a second."""
    first = AttemptRecord(
        id=_id(choose, at_ms), provider_id="x", provider=provider, kind=provider, model=model, started_ms=at_ms,
        latency_ms=latency_ms,
    )  # fmt: skip
    if choose.random() > 0.08:
        return [first]
    failed = AttemptRecord(
        id=_id(choose, at_ms), provider_id="y", provider="backup", kind="openai", model=model, started_ms=at_ms,
        latency_ms=latency_ms // 3, status=503, error="provider_error",
    )  # fmt: skip
    first.started_ms, first.latency_ms, first.why = at_ms + latency_ms // 3, latency_ms * 2 // 3, "failover:503"
    return [failed, first]


def _id(choose: random.Random, at_ms: int) -> str:
    """Return a UUIDv7 of this time (RFC 9562, 5.7)."""
    low = choose.getrandbits(74)
    return str(uuid.UUID(int=at_ms << 80 | 7 << 76 | low >> 62 << 64 | 2 << 62 | low & (1 << 62) - 1))


def main(path: str, count: int, *, is_plain: bool = False) -> None:
    """Write `count` records into the SQLite database `path`."""
    records = sample(count, time.time_ns() // 1_000_000)
    for record in records:
        if is_plain and record.service == CANARY:
            record.service = "onboarding"
    database = Database.open(f"sqlite:///{path}")
    store = UsageStore(database)
    for start in range(0, len(records), BATCH):
        store.write(records[start : start + BATCH])
        sys.stderr.write(f"\r{min(start + BATCH, count):,} of {count:,} records")
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), is_plain="plain" in sys.argv)
