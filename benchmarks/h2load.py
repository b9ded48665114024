"""Run h2load as a load generator: some 25 µs of CPU a request, where the built-in ones take 60 to 80.

In the open loop each of its clients has one connection and sends at a fixed rate; a client whose last request is not
answered waits, so the rate is kept only while answers come before a client's next request is due. What it sent is in
the result. Every request has the same body: the job's headers must keep it from the cache.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from array import array
from pathlib import Path

from benchmarks.jobs import Job, OpenJob, OpenLoad
from benchmarks.open_loop import percentile

HOW_TO_GET_IT = "apt install nghttp2-client on Debian and Ubuntu, brew install nghttp2 on macOS"
CLIENTS = 1024


class H2load:
    """The load generator h2load, with one thread and HTTP/1.1."""

    name = "h2load"

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, job: OpenJob) -> OpenLoad:
        """Run an open-loop job without a lead time.

        Raises:
            RuntimeError: h2load failed.
        """
        return self._run(job, [f"--clients={CLIENTS}", f"--rps={job.rate / CLIENTS:.3f}"], may_refuse=job.may_refuse)

    def run_closed(self, job: Job) -> OpenLoad:
        """Run a job whose connections wait for each answer; a refusal is a failure.

        Raises:
            RuntimeError: h2load failed.
        """
        return self._run(job, [f"--clients={job.connections}"], may_refuse=False)

    def _run(self, job: Job, options: list[str], *, may_refuse: bool) -> OpenLoad:
        with tempfile.TemporaryDirectory() as folder:
            body, log = Path(folder) / "body", Path(folder) / "log"
            body.write_text(job.body)
            command = [
                self._program,
                "--h1",
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
            return read_log(log, may_refuse=may_refuse)


def find_h2load() -> H2load | None:
    """Return h2load if it is installed, else None."""
    program = shutil.which("h2load")
    return H2load(program) if program else None


def read_log(log: Path, *, may_refuse: bool) -> OpenLoad:
    """Read a log of h2load. Lines have the time a request was sent, its answer's status, and the microseconds between.

    The status is -1 if no answer came.
    """
    took, refusals, failed, failure = array("q"), array("q"), 0, ""
    with log.open() as lines:
        for line in lines:
            _, status, microseconds = line.split()[:3]
            if status == "200":
                took.append(int(microseconds))
            elif status == "503" and may_refuse:
                refusals.append(int(microseconds))
            else:
                failed, failure = failed + 1, failure or f"status {status}"
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
        CLIENTS,
        failure,
        len(refused),
        percentile(refused, 0.99),
        len(served),
    )
