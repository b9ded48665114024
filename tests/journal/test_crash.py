"""Kill a journal writer at random moments: every sent request has a record, every settled one is complete."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_gateway.journal.replay import replay
from tests.journal.samples import Database, Heard

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, os, sys
from pathlib import Path
from llm_gateway.journal.writer import JournalWriter
from tests.journal.samples import intent, request_id, settled

async def one(writer, start):
    number = start
    while True:
        await writer.intent(request_id(number), intent(number))
        os.write(1, b"sent %d\\n" % number)
        await asyncio.sleep(0)
        writer.settle(request_id(number), settled(number))
        await writer.durable()
        os.write(1, b"settled %d\\n" % number)
        number += 8

async def main():
    writer = JournalWriter.open(Path(sys.argv[1]), fsync=sys.argv[2], segment_bytes=100_000)
    await asyncio.gather(*(one(writer, start) for start in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("fsync", ["always", "interval", "off"])
def test_a_killed_writer_leaves_a_record_of_every_sent_request(tmp_path: Path, fsync: str) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), fsync]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    told = [line.split() for line in lines if line.endswith("\n")]
    sent, settled = ({int(number) for what, number in told if what == word} for word in ("sent", "settled"))
    database, heard = Database(), Heard()

    report = replay(tmp_path, database, log=heard)

    assert sent
    ok = {int(key[-12:]) for key, record in database.stored.items() if record.outcome == "ok"}
    assert settled <= ok
    assert sent <= set(database.numbers())
    assert len(set(database.numbers()) - sent) <= 8  # intents of one loop turn, written but not reported yet
    assert report.records == len(database.stored)
    assert report.abandoned == len(database.stored) - len(ok)
