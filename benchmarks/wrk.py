"""Run wrk as the load generator: independent of this project, and four times lighter than the built-in one.

At its deadline it does not wait for answers, so the accounting can be off by one request per connection.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

from benchmarks.jobs import NUMBER, Job, Load

HOW_TO_GET_IT = "apt install wrk on Debian and Ubuntu, brew install wrk on macOS"

_SCRIPT = """
local before, after = BODY_BEFORE, BODY_AFTER
local number = FIRST
wrk.method = "POST"
HEADERS
local fixed
function init(args)
  fixed = wrk.format(nil, nil, nil, before)
end
function request()
  if after == "" then return fixed end
  number = number + 1
  return wrk.format(nil, nil, nil, before .. string.format("%012d", number) .. after)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "failed": %d, "seconds": %f, "p50_us": %f, "p99_us": %f}\\n',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Wrk:
    """The load generator wrk, with one thread."""

    name = "wrk"

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, job: Job) -> Load:
        seconds = max(1, round(job.seconds))
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "request.lua"
            script.write_text(_script(job))
            done = subprocess.run(
                [
                    self._program,
                    "--threads=1",
                    f"--connections={job.connections}",
                    f"--duration={seconds}s",
                    f"--script={script}",
                    f"http://127.0.0.1:{job.port}{job.path}",
                ],
                stdout=subprocess.PIPE,
                check=True,
            )
        load = msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)
        load.unread = job.connections
        load.failure = "wrk does not show it" if load.failed else ""
        return load


def find_wrk() -> Wrk | None:
    """Return wrk if it is installed, else None."""
    program = shutil.which("wrk")
    return Wrk(program) if program else None


def _script(job: Job) -> str:
    before, _, after = job.body.partition(NUMBER)
    headers = "\n".join(f"wrk.headers[ {_lua(name)} ] = {_lua(value)}" for name, value in job.headers.items())
    parts = {"BODY_BEFORE": _lua(before), "BODY_AFTER": _lua(after), "FIRST": str(job.first), "HEADERS": headers}
    script = _SCRIPT
    for name, value in parts.items():
        script = script.replace(name, value)
    return script


def _lua(text: str) -> str:
    """Return a Lua string literal."""
    return f"[==[{text}]==]"
