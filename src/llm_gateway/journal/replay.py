"""At start: what writers that are gone left behind becomes records, before anything new is served."""

from __future__ import annotations

from pathlib import Path

import msgspec

from llm_gateway.journal.assembly import Assembly
from llm_gateway.journal.delivery import BATCH, Delivery, Sink
from llm_gateway.journal.reader import Reader
from llm_gateway.journal.segments import Log, WriterDir
from llm_gateway.journal.shipper import damage_reporter

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
    delivery = Delivery(sink, journal, log)
    for path in sorted(path for path in journal.iterdir() if path.is_dir()):
        try:
            directory = WriterDir(path)
            done = _replay_one(directory, delivery, total.records, log)
        except BlockingIOError:
            continue
        except OSError as error:
            log("a usage journal is left to the next start", level="error", directory=str(path), reason=str(error))
            continue
        total = Replayed(total.records + done.records, total.abandoned + done.abandoned)
    return total


def _replay_one(directory: WriterDir, delivery: Delivery, before: int, log: Log) -> Replayed:
    reader = Reader(directory, damage_reporter(log))
    try:
        done = _deliver_all(reader, delivery, before, log)
    except BaseException:  # edge: whatever stops the replay, the directory is left to the next one
        directory.close()
        raise
    finally:
        reader.close()
    directory.remove()
    return done


def _deliver_all(reader: Reader, delivery: Delivery, before: int, log: Log) -> Replayed:
    assembly = Assembly()
    payloads: list[bytes] = []
    count = 0
    while entries := reader.read(None):
        payloads.extend([p for position, entry in entries if (p := assembly.add(position, entry)) is not None])
        if len(payloads) >= BATCH:
            delivery.settled(payloads)
            earlier, count = count, count + len(payloads)
            if (before + earlier) // PROGRESS_EVERY != (before + count) // PROGRESS_EVERY:
                log("replaying the usage journal", records=before + count)
            payloads.clear()
    delivery.settled(payloads)
    # After the settled ones: where a request stands in the journal twice, its settle is what counts.
    abandoned = assembly.abandon()
    delivery.deliver(abandoned.records, abandoned.unreadable)
    return Replayed(count + len(payloads) + len(abandoned.records), len(abandoned.records))
