"""Ship a prepared journal to an empty database and print what that cost, as JSON: one run of `shipping`.

It runs in a process of its own, which may import the gateway of another checkout.
"""

from __future__ import annotations

import gc
import sys
from functools import partial
from operator import sub
from pathlib import Path
from time import process_time, thread_time
from typing import NamedTuple

import msgspec

from benchmarks.machine import ProcessTree
from llm_gateway.child_process import GC_THRESHOLDS
from llm_gateway.control.app import SHIPPING_REST_S, SHIPPING_WORK_S
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.journal.directory_transfer import DirectoryTransfer
from llm_gateway.journal.segments import Position, WriterDir, log_nothing
from llm_gateway.journal.throttle import Throttle
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore

WRITER = "writer"
LIMITS = "limits.json"
"""File in the data directory with the position up to which each batch reaches: what the shipper finds at each look."""


class Cost(msgspec.Struct, frozen=True):
    """Cost of one run: the records, and how many of them were measured, all but the first batch.

    Attributes:
        journal_s, store_s: CPU seconds of this process for the journal's and the database's part.
        server_s: CPU seconds of the database's server, 0 without one.
        written: bytes written to files; on PostgreSQL those of its log.
    """

    records: int
    measured: int
    journal_s: float
    store_s: float
    server_s: float
    written: int


class Reading(NamedTuple):
    """Readings of clocks and counters, as Cost has their differences."""

    process_s: float
    store_s: float
    server_s: float
    written: int


def ship(data_dir: Path, url: str, server_pid: int) -> Cost:
    """Ship the journal in `data_dir`, a batch at a time, with the pauses that the control process takes.

    The first batch, for which statements are compiled and modules loaded, is not measured.
    """
    database = Database.open(url)
    database.migrate()
    throttle = Throttle(work_s=SHIPPING_WORK_S, rest_s=SHIPPING_REST_S)
    write = partial(UsageStore(database).write, pause=throttle)
    stored_s = 0.0

    def sink(records: list[UsageRecord]) -> None:
        nonlocal stored_s
        began = thread_time()
        write(records)
        stored_s += thread_time() - began

    limits = msgspec.json.decode((data_dir / LIMITS).read_bytes(), type=list[Position])
    directory = WriterDir(data_dir / "journal" / WRITER)
    transfer = DirectoryTransfer(directory, sink, log=log_nothing, pause=throttle)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)

    def move(limit: Position) -> int:
        moved, is_more = 0, True
        while is_more:
            records, is_more = transfer.step(limit)
            moved += records
        return moved

    def reading() -> Reading:
        return Reading(process_time(), stored_s, _server_s(server_pid), _written(database))

    first = move(limits[0])
    before = reading()
    measured = sum(map(move, limits[1:]))
    after = reading()
    transfer.close()
    directory.close()
    database.close()
    process_s, store_s, server_s, written = map(sub, after, before)
    return Cost(first + measured, measured, process_s - store_s, store_s, server_s, written)


def _server_s(pid: int) -> float:
    return ProcessTree(pid).cpu_seconds() if pid else 0.0


def _written(database: Database) -> int:
    """Return the number of bytes that this process (proc(5)) or the log of PostgreSQL has got so far."""
    if not database.is_sqlite:
        with database.read() as connection:
            return int(connection.exec_driver_sql("SELECT pg_current_wal_insert_lsn() - '0/0'").scalar_one())
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar:")))


if __name__ == "__main__":
    print(msgspec.json.encode(ship(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))).decode())
