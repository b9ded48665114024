"""Several processes write their logs to one pipe, as the gateway's do: every line stays whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tests.telemetry.harness import Pipe

PROCESSES = 4
LINES = 3000
ROOT = Path(__file__).resolve().parents[1]
WRITE_LINES = """
import sys
from llm_gateway.telemetry import LogWriter
from tests.telemetry.harness import record

number, lines = sys.argv[1:]
print("ready", file=sys.stderr, flush=True)
sys.stdin.read()  # until all are ready
with LogWriter(console=False, redact=str, close_s=60) as log:
    for line in range(int(lines)):
        log.request(record(id=f"{number}-{line}", user_id="u" * (line * 37 % 900)))
"""


def test_processes_that_share_a_pipe_do_not_tear_each_others_lines() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    pipe = Pipe()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_LINES, str(n), str(LINES)],
            stdin=subprocess.PIPE,
            stdout=pipe.write_end,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for n in range(PROCESSES)
    ]
    for writer in writers:
        assert writer.stderr is not None
        assert writer.stderr.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    text = pipe.text()
    assert [writer.wait(60) for writer in writers] == [0] * PROCESSES
    for writer in writers:
        assert writer.stderr is not None
        with writer.stderr:
            assert writer.stderr.read() == b""
    ids = [json.loads(line)["request_id"].split("-") for line in text.splitlines()]
    assert Counter(number for number, _ in ids) == dict.fromkeys(map(str, range(PROCESSES)), LINES)
    changes = sum(former[0] != later[0] for former, later in pairwise(ids))
    assert changes > PROCESSES, "they wrote at the same time"
