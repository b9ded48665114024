"""Render the results of the fault tests as a table, for the terminal and for docs/FAULTS.md."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

WORST_FIRST = ("error", "failed", "skipped", "passed")


class Case(msgspec.Struct):
    """A test's result: the fault, how it was caused, the outcome, and what was measured."""

    fault: str
    how: str
    name: str
    outcome: str
    seconds: float
    said: list[str]

    @property
    def variant(self) -> str:
        """The parameters of a parametrised test, else empty."""
        return self.name.partition("[")[2].removesuffix("]")


class Row(msgspec.Struct):
    """A row of the table: one fault with all its cases."""

    fault: str
    how: str
    measured: str
    seconds: float
    outcome: str


def rows(cases: Iterable[Case]) -> list[Row]:
    """Return one row per fault, in the order of its first case."""
    faults: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        faults.setdefault((case.fault, case.how), []).append(case)
    return [
        Row(
            fault=fault,
            how=how,
            measured="; ".join(said for case in together if (said := _said(case))),
            seconds=sum(case.seconds for case in together),
            outcome=min((case.outcome for case in together), key=WORST_FIRST.index),
        )
        for (fault, how), together in faults.items()
    ]


def _said(case: Case) -> str:
    said = ", ".join(case.said)
    if case.outcome in ("error", "failed"):
        said = f"{said} FAILED".strip()
    return f"{case.variant}: {said}" if case.variant and said else said


def as_text(table: Sequence[Row]) -> list[str]:
    """Return the table as lines for a terminal."""
    width = max(len(row.fault) for row in table)
    return [f"{row.fault:<{width}}  {row.outcome:<7} {row.seconds:7.1f} s  {row.measured}" for row in table]


def as_markdown(table: Sequence[Row], about: Sequence[str]) -> str:
    """Return the document; `about` describes the run."""
    lines = [
        "# Faults: what was done to the gateway, and what was measured",
        "",
        "Written by the run itself (`make faults` with the option `--write`). Real processes; the vendor is a mock",
        "that syncs a bill to disk for every call it sees, and the books are compared with its bills and with what",
        "clients read (see [TESTING.md](TESTING.md)).",
        "",
        *(f"- {line}" for line in about),
        "",
        "| fault | how | measured | took | result |",
        "|---|---|---|---|---|",
    ]
    for row in table:
        cells = (row.fault, row.how, row.measured, f"{row.seconds:.0f} s", row.outcome)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += [
        "",
        "Not in this table: `make fuzz` has the fuzzing of the interface.",
        "",
    ]
    return "\n".join(lines)


def about_this_run(root: Path, directory: Path) -> list[str]:
    """Return date, machine and commit of the run; `directory` is where the data was."""
    now = datetime.now(UTC)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, data on {_file_system(directory)}"
    return [
        f"date: {now:%Y-%m-%d %H:%M} UTC",
        f"machine: {machine}, {platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"commit: {_commit(root)}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(directory: Path) -> str:
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "an unknown file system"
    here = directory.resolve()
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    return max((place, kind) for place, kind in found if here.is_relative_to(place))[1]


def _commit(root: Path) -> str:
    if shutil.which("git") is None:
        return "unknown"

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    changed = [line for line in git("status", "--porcelain").splitlines() if "docs/FAULTS" not in line]
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (", with uncommitted changes" if changed else "")
