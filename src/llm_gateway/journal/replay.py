"""At start: what writers that are gone left in their journals becomes records, before anything new is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_gateway.errors import ConfigurationError
from llm_gateway.journal.directory_transfer import DirectoryTransfer
from llm_gateway.journal.record_delivery import Sink
from llm_gateway.journal.segments import Log, WriterDir

PROGRESS_EVERY = 10_000


class ReplayReport:
    """What a replay found: directories, records moved, and how many of those were of requests cut off by a crash."""

    def __init__(self) -> None:
        self.directories = self.records = self.abandoned = 0


def replay(data_dir: Path, sink: Sink, *, log: Log, progress: Callable[[int], None] | None = None) -> ReplayReport:
    """Adopt every directory whose writer is gone: move its records, close its open requests, delete it.

    It can be cut off at any moment and run again: a directory goes when everything in it is stored. `progress` hears
    the number of records so far, every 10,000 of them; without it the log does.

    Raises:
        StoreUnavailable: the database does not answer.
        ConfigurationError: the journal cannot be read.
    """
    tell = progress or (lambda records: log("the usage journal is being replayed", records=records))
    report = ReplayReport()
    for path in sorted((data_dir / "journal").glob("*/")):
        try:
            directory = WriterDir(path)
            report.directories += 1
            _move(directory, DirectoryTransfer(directory, sink, log=log), report, tell)
            directory.remove()
        except BlockingIOError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"The usage journal in {path} cannot be replayed ({error.strerror}): make it readable and writable."
            ) from error
    return report


def _move(directory: WriterDir, transfer: DirectoryTransfer, report: ReplayReport, tell: Callable[[int], None]) -> None:
    """Move everything in a directory; its lock is given up if that does not succeed."""
    try:
        is_more = True
        while is_more:
            moved, is_more = transfer.step(None)
            steps_before = report.records // PROGRESS_EVERY
            report.records += moved
            if report.records // PROGRESS_EVERY > steps_before:
                tell(report.records)
        abandoned = transfer.abandon()
        report.abandoned += abandoned
        report.records += abandoned
    except BaseException:  # edge: whatever stops it, the directory is left to the next replay
        directory.close()
        raise
    finally:
        transfer.close()
