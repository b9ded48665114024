"""Closed-loop load generator: raw HTTP over uvloop, one request at a time on every connection.

Runs in its own process (`python -m benchmarks.load`), which reads lines with a `Job` and writes for each a line with
its `Load`, both JSON. It reads every answer, so that requests sent and requests recorded can be compared exactly.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from array import array
from pathlib import Path
from time import perf_counter_ns
from typing import BinaryIO, cast

import msgspec
import uvloop

from benchmarks.answers import AnswerReader, is_ok
from benchmarks.jobs import Job, Load

ROOT = Path(__file__).resolve().parents[1]
NS = 1_000_000_000
PATIENCE_SECONDS = 30.0
"""Seconds without any answer after which a job gives up: under valgrind a job as a whole takes longer."""


class BuiltIn:
    """The built-in load generator; one process runs all jobs, from the first one until this process ends."""

    name = "the built-in generator"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> Load:
        """Run a job.

        Raises:
            RuntimeError: the generator ended; its error output says why.
        """
        if self._process is None:
            command, pipe = [sys.executable, "-m", "benchmarks.load"], subprocess.PIPE
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe)
        stdin, stdout = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        stdin.write(msgspec.json.encode(job) + b"\n")
        stdin.flush()
        if not (line := stdout.readline()):
            raise RuntimeError(f"The load generator ended with code {self._process.wait()}.")
        return msgspec.json.decode(line, type=Load)


class _Run:
    """State shared by the connections of a job."""

    def __init__(self, job: Job) -> None:
        self.before, self.after = job.parts()
        self.number = job.first
        self.took = array("q")
        self.failed = 0
        self.failure = ""
        self.at_least = job.at_least
        self.deadline = 0
        self.open = job.connections
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next_request(self) -> bytes:
        if not self.after:
            return self.before
        self.number += 1
        return b"%b%012d%b" % (self.before, self.number, self.after)

    def fail(self, what: bytes) -> None:
        self.failed += 1
        self.failure = self.failure or what[:500].decode("utf-8", "replace")

    def close(self) -> None:
        self.open -= 1
        if self.open == 0 and not self.finished.done():
            self.finished.set_result(None)


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set before anything else is called
        self._reader = AnswerReader()
        self._sent_at = 0
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done:
            self._run.fail(b"the connection was lost: " + str(exc).encode())
        self._run.close()

    def send(self) -> None:
        self._sent_at = perf_counter_ns()
        self._transport.write(self._run.next_request())

    def data_received(self, data: bytes) -> None:
        if answer := self._reader.feed(data):
            self._answered(answer)

    def _answered(self, data: bytes) -> None:
        run, now = self._run, perf_counter_ns()
        run.took.append(now - self._sent_at)
        if not is_ok(data):
            run.fail(data)
        if now < run.deadline or len(run.took) < run.at_least:
            self.send()
        else:
            self._done = True
            self._transport.close()


async def load(job: Job, patience_seconds: float = PATIENCE_SECONDS) -> Load:
    """Run a job. It ends early, with a failure, once no answer came for `patience_seconds`."""
    run = _Run(job)
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", job.port) for _ in range(job.connections)
    ]
    start = perf_counter_ns()
    run.deadline = start + int(job.seconds * NS)
    for _, connection in opened:
        connection.send()
    if not await _finished(run, patience_seconds):
        run.fail(b"answers did not come")
    seconds = (perf_counter_ns() - start) / NS
    took = sorted(run.took) or [0]
    p50, p99 = (took[int(len(took) * part)] / 1000 for part in (0.5, 0.99))
    result = Load(len(run.took), run.failed, seconds, p50, p99, run.failure)
    for transport, _ in opened:
        transport.abort()
    await asyncio.sleep(0)  # the connections close now
    return result


async def _finished(run: _Run, patience_seconds: float) -> bool:
    """Wait until the job is done. Returns False once no answer has come for `patience_seconds`."""
    answered = -1
    while not run.finished.done() and len(run.took) > answered:
        answered = len(run.took)
        await asyncio.wait([run.finished], timeout=patience_seconds)
    return run.finished.done()


def main() -> None:
    """Run each job from standard input when it comes, and write its result to standard output."""
    for line in sys.stdin.buffer:
        result = uvloop.run(load(msgspec.json.decode(line, type=Job)))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
