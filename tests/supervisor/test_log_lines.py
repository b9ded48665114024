"""The supervisor's log lines at a pipe that nobody reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import sys
from llm_gateway.supervisor.log_lines import SupervisorLog

log = SupervisorLog("info", "json")
log("a line longer than the space that is left", text="x" * 8192)
log("one more")
log("below the level", level="debug")
first = log.take_dropped(1)
print(first, log.dropped, log.take_dropped(100), log.dropped, file=sys.stderr)
"""


def test_no_write_waits_for_a_full_pipe_and_lost_lines_are_counted() -> None:
    """The pipe has space as the write begins, but not for all of it: as if another process took the rest meanwhile."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as kept, os.fdopen(writing, "wb", buffering=0) as pipe:
        fill = b"x" * 4096
        while pipe.write(fill):
            pass
        os.read(kept.fileno(), 4096)
        os.set_blocking(writing, True)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=pipe, stderr=subprocess.PIPE, timeout=20, check=True
        )
    assert done.stderr.split() == [b"1", b"1", b"1", b"0"]


def test_a_lines_form_is_that_of_the_other_processes() -> None:
    program = PROGRAM.replace("8192", "2")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "a line longer than the space that is left",
        "one more",
    ]
    assert done.stderr.split() == [b"0", b"0", b"0", b"0"]
