"""Made `0002.db.xz` and `0002.seg.xz`, the data of a gateway at database version 0002. Run by that version's code only.

    git worktree add /tmp/old ccf361b && cp tests/store/upgrade/make.py /tmp/old/
    cd /tmp/old && PYTHONPATH=src python make.py /tmp/made

The database holds 300 records of 60 days, some repriced, and one provider. The journal's segment holds an answered
request, and one that was cut off after its second attempt had begun. Expected figures are read from the database by SQL
(`test_upgrade.py`), so nothing else needs to be kept.
"""

from __future__ import annotations

import lzma
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.usage import AttemptRecord, Price, Usage, UsageRecord, add_usage, cost, encode_record
from llm_gateway.journal.frames import encode_frame
from llm_gateway.store.database import Database
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.repricing import Repricing, Wanted
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.usage import UsageStore

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
END_MS = 20_600 * DAY_MS + 15 * HOUR_MS
CHEAP = Price(((0, 150_000_000),), ((0, 600_000_000),), cache_read=((0, 75_000_000),))
DEAR = Price(((0, 1_250_000_000), (200_000, 2_500_000_000)), ((0, 10_000_000_000), (200_000, 15_000_000_000)))
PRICES = {"openai": CHEAP, "gemini": DEAR, "house": None}
OUTCOMES = ("ok", "ok", "ok", "ok", "ok", "cached", "failed", "rate_limited", "cancelled", "no_provider")

choose = random.Random(20)


def new_id(at_ms: int) -> str:
    text = f"{(at_ms << 80) | 0x7000_8000_0000_0000_0000 | choose.getrandbits(62):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def attempt(provider: Provider, at_ms: int) -> AttemptRecord:
    price = PRICES[provider.name]
    usage = Usage(
        input_tokens=choose.randrange(50, 300_000),
        output_tokens=choose.randrange(10, 1500),
        cache_read_tokens=choose.choice((0, 0, 30)),
        reasoning_tokens=choose.choice((0, 0, 7)),
    )
    is_estimated = choose.random() < 0.2
    status: Any = "estimated" if is_estimated else "exact"
    return AttemptRecord(
        id=new_id(at_ms),
        provider_id=provider.id,
        provider=provider.name,
        kind=provider.kind,
        model=choose.choice(provider.models),
        started_ms=at_ms,
        reserved_tokens=4000,
        limit_tokens=usage.input_tokens + usage.output_tokens,
        upstream_model=choose.choice((None, "reported-2026-01-01")),
        upstream_request_id=choose.choice((None, f"chatcmpl-{choose.getrandbits(96):024x}")),
        status=200,
        finish_reason=choose.choice(("stop", "length")),
        usage=usage,
        usage_estimated=is_estimated,
        price=price,
        cost_nanos=0 if price is None else cost(price, usage),
        cost_status="unpriced" if price is None else status,
        latency_ms=choose.randrange(100, 9000),
    )


def failed(provider: Provider, at_ms: int) -> AttemptRecord:
    fault = choose.choice(({"sent": False}, {"status": 503}, {"status": 429, "limit_tokens": 0}))
    plain = {"usage": Usage(), "usage_estimated": False, "cost_nanos": 0, "cost_status": "exact", "finish_reason": None}
    given = {
        **plain,
        "upstream_model": None,
        "error": f"Provider {provider.name}: ünavailable",
        "status": None,
        **fault,
    }
    return msgspec.structs.replace(attempt(provider, at_ms), **given)


def record(providers: list[Provider], at_ms: int) -> UsageRecord:
    outcome: Any = choose.choice(OUTCOMES)
    attempts = []
    if outcome in ("ok", "failed") and choose.random() < 0.2:
        attempts.append(failed(choose.choice(providers), at_ms + 3))
    if outcome in ("ok", "cancelled"):
        attempts.append(attempt(choose.choice(providers), at_ms + 700))
    if outcome == "failed":
        attempts.append(failed(choose.choice(providers), at_ms + 900))
    made = UsageRecord(
        id=new_id(at_ms),
        at_ms=at_ms,
        instance=new_id(0),
        key_name=choose.choice(("backend", "agents")),
        user_id=f"customer-{choose.randrange(9)}",
        service=choose.choice(("shop", "search", "größe")),
        task_type=choose.choice(("general", "summary")),
        surface=choose.choice(("generate", "chat")),
        client_request_id=choose.choice((None, f"call-{choose.getrandbits(32)}")),
        tags=choose.choice(({}, {"team": "core"})),
        stream=choose.random() < 0.5,
        outcome=outcome,
        status=200 if outcome in ("ok", "cached") else 502,
        latency_ms=choose.randrange(100, 9000),
        attempts=attempts,
    )
    close(made)
    if outcome == "cached":
        made.provider, made.model, made.cache, made.saved_cost_nanos = "openai", "gpt-a", "hit", 77
    return made


def close(made: UsageRecord) -> None:
    statuses = [one.cost_status for one in made.attempts]
    made.cost_status = next((status for status in ("unpriced", "estimated") if status in statuses), "exact")
    for one in made.attempts:
        made.usage = add_usage(made.usage, one.usage)
        made.cost_nanos += one.cost_nanos
        made.provider, made.model = one.provider, one.model


def fill(folder: Path) -> list[Provider]:
    database = Database.open(f"sqlite:///{folder / '0002.db'}")
    database.migrate()
    drafts = [
        ProviderDraft(
            name="openai", display_name="OpenAI", api_key="not-a-key", kind="openai", models=("gpt-a", "gpt-b")
        ),
        ProviderDraft(name="gemini", display_name="Gemini", api_key="not-a-key", kind="gemini", models=("flash",)),
        ProviderDraft(name="house", display_name="House", api_key="not-a-key", kind="openai", models=("own",)),
    ]
    store = ProviderStore(database, SecretBox([b"k" * 32]))
    providers = [store.create(draft) for draft in drafts]
    usage = UsageStore(database)
    times = sorted(END_MS - 1 - int(choose.random() ** 3 * 60 * DAY_MS) for _ in range(300))
    usage.write([record(providers, at_ms) for at_ms in times])
    now: Any = Price(((0, 300_000_000),), ((0, 900_000_000),))
    wanted = Wanted(since_ms=END_MS - DAY_MS, until_ms=END_MS, model="gpt-b")
    report = Repricing(database, providers, lambda _p, _a: now).run(wanted, dry_run=False, progress=lambda _: None)
    assert report.changed, "nothing was repriced"
    while usage.build_block(END_MS - HOUR_MS):
        pass
    database.close()
    with closing(sqlite3.connect(folder / "0002.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("VACUUM")
    return providers


def segment(providers: list[Provider]) -> bytes:
    served, cut = (record(providers, END_MS + 1000) for _ in range(2))
    served.outcome, served.attempts = "ok", [attempt(providers[0], END_MS + 1003)]
    close(served)
    first, second = failed(providers[0], END_MS + 2003), attempt(providers[1], END_MS + 2700)
    frames = [encode_frame("I", served.id, encode_record(served)), encode_frame("S", served.id, encode_record(served))]
    cut.outcome, cut.status = "cancelled", 0
    for one in (first, second):
        cut.attempts = [one]
        frames.append(encode_frame("I", cut.id, encode_record(cut)))
    frames.insert(3, encode_frame("O", cut.id, encode_record(first)))
    return b"".join(frames)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    providers = fill(folder)
    (folder / "0002.db.xz").write_bytes(lzma.compress((folder / "0002.db").read_bytes(), preset=9))
    (folder / "0002.seg.xz").write_bytes(lzma.compress(segment(providers), preset=9))


main(Path(sys.argv[1]))
