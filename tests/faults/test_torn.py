"""Damage the journal of a killed gateway at many places: no good entry is lost, and the damage is logged."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.frames import Entry, scan
from llm_gateway.journal.replay import replay
from tests.e2e.process import GatewayProcess
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.ledger import Ledger
from tests.faults.scene import Scene

JOURNAL_ENTRIES = 300
"""Entries of a segment to be damaged; several workers write one each."""
LOAD_S = 60.0
"""Maximum seconds until there are that many."""
IN_PROCESS_QUICK, IN_PROCESS_LONG = 75, 3_000
STARTS_QUICK, STARTS_LONG = 2, 30
PIECE_ENTRIES = 12


async def killed_journal(scene: Scene) -> Path:
    """Return the fullest segment of a gateway that was killed while its database was locked: nothing is shipped yet."""
    with scene.gateway() as gateway:
        scene.providers(gateway, "ok", "slow-40", "slow-20+flaky-2+status-500")
        with closing(sqlite3.connect(scene.data / "gateway.db", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            load = Load()
            load.start(gateway.port)
            async with asyncio.timeout(LOAD_S):
                while entries_of(fullest_segment(scene)) < JOURNAL_ENTRIES:  # noqa: ASYNC110 - another process writes it
                    await asyncio.sleep(0.1)
            gateway.kill()
            await load.done()
            database.execute("ROLLBACK")
    fullest = fullest_segment(scene)
    assert len(scan(fullest.read_bytes(), segment=int(fullest.stem)).entries) >= JOURNAL_ENTRIES
    return fullest


def fullest_segment(scene: Scene) -> Path:
    return max(scene.data.glob("journal/*/*.seg"), key=entries_of)


def entries_of(segment: Path) -> int:
    """Count the entries of a segment that is whole, by its lines."""
    return segment.read_bytes().count(b"\n")


def damage(segment: Path, written: int) -> range:
    """Flip a bit, overwrite a range with random bytes, or cut the file. Returns the range of damaged bytes."""
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
    """Return the ids of requests with at least one undamaged entry, and of those with an undamaged settle."""
    whole = [entry for entry in entries if entry.end <= spoilt.start or entry.start >= spoilt.stop]
    return {entry.request_id for entry in whole}, {entry.request_id for entry in whole if entry.kind == "S"}


def copy_of(journal: Path, to: Path) -> Path:
    """Copy a data directory, with only this segment in its journal. Returns the segment's path in the copy."""
    shutil.copytree(journal.parents[2], to, ignore=shutil.ignore_patterns("*.seg", "*.sock"))
    place = to / journal.relative_to(journal.parents[2])
    place.write_bytes(journal.read_bytes())
    return place


def replayed(directory: Path, content: bytes) -> tuple[list[UsageRecord], list[str]]:
    """Replay a segment with this content. Returns the records and the names of the logged events."""
    there = directory / "journal" / "writer"
    there.mkdir(parents=True)
    (there / "000001.seg").write_bytes(content)
    records: list[UsageRecord] = []
    said: list[str] = []

    def log(event: str, **_: Any) -> None:
        said.append(event)

    replay(directory, records.extend, log=log)
    shutil.rmtree(directory)
    return records, said


def check(entries: list[Entry], spoilt: range, records: list[UsageRecord], said: list[str]) -> None:
    """Check that every request with a good entry has a record, every good settle is one, and damage is logged."""
    there_are, settled = good_ones(entries, spoilt)
    assert settled <= {record.id for record in records if record.outcome != "cancelled"}, spoilt
    assert there_are == {record.id for record in records}, spoilt
    between = any(entry.end == spoilt.start for entry in entries) or not spoilt.start
    assert between or "the usage journal is damaged" in said, spoilt


@pytest.mark.fault("torn or damaged journal, replayed", "a bit flipped, bytes blotted out, cut off, at random places")
async def test_damage_at_random_places_loses_no_good_entry(scene: Scene, note: Note, long: bool) -> None:
    """Replays run in this process."""
    segment = await killed_journal(scene)
    content = segment.read_bytes()
    found = scan(content)
    assert len(found.entries) > 100
    assert {entry.kind for entry in found.entries} == {"I", "O", "S"}
    assert not found.damage
    rounds = IN_PROCESS_LONG if long else IN_PROCESS_QUICK
    for _ in range(rounds):
        segment.write_bytes(content[: found.entries[-1].end])
        spoilt = damage(segment, found.entries[-1].end)
        check(found.entries, spoilt, *replayed(scene.directory / "copy", segment.read_bytes()))
    note(f"{len(found.entries)} entries, damaged {rounds} times: no good one lost, each damage told")


@pytest.mark.fault("torn or damaged journal, at every offset", "a bit flipped, and cut off, at each byte of a journal")
async def test_damage_at_every_offset_loses_no_good_entry(scene: Scene, note: Note, long: bool) -> None:
    content = (await killed_journal(scene)).read_bytes()
    entries = scan(content).entries
    first = next(n for n, entry in enumerate(entries) if entry.kind == "O")
    piece = content[entries[first].start : entries[first + PIECE_ENTRIES - 1].end]
    entries = scan(piece).entries
    assert len(entries) == PIECE_ENTRIES
    offsets = range(0, len(piece), 1 if long else 127)
    for at in offsets:
        flipped = bytearray(piece)
        flipped[at] ^= 1 << random.randrange(8)
        check(entries, range(at, at + 1), *replayed(scene.directory / "flipped", bytes(flipped)))
        check(entries, range(at, len(piece)), *replayed(scene.directory / "cut", piece[:at]))
    note(f"{len(entries)} entries of {len(piece)} bytes, {len(offsets)} offsets, twice each: no good entry lost")


@pytest.mark.fault("torn or damaged journal, a start on it", "a killed gateway's journal, damaged at random places")
async def test_a_gateway_starts_on_a_damaged_journal_and_logs_the_damage(scene: Scene, note: Note, long: bool) -> None:
    """A real gateway replays into its database."""
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
