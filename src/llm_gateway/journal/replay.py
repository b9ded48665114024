"""Replay the journals of processes that crashed or stopped early into the database, before the gateway serves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from llm_gateway.errors import ConfigurationError
from llm_gateway.journal.directory_transfer import DirectoryTransfer
from llm_gateway.journal.other_reader import NO_READER, OtherReader
from llm_gateway.journal.record_delivery import Sink
from llm_gateway.journal.segments import Log, WriterDir, find_hidden, find_writers

PROGRESS_EVERY = 10_000
"""Records between two reports of progress."""


class ReplayReport:
    """Counts of a replay: directories, records moved, and `abandoned`, those of requests that a crash cut off."""

    def __init__(self) -> None:
        self.directories = self.records = self.abandoned = 0


def replay(
    data_dir: Path,
    sink: Sink,
    *,
    log: Log,
    progress: Callable[[int], None] | None = None,
    other: OtherReader = NO_READER,
) -> ReplayReport:
    """Move the records of every unlocked journal directory to the sink, close its open requests, and delete it.

    `other` reads the journals, too: it gets the directory in place of the deletion.

    A locked directory belongs to a running process and is skipped. A replay can be killed at any moment and run again:
    a directory is deleted once everything in it is stored. `progress` is called with the number of records so far after
    every 10,000 of them; without it a line is logged.

    Directories that were being made when their process was killed are deleted, too. A worker that is
    just making its directory while control starts again ends, and is started once more.

    Raises:
        StoreUnavailable: the database does not answer.
        ConfigurationError: the journal cannot be read or deleted.
    """
    report_progress = progress or (lambda records: log("the usage journal is being replayed", records=records))
    report = ReplayReport()
    path = root = data_dir / "journal"
    try:
        for hidden in find_hidden(root):
            with suppress(OSError):  # still being made, or it cannot be deleted: it holds no entry
                WriterDir(hidden).remove()
        for path in find_writers(root):
            _replay(path, partial(DirectoryTransfer, sink=sink, log=log, other=other), other, report, report_progress)
    except OSError as error:
        raise ConfigurationError(
            f"The usage journal in {path} cannot be replayed ({error.strerror}): make it readable and writable."
        ) from error
    return report


def _replay(
    path: Path,
    transfer: Callable[[WriterDir], DirectoryTransfer],
    other: OtherReader,
    report: ReplayReport,
    report_progress: Callable[[int], None],
) -> None:
    """Move everything in a directory and delete it, unless a running process holds its lock."""
    try:
        directory = WriterDir(path)
    except BlockingIOError:
        return
    report.directories += 1
    _move(directory, transfer(directory), report, report_progress)
    other.take_over(directory)


def _move(
    directory: WriterDir, transfer: DirectoryTransfer, report: ReplayReport, report_progress: Callable[[int], None]
) -> None:
    """Move everything in a directory; release its lock if that fails."""
    try:
        is_more = True
        while is_more:
            moved, is_more = transfer.step(None)
            steps_before = report.records // PROGRESS_EVERY
            report.records += moved
            if report.records // PROGRESS_EVERY > steps_before:
                report_progress(report.records)
        abandoned = transfer.abandon()
        report.abandoned += abandoned
        report.records += abandoned
    except BaseException:  # edge: whatever stops it (Ctrl-C too), the next replay must get the lock
        directory.close()
        raise
    finally:
        transfer.close()
