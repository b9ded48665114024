"""Periodic upkeep of usage: delete old records unless the clock looks wrong; merge past days' totals into blocks.

A system clock that is wrong at one start (a dead battery, a bad time server, a restored virtual machine) must not
delete a single record. So a believed time is kept from run to run (`retention.json` in the data directory) and advanced
by a clock that only counts elapsed time; the system's clock is compared with it:

                 at most a day apart                       more than a day apart
              ┌──────────────────────┐            ┌─────────────────────────────────────┐
              ▼                      │            │                                     ▼
           AGREED ───────────────────┴────────────┘                                 DISPUTED
     believed = clock              ▲                                     believed moves by elapsed time
     delete by the clock           │                                     clock ahead: delete nothing
                                   │                                     clock behind: delete by the clock
                                   └── at most a day apart again, or ───────────┘
                                       24 hours of running without another jump: the clock is accepted

Without the file, the believed time starts at the newest stored record; without records, at the clock. With the file,
records are not used: those made while the clock is wrong carry its time, and a restart would believe it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from llm_gateway import wall_clock
from llm_gateway.store.bulk import Pause, no_pause
from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.usage import UsageStore

FILE_NAME = "retention.json"

TOLERANCE_MS = DAY_MS
"""Maximum difference in milliseconds between the clock and the believed time at which they count as agreed."""

ACCEPTED_AFTER_S = 86_400.0
"""Seconds of running after which a disputed clock is accepted."""

PRUNE_STEP = 2000
"""Maximum number of records deleted in one transaction."""

LOG_EVERY_RECORDS = 100_000
"""Number of older records added to the cube between two log lines of their progress."""

LATE_MS = 3_600_000
"""Milliseconds after its end at which a day is added up; records that come later are added to more rows."""


class Belief(msgspec.Struct):
    """The content of `retention.json`: believed time, difference of the clock, and seconds for which it has lasted."""

    believed_ms: int
    difference_ms: int = 0
    disputed_s: float = 0.0


class Reading(msgspec.Struct, frozen=True):
    """The clock compared with the believed time.

    `difference_ms` is positive if the clock is ahead of the believed time by more than a day, negative if it is behind
    by more than a day, else 0. `is_accepted`: the difference has lasted 24 hours, so the clock is accepted.
    """

    clock_ms: int
    believed_ms: int
    difference_ms: int = 0
    is_accepted: bool = False

    @property
    def is_refused(self) -> bool:
        """True if nothing may be deleted by this clock: it is ahead and not accepted."""
        return self.difference_ms > 0 and not self.is_accepted

    @property
    def safe_ms(self) -> int:
        """The time by which records may be deleted: the earlier of both, or the clock once it is accepted."""
        return self.clock_ms if self.is_accepted else min(self.clock_ms, self.believed_ms)


class BelievedClock:
    """The state machine in the module's docstring. `elapsed_s` is a clock that nobody can set."""

    def __init__(self, belief: Belief, clock_ms: Callable[[], int], elapsed_s: Callable[[], float]) -> None:
        self.belief = belief
        self._clock_ms = clock_ms
        self._elapsed_s = elapsed_s
        self._read_at_s = elapsed_s()

    def read(self) -> Reading:
        """Advance the believed time by the elapsed time, compare the clock with it, and update the belief."""
        belief, now_s, clock_ms = self.belief, self._elapsed_s(), self._clock_ms()
        passed_s = max(0.0, now_s - self._read_at_s)
        self._read_at_s = now_s
        believed_ms = belief.believed_ms + int(passed_s * 1000)
        difference_ms = clock_ms - believed_ms
        if abs(difference_ms) <= TOLERANCE_MS:
            self.belief = Belief(clock_ms)
            return Reading(clock_ms, clock_ms)
        is_same = belief.difference_ms != 0 and abs(difference_ms - belief.difference_ms) <= TOLERANCE_MS
        disputed_s = belief.disputed_s + passed_s if is_same else 0.0
        if disputed_s >= ACCEPTED_AFTER_S:
            self.belief = Belief(clock_ms)
            return Reading(clock_ms, believed_ms, difference_ms, is_accepted=True)
        # While the gateway is stopped the believed time stands still, so that time adds to the difference.
        self.belief = Belief(believed_ms, difference_ms, disputed_s)
        return Reading(clock_ms, believed_ms, difference_ms)


def elapsed_s() -> float:
    """Return seconds since an arbitrary moment, on Linux including the time the machine was suspended."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Retention:
    """Deletion of usage records older than `days`, and summing of past days, in small steps."""

    def __init__(
        self,
        usage: UsageStore,
        directory: Path,
        days: int,
        log: Callable[..., None],
        *,
        clock_ms: Callable[[], int] = wall_clock.now_ms,
        elapsed_s: Callable[[], float] = elapsed_s,
        pause: Pause = no_pause,
    ) -> None:
        self._usage = usage
        self._pause = pause
        self._filled = 0
        self._path = directory / FILE_NAME
        self._kept_ms = days * DAY_MS
        self._log = log
        self._clock_ms = clock_ms
        self._elapsed_s = elapsed_s
        self._clock: BelievedClock | None = None
        self._reading: Reading | None = None  # None between runs
        self._deleted = 0
        self._told = ""

    def step(self) -> bool:
        """Do one step of a run, starting a run if none is active. Returns True if there may be more to do.

        Raises:
            StoreUnavailable: the database does not answer; the next step begins a new run.
        """
        if self._fill_cube():  # before anything is deleted that is not in the cube yet
            return True
        is_left = False
        try:
            reading = self._reading = self._reading or self._begin()
            deleted = 0 if reading.is_refused else self._usage.prune(reading.safe_ms - self._kept_ms, PRUNE_STEP)
            self._deleted += deleted
            over_ms = reading.safe_ms - LATE_MS
            is_built = self._usage.build_block(over_ms) or self._usage.build_margins(over_ms)
            is_left = is_built or deleted == PRUNE_STEP
            if not is_left and not reading.is_refused:
                self._usage.prune_spending(reading.safe_ms - self._kept_ms, reading.safe_ms)
        finally:
            if not is_left:
                self._end()
        return is_left

    def _fill_cube(self) -> bool:
        step = self._usage.fill_cube(self._pause)
        if step is None:
            return False
        self._filled += step.records
        if step.is_last:
            self._log("older usage is summed by all dimensions", records=self._filled)
        elif self._filled % LOG_EVERY_RECORDS == 0:
            self._log("older usage is being summed by all dimensions", records=self._filled, up_to=_day(step.at_ms))
        return True

    def _begin(self) -> Reading:
        times = self._usage.oldest_and_newest_ms()
        if self._clock is None:
            newest_ms = times[1] if times else self._clock_ms()
            belief = _load(self._path) or Belief(newest_ms)
            self._clock = BelievedClock(belief, self._clock_ms, self._elapsed_s)
        reading = self._clock.read()
        self._save(self._clock.belief)
        self._log_clock(reading, is_due=times is not None and times[0] < reading.clock_ms - self._kept_ms)
        return reading

    def _end(self) -> None:
        if self._deleted and self._reading is not None:
            before = _day(self._reading.safe_ms - self._kept_ms)
            self._log("old usage records deleted", count=self._deleted, older_than=before)
        self._deleted, self._reading = 0, None

    def _log_clock(self, reading: Reading, *, is_due: bool) -> None:
        """Log once that the clock is disputed, if it would delete records now, and once that it is accepted."""
        days = round(reading.difference_ms / DAY_MS, 1)
        facts = {"clock": _day(reading.clock_ms), "expected": _day(reading.believed_ms), "days_ahead": days}
        if reading.is_accepted:
            self._told = ""
            self._log("the system's clock is accepted again: old usage records are deleted", level="warning", **facts)
        elif not reading.difference_ms:
            self._told = ""
        elif reading.is_refused and is_due and self._told != "refused":
            self._told = "refused"
            self._log(
                "old usage records are not deleted: the system's clock has jumped ahead",
                level="error",
                advice="If the clock is wrong, set it. If it is right, because the gateway was stopped for that long, "
                "do nothing: after 24 hours of running the clock is accepted.",
                **facts,
            )

    def _save(self, belief: Belief) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(belief))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            self._log(
                "cannot write retention.json, which protects usage records against a wrong clock",
                level="warning",
                file=str(self._path),
                reason=str(error),
            )


def _load(path: Path) -> Belief | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Belief)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None


def _day(at_ms: int) -> str:
    """Return the date in UTC, limited to 1970-01-01 … 9999-12-31 for an absurd clock."""
    most_ms = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000
    return datetime.fromtimestamp(min(max(at_ms, 0), most_ms) / 1000, UTC).strftime("%Y-%m-%d")
