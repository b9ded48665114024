"""Made `0015.db.xz`: rollups as database version 0015 has them, with texts. Run by that version's code only.

    git worktree add /tmp/old 8ca49af && cp tests/store/upgrade/make_0015.py /tmp/old/
    cd /tmp/old && PYTHONPATH=src python make_0015.py /tmp/made

They are those of 400 requests of 70 days, of which no records are left, as after their retention.
"""

from __future__ import annotations

import lzma
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from llm_gateway.domain.usage import AttemptRecord, Outcome, Usage, UsageRecord
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
END_MS = 20_600 * DAY_MS + 15 * HOUR_MS
CUSTOMERS = ("ann", "Ann", "", "ünal", "s" * 256, "shop", *(f"customer-{number}" for number in range(6)))
SERVICES = ("shop", "s" * 300, "", "openai")
OUTCOMES: tuple[Outcome, ...] = ("ok", "ok", "ok", "cached", "failed", "cancelled")

choose = random.Random(15)


def new_id(at_ms: int) -> str:
    text = f"{(at_ms << 80) | 0x7000_8000_0000_0000_0000 | choose.getrandbits(62):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def made() -> UsageRecord:
    at_ms = END_MS - choose.randrange(70 * DAY_MS)
    usage, cost_nanos = Usage(input_tokens=choose.randrange(9), output_tokens=choose.randrange(10**6)), at_ms % 10**7
    record = UsageRecord(
        id=new_id(at_ms),
        at_ms=at_ms,
        instance="i",
        key_name="k",
        surface="generate",
        task_type="general",
        user_id=choose.choice(CUSTOMERS),
        service=choose.choice(SERVICES),
        outcome=choose.choice(OUTCOMES),
        latency_ms=choose.randrange(9000),
    )
    if record.outcome == "cached":
        record.saved_cost_nanos = cost_nanos
        return record
    record.provider, record.usage, record.cost_nanos = choose.choice(("openai", "groq")), usage, cost_nanos
    record.attempts = [
        AttemptRecord(
            id=new_id(at_ms),
            provider_id="1",
            provider=record.provider,
            kind="openai",
            model="m",
            started_ms=at_ms,
            usage=usage,
            cost_nanos=cost_nanos,
        )
    ]
    return record


def main(folder: Path) -> None:
    file = folder / "0015.db"
    with closing(Database.open(f"sqlite:///{file}")) as database:
        database.migrate()
        store = UsageStore(database)
        store.write([made() for _ in range(400)])
        while store.build_block(END_MS):
            pass
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM usage_records")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("VACUUM")
    (folder / "0015.db.xz").write_bytes(lzma.compress(file.read_bytes(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
