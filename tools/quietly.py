"""Run a command with its output in a log file; show one line that says what runs, and how long it took.

    python tools/quietly.py LOG TITLE COMMAND …

On a terminal the line counts the seconds meanwhile. If the command fails, the end of the log and its path follow. The
Makefile installs packages with it, so it needs nothing but Python.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

TAIL_LINES = 15


def run(log: Path, title: str, command: list[str]) -> int:
    """Run `command` and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # its encoding can lack the ellipsis and characters of the log
    begun = time.monotonic()
    print(f"{title} …", end="", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while (code := wait(process)) is None:
            if sys.stdout.isatty():
                print(f"\r{title} … {time.monotonic() - begun:.0f} s", end="", flush=True)
    again = f"\r{title} …" if sys.stdout.isatty() else ""
    print(f"{again} {'done' if code == 0 else 'failed'} in {time.monotonic() - begun:.0f} s", flush=True)
    if code != 0:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        print(*end, f"This failed: {title}. The whole log is {log}.", sep="\n", file=sys.stderr)
    return code


def wait(process: subprocess.Popen[bytes]) -> int | None:
    """Wait a second for the process; None while it runs."""
    try:
        return process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return None


if __name__ == "__main__":
    try:
        code = run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except KeyboardInterrupt:
        code = 130  # what a shell says of a command that Ctrl-C ended
    sys.exit(code)
