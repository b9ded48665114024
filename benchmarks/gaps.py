"""Measure how long the event loop stalls while the shipper moves a backlog, and the CPU time of moving a record.

One process on one core: a busy event loop (decoding, hashing, a write, a socket: the work of a request), and the real
shipper that moves finished requests from a journal to a new database. Run it with `python -m benchmarks.gaps`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from benchmarks.history import History, Shape
from benchmarks.machine import Cores
from benchmarks.report import table
from llm_gateway.child_process import GC_THRESHOLDS
from llm_gateway.domain.usage import UsageRecord, encode_record
from llm_gateway.journal.frames import encode_frame
from llm_gateway.journal.position_page import PAGE_NAME, PageWriter, create_page, map_page
from llm_gateway.journal.segments import WriterDir, log_nothing
from llm_gateway.journal.shipper import Shipper
from llm_gateway.journal.throttle import REST_S, WORK_S, Throttle
from llm_gateway.journal.writer import SEGMENT_BYTES
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from llm_gateway.worker.serve import SWITCH_INTERVAL_S

DOCUMENT = msgspec.json.encode(
    {
        "id": "chatcmpl-0123456789",
        "model": "a-model-2026-05-01",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 100}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200},
    }
)
ALONE_S = 2.0
LONGEST_S = 600.0
"""Maximum seconds of moving a backlog."""
WORK = 10
HEAD_BYTES = 52
"""Bytes of an entry besides its payload."""
SENDER = """
import os, random, socket, struct, sys, time
sender = socket.socket(fileno=int(sys.argv[1]))
os.sched_setaffinity(0, set(map(int, sys.argv[3].split(","))))
rate, due = float(sys.argv[2]), time.perf_counter()
while True:
    due += random.expovariate(rate)
    time.sleep(max(0, due - time.perf_counter()))
    sender.send(struct.pack("d", time.perf_counter()))
"""


class Run(msgspec.Struct, frozen=True):
    """Result of moving one backlog: waiting times of calls without and with the shipper, and the CPU time of both."""

    alone_p999_ms: float
    alone_max_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    over_2_ms: float
    calls: int
    call_us: float
    shipper_us: float
    process_us: float
    seconds: float


class Backlog:
    """The directory of a living writer with `records` already written."""

    def __init__(self, folder: Path, records: list[UsageRecord]) -> None:
        self.root = folder / "journal"
        self.directory = WriterDir.make(self.root / "writer", partial(create_page, segment_bytes=SEGMENT_BYTES))
        page = self.directory.path / PAGE_NAME
        entries, number, at = 2 * len(records), 1, 0
        file = self.directory.segment(number).open("wb")
        for record in records:
            payload = encode_record(record)
            if at + 2 * (len(payload) + HEAD_BYTES) > SEGMENT_BYTES:
                file.close()
                number, at = number + 1, 0
                file = self.directory.segment(number).open("wb")
            at += file.write(encode_frame("I", record.id, payload, number))
            at += file.write(encode_frame("S", record.id, payload, number))
        file.close()
        PageWriter(page, map_page(page, writable=True)).publish(number, at, entries, entries)


class Calls:
    """Work for the event loop: another process sends it datagrams, each of which causes the work of a request."""

    def __init__(self, folder: Path, rate: float, cores: set[int]) -> None:
        self._delays: list[float] = []
        self._fd = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT, 0o600)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)
        command = [sys.executable, "-c", SENDER, str(theirs.fileno()), str(rate), ",".join(map(str, cores))]
        self._sender = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        asyncio.get_running_loop().add_reader(self._ours, self._serve)

    def _serve(self) -> None:
        [sent] = struct.unpack("d", self._ours.recv(8))
        self._delays.append((time.perf_counter() - sent) * 1000)
        for _ in range(WORK):
            msgspec.json.encode(msgspec.json.decode(DOCUMENT))
            hashlib.sha256(DOCUMENT).hexdigest()
        os.pwrite(self._fd, DOCUMENT, 0)

    def delays_ms(self) -> list[float]:
        """Return the milliseconds that each datagram since the last call waited for the loop, sorted."""
        delays, self._delays = self._delays, []
        return sorted(delays)

    def close(self) -> None:
        """End the sending process and close the socket."""
        asyncio.get_running_loop().remove_reader(self._ours)
        self._sender.kill()
        self._sender.wait()
        self._ours.close()
        os.close(self._fd)


async def measure(folder: Path, records: list[UsageRecord], given: argparse.Namespace, cores: Cores) -> Run:
    """Move `records` beside a busy loop, and measure both."""
    database = Database.open(f"sqlite:///{folder / 'gateway.db'}")
    database.migrate()
    throttle = Throttle(work_s=given.work, rest_s=given.rest)
    sink = partial(UsageStore(database).write, pause=throttle)
    backlog = Backlog(folder, records)
    shipper = Shipper(backlog.root, sink, log=log_nothing, pause=throttle)
    calls = Calls(folder, given.rate, cores.others)
    await asyncio.sleep(0.5)
    calls.delays_ms()
    cpu = time.process_time()
    await asyncio.sleep(ALONE_S)
    alone, cpu_alone = calls.delays_ms(), time.process_time() - cpu
    began, cpu = time.perf_counter(), time.process_time()
    shipper.start()
    if given.real_time:
        os.sched_setscheduler(shipper._thread.native_id or 0, os.SCHED_FIFO, os.sched_param(1))
    clock = time.pthread_getcpuclockid(shipper._thread.ident or 0)
    await asyncio.to_thread(shipper.flush, LONGEST_S)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    shipped = time.clock_gettime(clock)
    delays = calls.delays_ms()
    calls.close()
    await asyncio.to_thread(shipper.stop)
    backlog.directory.close()
    database.close()
    return Run(
        alone_p999_ms=_quantile(alone, 0.999),
        alone_max_ms=alone[-1],
        p99_ms=_quantile(delays, 0.99),
        p999_ms=_quantile(delays, 0.999),
        max_ms=delays[-1],
        over_2_ms=sum(delay > 2 for delay in delays) / len(delays) * 100,
        calls=len(delays),
        call_us=cpu_alone / len(alone) * 1e6,
        shipper_us=shipped / len(records) * 1e6,
        process_us=(cpu - cpu_alone * len(delays) / len(alone)) / len(records) * 1e6,
        seconds=seconds,
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaps", description=__doc__)
    parser.add_argument("--records", type=int, default=20_000, help="length of the backlog (default: 20000)")
    parser.add_argument("--customers", type=int, default=2_000, help="customers it is of (default: 2000)")
    parser.add_argument("--runs", type=int, default=3, help="how often (default: 3)")
    parser.add_argument("--rate", type=float, default=2500, help="calls a second (default: 2500)")
    parser.add_argument("--work", type=float, default=WORK_S, help="the shipper's seconds between two rests")
    parser.add_argument("--rest", type=float, default=REST_S, help="and those of a rest")
    parser.add_argument("--real-time", action="store_true", help="keep other processes off the core; needs root")
    parser.add_argument("--switch-interval", type=float, help="of the interpreter, in seconds (default: the server's)")
    given = parser.parse_args(arguments)
    cores = Cores()
    os.sched_setaffinity(0, cores.measured)
    if given.real_time:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    sys.setswitchinterval(given.switch_interval or SWITCH_INTERVAL_S)
    now_ms = time.time_ns() // 1_000_000
    history = History(Shape(records=given.records, customers=given.customers), now_ms)
    records = history.made_at([now_ms - given.records + number for number in range(given.records)])
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    runs = []
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory(prefix="gaps-") as name:
            runs.append(uvloop.run(measure(Path(name), records, given, cores)))
    print(f"{given.records:,} records, switch interval {sys.getswitchinterval() * 1000:g} ms")
    print(table(list(Run.__struct_fields__), [[f"{value:.2f}" for value in msgspec.structs.astuple(r)] for r in runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
