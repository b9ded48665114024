"""Ship a prepared journal to a new SQLite database and print what that cost, as JSON: one run of `shipping`.

It runs in a process of its own, which may import the gateway of another checkout.
"""

from __future__ import annotations

import gc
import sys
from functools import partial
from pathlib import Path
from time import process_time, thread_time

import msgspec

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
    """Cost of one run: CPU seconds of the journal's and of the database's part, and bytes written to files."""

    records: int
    journal_s: float
    store_s: float
    written: int


def ship(data_dir: Path) -> Cost:
    """Ship the journal in `data_dir`, a batch at a time, with the pauses that the control process takes."""
    database = Database.open(f"sqlite:///{data_dir / 'gateway.db'}")
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
    moved, written, began = 0, _written(), process_time()
    for limit in limits:
        is_more = True
        while is_more:
            records, is_more = transfer.step(limit)
            moved += records
    took_s, written = process_time() - began, _written() - written
    transfer.close()
    directory.close()
    database.close()
    return Cost(moved, took_s - stored_s, stored_s, written)


def _written() -> int:
    """Return the number of bytes that this process has written so far (proc(5))."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar:")))


if __name__ == "__main__":
    print(msgspec.json.encode(ship(Path(sys.argv[1]))).decode())
