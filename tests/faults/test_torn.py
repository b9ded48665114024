"""The journal of a killed gateway, cut and flipped at many places: no good entry is lost, and the log says so."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.frames import Entry, scan
from llm_gateway.journal.replay import replay
from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.ledger import Ledger
from tests.faults.scene import Scene

LOAD_S = 0.5
IN_PROCESS_QUICK, IN_PROCESS_LONG = 150, 3_000
STARTS_QUICK, STARTS_LONG = 2, 30


async def killed_journal(scene: Scene) -> Path:
    """The segment a killed gateway leaves whose database did not answer, so that every entry is still to be shipped."""
    with scene.gateway() as gateway:
        scene.providers(gateway, "ok", "slow-40")
        with closing(sqlite3.connect(scene.data / "gateway.db", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            load = Load()
            load.start(gateway.port)
            await asyncio.sleep(LOAD_S)
            gateway.kill()
            await load.done()
            database.execute("ROLLBACK")
    (segment,) = [path for path in scene.data.glob("journal/*/*.seg") if path.read_bytes()[:1] != b"\0"]
    return segment


def damage(segment: Path, written: int) -> range:
    """Flip a bit, blot a stretch out or cut the file. Returns the bytes that are no longer what they were."""
    at = random.randrange(written)
    data = bytearray(segment.read_bytes())
    match random.choice(("flip", "blot", "cut")):
        case "flip":
            data[at] ^= 1 << random.randrange(8)
            spoilt = range(at, at + 1)
        case "blot":
            spoilt = range(at, min(at + random.randrange(1, 5_000), written))
            data[at : spoilt.stop] = random.randbytes(len(spoilt))
        case _:
            del data[at:]
            spoilt = range(at, written)
    segment.write_bytes(data)
    return spoilt


def good_ones(entries: list[Entry], spoilt: range) -> tuple[set[str], set[str]]:
    """The requests with an entry that is whole, and those of them whose settle is."""
    whole = [entry for entry in entries if entry.end <= spoilt.start or entry.start >= spoilt.stop]
    return {entry.request_id for entry in whole}, {entry.request_id for entry in whole if entry.kind == "S"}


def copy_of(journal: Path, to: Path) -> Path:
    """A copy of a data directory's journal, with the same segment's path in it."""
    shutil.copytree(journal.parents[2], to, ignore=lambda folder, names: [n for n in names if n.endswith(".seg")])
    place = to / journal.relative_to(journal.parents[2])
    place.write_bytes(journal.read_bytes())
    return place


async def test_damage_at_many_places(scene: Scene, note: Note, long: bool) -> None:
    """By the replay itself, in this process."""
    segment = await killed_journal(scene)
    found = scan(segment.read_bytes())
    assert len(found.entries) > 100
    assert not found.damage
    rounds = IN_PROCESS_LONG if long else IN_PROCESS_QUICK
    for number in range(rounds):
        there = scene.directory / f"copy-{number}" / "journal" / segment.parent.name
        there.mkdir(parents=True)
        copy = there / segment.name
        copy.write_bytes(segment.read_bytes()[: found.entries[-1].end])
        spoilt = damage(copy, found.entries[-1].end)
        records: list[UsageRecord] = []
        said: list[str] = []

        def log(event: str, said: list[str] = said, **_: Any) -> None:
            said.append(event)

        def sink(batch: list[UsageRecord], records: list[UsageRecord] = records) -> None:
            records.extend(batch)

        replay(there.parents[1], sink, log=log)
        there_are, settled = good_ones(found.entries, spoilt)
        with_intent = {record.id for record in records}
        assert settled <= {record.id for record in records if record.outcome != "cancelled"}
        assert there_are - settled <= with_intent, spoilt
        assert with_intent <= there_are
        cut_between_entries = any(entry.end == spoilt.start for entry in found.entries) or not spoilt.start
        assert cut_between_entries or "the usage journal is damaged" in said, spoilt
        shutil.rmtree(there.parents[1])
    note(f"{len(found.entries)} entries, damaged at {rounds} places: no good one lost")


async def test_start_on_a_damaged_journal(scene: Scene, note: Note, long: bool) -> None:
    """By a started gateway, with its database."""
    segment = await killed_journal(scene)
    found = scan(segment.read_bytes())
    rounds = STARTS_LONG if long else STARTS_QUICK
    for number in range(rounds):
        place = copy_of(segment, scene.directory / f"copy-{number}")
        spoilt = damage(place, found.entries[-1].end)
        there_are, settled = good_ones(found.entries, spoilt)
        with GatewayProcess(scene.directory, data_dir=scene.directory / f"copy-{number}") as gateway:
            assert gateway.summary()["total_requests"] >= len(there_are)
            ledger = Ledger(scene.directory / f"copy-{number}")
            ledger.check_sums()
            assert settled <= {row.id for row in ledger.rows if row.outcome == "ok"}
            assert there_are == set(ledger.by_id)
            between = any(entry.end == spoilt.start for entry in found.entries) or not spoilt.start
            assert between or "the usage journal is damaged" in gateway.log
    note(f"{len(found.entries)} entries, started on {rounds} damaged journals: no good one lost, the log says so")
