"""Run h2load as a load generator: some 25 µs of CPU a request, where the built-in ones take 60 to 80.

Each of its clients has one connection and sends at a fixed rate. A client whose last request is not answered waits, and
sends afterwards what was due meanwhile; latencies count from when a request was sent, so they lack that wait. Every
request has the same body: the job's headers must keep it from the cache.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.jobs import Job, OpenJob, OpenLoad
from benchmarks.open_loop import percentile

HOW_TO_GET_IT = "apt install nghttp2-client on Debian and Ubuntu, brew install nghttp2 on macOS"
CLIENTS = 1024
_COUNTS = re.compile(r"(\d+) started, (\d+) done")


class H2load:
    """The load generator h2load, with one thread and HTTP/1.1."""

    name = "h2load"

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, job: OpenJob) -> OpenLoad:
        """Run an open-loop job without a lead time, by as many clients as the module says.

        Raises:
            RuntimeError: h2load failed.
        """
        job = msgspec.structs.replace(job, connections=CLIENTS)
        return self._run(job, [f"--rps={job.rate / CLIENTS:.3f}"], may_refuse=job.may_refuse)

    def run_closed(self, job: Job) -> OpenLoad:
        """Run a job whose connections wait for each answer; a refusal is a failure.

        Raises:
            RuntimeError: h2load failed.
        """
        return self._run(job, [], may_refuse=False)

    def _run(self, job: Job, options: list[str], *, may_refuse: bool) -> OpenLoad:
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
        with tempfile.TemporaryDirectory() as folder:
            body, log = Path(folder) / "body", Path(folder) / "log"
            body.write_text(job.body)
            command = [
                self._program,
                "--h1",
                f"--clients={job.connections}",
                f"--duration={job.seconds:g}",
                *options,
                f"--data={body}",
                f"--log-file={log}",
                *(f"--header={name}: {value}" for name, value in job.headers.items()),
                f"http://127.0.0.1:{job.port}{job.path}",
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
            if done.returncode or not log.exists():
                raise RuntimeError(f"h2load ended with code {done.returncode}: {done.stdout[-500:]}")
            with log.open() as lines:
                return read_log(lines, done.stdout, clients=job.connections, may_refuse=may_refuse)


def find_h2load() -> H2load | None:
    """Return h2load if it is installed, else None."""
    program = shutil.which("h2load")
    return H2load(program) if program else None


def read_log(lines: Iterable[str], summary: str, *, clients: int, may_refuse: bool) -> OpenLoad:
    """Read the log of h2load, and what it printed.

    Each line has the time a request was sent, its answer's status, and the microseconds between. Requests whose
    connection was closed have no line: beyond one for each client, which may be on its way at the end, they failed.
    """
    took, refusals, failed, failure = array("q"), array("q"), 0, ""
    for line in lines:
        _, status, microseconds = line.split()[:3]
        if status == "200":
            took.append(int(microseconds))
        elif status == "503" and may_refuse:
            refusals.append(int(microseconds))
        else:
            failed, failure = failed + 1, failure or f"status {status}"
    counted = _COUNTS.search(summary)
    lost = int(counted[1]) - int(counted[2]) - clients if counted else 0
    if lost > 0 or not (took or refusals or failed):
        failed, failure = failed + max(1, lost), failure or "no answer came"
    served, refused = sorted(took), sorted(refusals)
    p50, p90, p99, p999, most = (percentile(served, part) for part in (0.5, 0.9, 0.99, 0.999, 1.0))
    return OpenLoad(
        len(served) + len(refused) + failed,
        failed,
        p50,
        p90,
        p99,
        p999,
        most,
        0.0,
        clients,
        failure,
        len(refused),
        percentile(refused, 0.99),
        len(served),
    )
