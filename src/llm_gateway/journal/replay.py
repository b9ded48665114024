"""At start: what writers that are gone left behind becomes records, before anything new is served."""

from __future__ import annotations

from pathlib import Path

import msgspec

from llm_gateway.journal.assembly import Assembly
from llm_gateway.journal.reader import Reader
from llm_gateway.journal.segments import WriterDir
from llm_gateway.journal.shipper import BATCH, QUARANTINE, Log, Sink, damage_reporter, decode_all, deliver

PROGRESS_EVERY = 20_000


class Replayed(msgspec.Struct, frozen=True):
    """What a replay did: records moved to the database, and how many of them had been cut off."""

    records: int = 0
    abandoned: int = 0


def replay(data_dir: Path, sink: Sink, *, log: Log) -> Replayed:
    """Adopt the directories of writers that are gone: ship their records, close what they left open, delete them.

    It can be cut off at any moment and run again: the sink counts a record once, and a directory goes last.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    journal = data_dir / "journal"
    total = Replayed()
    if not journal.is_dir():
        return total
    for path in sorted(path for path in journal.iterdir() if path.is_dir()):
        try:
            directory = WriterDir(path)
        except BlockingIOError:
            continue
        done = _replay_one(directory, sink, total.records, log)
        total = Replayed(total.records + done.records, total.abandoned + done.abandoned)
    return total


def _replay_one(directory: WriterDir, sink: Sink, before: int, log: Log) -> Replayed:
    reader = Reader(directory, damage_reporter(log))
    assembly = Assembly()
    quarantine = directory.path.parent / QUARANTINE
    shipped = 0
    try:
        payloads: list[bytes] = []
        while entries := reader.read(None):
            payloads.extend([p for position, entry in entries if (p := assembly.add(position, entry)) is not None])
            if len(payloads) >= BATCH:
                deliver(decode_all(payloads, log), sink, quarantine, log)
                if (before + shipped) // PROGRESS_EVERY != (before + shipped + len(payloads)) // PROGRESS_EVERY:
                    log("replaying the usage journal", records=before + shipped + len(payloads))
                shipped += len(payloads)
                payloads.clear()
        abandoned = assembly.abandon()
        rest = [*decode_all(payloads, log), *abandoned]
        if rest:
            deliver(rest, sink, quarantine, log)
        shipped += len(rest)
    except BaseException:  # edge: whatever stops the replay, the directory is left to the next one
        directory.close()
        raise
    finally:
        reader.close()
    directory.remove()
    return Replayed(shipped, len(abandoned))
