"""Render the results of the fault tests as a table, for the terminal and for docs/FAULTS.md."""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """A row of the table: one fault with all its cases, and the run that it is of: date and commit."""

    fault: str
    how: str
    measured: str
    seconds: float
    outcome: str
    run: str = ""


def rows(cases: Iterable[Case], run: str = "") -> list[Row]:
    """Return one row per fault, in the order of its first case."""
    faults: dict[str, list[Case]] = {}
    for case in cases:
        faults.setdefault(case.fault, []).append(case)
    return [
        Row(
            fault=fault,
            how=together[0].how,
            measured="; ".join(said for case in together if (said := _said(case))),
            seconds=sum(case.seconds for case in together),
            outcome=min((case.outcome for case in together), key=WORST_FIRST.index),
            run=run,
        )
        for fault, together in faults.items()
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
        "Written by the runs themselves (`make faults` with the option `--write`), each row by the last one that had",
        "it. Real processes; the vendor is a mock that syncs a bill to disk for every call it sees, and the books are",
        "compared with its bills and with what clients read (see [TESTING.md](TESTING.md)).",
        "",
        *(f"- {line}" for line in about),
        "",
        "| fault | how | measured | took | result | run |",
        "|---|---|---|---|---|---|",
    ]
    for row in table:
        cells = (row.fault, row.how, row.measured, f"{row.seconds:.0f} s", row.outcome, row.run)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += [
        "",
        "Not in this table: `make fuzz` has the fuzzing of the interface.",
        "",
    ]
    return "\n".join(lines)


def rows_of(document: str) -> list[Row]:
    """Return the rows that `as_markdown` wrote."""
    found = (line.strip("| ").split(" | ") for line in document.splitlines() if line.startswith("| "))
    return [
        Row(fault, how, measured, float(took.removesuffix(" s")), outcome, run)
        for fault, how, measured, took, outcome, run in found
        if fault != "fault"
    ]


def updated(before: Iterable[Row], now: Sequence[Row], known: Collection[str]) -> list[Row]:
    """Return the rows of `before`, replaced by those of `now`; without those of faults that no test stands for."""
    newest = {row.fault: row for row in (*before, *now)}
    return [row for fault, row in newest.items() if fault in known]


def ran_whole(cases: Iterable[Case], collected: Mapping[str, int]) -> set[str]:
    """Return the faults of which all cases ran; `collected` has their number for each. Of others no row is written."""
    ran = Counter(case.fault for case in cases)
    return {fault for fault, number in ran.items() if number >= collected.get(fault, number)}


def known_faults(folder: Path) -> list[str]:
    """Return the faults that the tests in the folder are marked with."""
    calls = (
        node
        for file in sorted(folder.glob("test_*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"
    )
    return [ast.literal_eval(call.args[0]) for call in calls]


def this_run(root: Path) -> str:
    """Return date and commit of the run."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M}, {_commit(root)}"


def about_this_machine(directory: Path) -> str:
    """Return a description of the machine; `directory` is where the data was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, data on {_file_system(directory)}"
    return f"machine: {machine}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


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
