"""Delete usage records by age, without trusting one clock.

A system clock that is wrong at one start (a dead battery, a bad time server, a restored virtual machine) must not
delete a single record. So a believed time is kept from run to run (`retention.json` in the data directory) and moved on
by a clock that only counts elapsed time; the system's clock is compared with it:

                 at most a day apart                       more than a day apart
              ┌──────────────────────┐            ┌─────────────────────────────────────┐
              ▼                      │            │                                     ▼
           AGREED ───────────────────┴────────────┘                                 DISPUTED
     believed = clock              ▲                                     believed moves by elapsed time
     delete by the clock           │                                     clock ahead: delete nothing
                                   │                                     clock behind: delete by the clock
                                   └── at most a day apart again, or ───────────┘
                                       24 hours of running without another jump: the clock is taken as right

Without a file the newest stored record gives the believed time, and without records the clock. With a file records give
none: those made while the clock is wrong carry its time, and would make a restart believe it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from llm_gateway.store.rollups import DAY_MS
from llm_gateway.store.usage import UsageStore

FILE_NAME = "retention.json"
TOLERANCE_MS = DAY_MS
ACCEPTED_AFTER_S = 86_400.0
PRUNE_STEP = 2000
LATE_MS = 3_600_000
"""Milliseconds after its end at which a day is added up; records that come later cost a little more."""


class Belief(msgspec.Struct):
    """What is kept from run to run: the believed time, and how long the clock has differed from it, by how much."""

    believed_ms: int
    difference_ms: int = 0
    disputed_s: float = 0.0


class Reading(msgspec.Struct, frozen=True):
    """The clock, compared with the believed time.

    `difference_ms` is positive when the clock is ahead of the believed time by more than a day, negative when it is
    behind by more than that, else 0. `is_accepted`: it has been so for long enough, and the clock is taken as right.
    """

    clock_ms: int
    believed_ms: int
    difference_ms: int = 0
    is_accepted: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether nothing may be deleted by this clock."""
        return self.difference_ms > 0 and not self.is_accepted

    @property
    def safe_ms(self) -> int:
        """The earlier of both times."""
        return self.clock_ms if self.is_accepted else min(self.clock_ms, self.believed_ms)


class BelievedClock:
    """The state machine of this module. `clock_ms` is the system's clock, `elapsed_s` one that is never set."""

    def __init__(self, belief: Belief, clock_ms: Callable[[], int], elapsed_s: Callable[[], float]) -> None:
        self.belief = belief
        self._clock_ms = clock_ms
        self._elapsed_s = elapsed_s
        self._read_at_s = elapsed_s()

    def read(self) -> Reading:
        """Move the believed time on, and compare the clock with it."""
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
        self.belief = Belief(believed_ms, difference_ms, disputed_s)  # it grows while the gateway is stopped
        return Reading(clock_ms, believed_ms, difference_ms)


def system_clock_ms() -> int:
    """Milliseconds UTC by the system's clock."""
    return time.time_ns() // 1_000_000


def elapsed_s() -> float:
    """Seconds since some moment, those of a suspended machine included where the system counts them (Linux)."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Retention:
    """Deletes usage records older than `days` and adds up days that are over, in small steps."""

    def __init__(
        self,
        usage: UsageStore,
        directory: Path,
        days: int,
        log: Callable[..., None],
        *,
        clock_ms: Callable[[], int] = system_clock_ms,
        elapsed_s: Callable[[], float] = elapsed_s,
    ) -> None:
        self._usage = usage
        self._path = directory / FILE_NAME
        self._kept_ms = days * DAY_MS
        self._log = log
        self._clock_ms = clock_ms
        self._elapsed_s = elapsed_s
        self._clock: BelievedClock | None = None
        self._reading: Reading | None = None  # of the run under way
        self._deleted = 0
        self._told = ""

    def step(self) -> bool:
        """Do one step of a run, beginning one if none is under way. Returns whether there may be more to do.

        Raises:
            StoreUnavailable: the database does not answer; the next step begins a new run.
        """
        is_left = False
        try:
            reading = self._reading = self._reading or self._begin()
            deleted = 0 if reading.is_refused else self._usage.prune(reading.safe_ms - self._kept_ms, PRUNE_STEP)
            self._deleted += deleted
            is_left = self._usage.build_block(reading.safe_ms - LATE_MS) or deleted == PRUNE_STEP
        finally:
            if not is_left:
                self._end()
        return is_left

    def _begin(self) -> Reading:
        times = self._usage.oldest_and_newest_ms()
        if self._clock is None:
            newest_ms = times[1] if times else self._clock_ms()
            belief = _load(self._path) or Belief(newest_ms)
            self._clock = BelievedClock(belief, self._clock_ms, self._elapsed_s)
        reading = self._clock.read()
        self._save(self._clock.belief)
        self._tell(reading, is_due=times is not None and times[0] < reading.clock_ms - self._kept_ms)
        return reading

    def _end(self) -> None:
        if self._deleted and self._reading is not None:
            before = _day(self._reading.safe_ms - self._kept_ms)
            self._log("old usage records deleted", count=self._deleted, older_than=before)
        self._deleted, self._reading = 0, None

    def _tell(self, reading: Reading, *, is_due: bool) -> None:
        """Say once that the clock is disputed, if records are due by it, and that it is taken as right."""
        days = round(reading.difference_ms / DAY_MS, 1)
        facts = {"clock": _day(reading.clock_ms), "expected": _day(reading.believed_ms), "days_ahead": days}
        if reading.is_accepted:
            self._told = ""
            self._log("the system's clock is taken as right again", level="warning", **facts)
        elif not reading.difference_ms:
            self._told = ""
        elif reading.is_refused and is_due and self._told != "refused":
            self._told = "refused"
            self._log(
                "old usage records are not deleted: the system's clock has jumped ahead",
                level="error",
                advice="If the clock is wrong, set it. If it is right, because the gateway was stopped for so long, do "
                "nothing: after 24 hours of running it is taken as right.",
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
            self._log("the time of deleting old records cannot be kept", level="warning", reason=str(error))


def _load(path: Path) -> Belief | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Belief)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None


def _day(at_ms: int) -> str:
    """The day in UTC; the first or last one there is where a clock is absurd."""
    most_ms = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000
    return datetime.fromtimestamp(min(max(at_ms, 0), most_ms) / 1000, UTC).strftime("%Y-%m-%d")
