"""Mode of a limiter that has Redis: Redis decides whether a call fits, Redis and this host, or this host alone.

    ALONE  ── Redis is back, and knows what this host did meanwhile ──▶ BOTH ── nothing left to wait for ──▶ SHARED
      ▲                                                                  │ ▲                                   │
      ├──────────────────── Redis does not answer ◀──────────────────────┘ └─ its memory is new, its clock     │
      └──────────────────── Redis does not answer ◀─────────────────────────── jumped, a host is missing ◀─────┤
                                                                                                               ▼
In SHARED, what Redis counts is all there is. In the other two, a host takes only while its own sum is below a bound:
for 61 seconds the smaller one of its share and of its sum when SHARED ended, later its share, which is the limit
divided by the living hosts. When SHARED ends, the sums of all hosts together are within the limit, and no call that
they make from then on raises a sum above its host's bound; after 61 seconds all sums are within the shares.

That a process is gone is known by its heartbeat in Redis. The others are in BOTH by the time at which it begins to take
alone: they believe an answer to their own heartbeat for `BELIEVED_S`, and it waits that long after `MISSING_S`. Bounds
are fixed when this wait ends, since until then others can have taken what left the window.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_gateway.limiter.window import BUCKETS

MISSING_S = 1.5
"""Seconds without a heartbeat after which a process is missing."""
BELIEVED_S = 1.0
"""Seconds for which the answer to a heartbeat is believed, from the time at which the heartbeat was sent."""
LATE_S = 0.2
"""Seconds after which a heartbeat that Redis executes late no longer says that its process can ask Redis."""
FORGOTTEN_S = 600.0
"""Seconds without a heartbeat after which a host that did not say goodbye is no longer expected back."""
JUMP_S = 1.0
"""A clock of Redis that is ahead by as much, compared with this host's, has jumped."""
AGAIN_S = 0.25
"""Seconds after which a request is worth another try at a host that takes nothing, since Redis can be back."""
NEVER = float("-inf")


class CountingMode:
    """The mode of one process.

    Args:
        clock: seconds that never step back.
        hosts: the number of living hosts as far as others know it; the heartbeats in Redis can show more.
        changed: called with the mode's name when it has changed.
        remembered: the number of hosts that an earlier process of this host has seen.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        hosts: Callable[[], int],
        changed: Callable[[str], None],
        remembered: int = 1,
    ) -> None:
        self._clock = clock
        self._hosts_elsewhere = hosts
        self._changed = changed
        self._seen_hosts = max(remembered, 1)
        self._more_until = NEVER
        self._run_id: str | None = None
        self._quiet_until = clock() + MISSING_S + BELIEVED_S if remembered > 1 else NEVER
        self._strict_until = self._new_until = self._unknown_until = NEVER
        self._bounds: dict[str, tuple[int, int]] = {}
        self._is_shared = self._is_missing = False
        self._said = "alone"
        self.sent_at = NEVER
        """The time of the last heartbeat that was sent."""
        self.epoch = 0
        """The epoch of Redis's memory; 0 before it is known."""
        self.offset_s = 0.0
        """What Redis's clock shows at the zero of this host's."""
        self.most_offset_us = 0.0
        """Microseconds by which Redis's clock may be ahead of this one; beyond, it has jumped."""
        self.is_up = False
        self.memory = 0
        """Number of Redis's memory: what was counted in an earlier one is not corrected in a later one."""
        self.shared_until = NEVER
        """The time before which Redis alone decides."""

    @property
    def name(self) -> str:
        """`shared`, `both` or `alone`."""
        return "alone" if not self.is_up else "shared" if self._clock() < self.shared_until else "both"

    @property
    def hosts(self) -> int:
        """The number of living hosts, this one included; of those that said goodbye for a minute, too."""
        return max(self._seen_hosts, self._hosts_elsewhere(), 1)

    def lost(self) -> None:
        """Note that Redis does not answer."""
        if self.is_up:
            self.is_up = False
            if self.hosts > 1:
                self._be_quiet(self.sent_at + LATE_S + MISSING_S + BELIEVED_S)
        self._end_shared()
        self._say()

    def reached(self, run_id: str) -> None:
        """Note that Redis can be used, and that what this host did alone has been added there."""
        if self._run_id is not None and (not run_id or run_id != self._run_id):
            self.forgot()
        self._run_id = run_id
        self.is_up = True
        self._say()

    def beat(self, sent_at: float, hosts: int, missing: int, forgotten_s: float) -> None:
        """Take over the answer to a heartbeat that was sent at this time.

        `missing` processes are away. Redis lost its memory, and will know all again in `forgotten_s` seconds; 0 if not.
        """
        if not self.is_up:
            return
        now = self._clock()
        was_alone = self.hosts == 1
        self._new_until = max(self._new_until, now + forgotten_s if forgotten_s > 0 else now)
        self._note_hosts(now, hosts)
        is_unknown = now < self._unknown_until
        if forgotten_s > 0:
            self._unknown_until = max(self._unknown_until, now + forgotten_s)
        if (missing and not self._is_missing) or (forgotten_s > 0 and not is_unknown):
            self._end_shared(anew=True)
            if self.hosts > 2:  # a third host may be in SHARED for a moment
                self._be_quiet(now + BELIEVED_S)
        self._is_missing = missing > 0
        if self.hosts == 1 or (not missing and hosts >= self._hosts_elsewhere() and now >= self._new_until):
            self._is_shared = True
            self.shared_until = sent_at + BELIEVED_S
        elif self._is_shared:
            self._end_shared(strictly=missing > 0 or forgotten_s > 0 or not was_alone)
        elif not missing and now >= self._unknown_until:
            self._strict_until = NEVER  # Redis knows all calls since its epoch, and those before left no host's window
        self._say()

    def _note_hosts(self, now: float, hosts: int) -> None:
        """Note the number of hosts. A smaller one counts after 61 seconds: calls of those that left count as long."""
        if hosts >= self._seen_hosts:
            self._seen_hosts, self._more_until = hosts, NEVER
        elif self._more_until == NEVER:
            self._more_until = now + BUCKETS
        elif now >= self._more_until and now >= self._new_until:
            self._seen_hosts, self._more_until = hosts, NEVER

    def has_counted_all(self, epoch: int, now_us: int, asked_at: float) -> bool:
        """Return True if the Redis that answered has counted all along, for a question of this time."""
        return epoch == self.epoch and now_us - asked_at * 1e6 < self.most_offset_us

    def compare(self, epoch: int, now_us: int, asked_at: float) -> bool:
        """Compare epoch and clock of an answer with earlier ones. Returns False if Redis has forgotten what it counted.

        Then both decide for 61 seconds. Calls before this process was there count in this host's own sum.
        """
        offset_s = now_us / 1e6 - asked_at
        is_first, has_changed = self.epoch == 0, not self.has_counted_all(epoch, now_us, asked_at)
        self.epoch, self.offset_s, self.most_offset_us = epoch, offset_s, (offset_s + JUMP_S) * 1e6
        if is_first:
            self._new_until = max(self._new_until, self._clock() + BUCKETS - (now_us - epoch) / 1e6)
        elif has_changed:
            self.forgot()
            return False
        return True

    def forgot(self) -> None:
        """Note that Redis does not know the calls of the last minute."""
        self.memory += 1
        self._new_until = self._unknown_until = self._clock() + BUCKETS
        self._end_shared(anew=True)
        self._say()

    def _end_shared(self, *, strictly: bool = True, anew: bool = False) -> None:
        """End SHARED. `anew`: fix new bounds also if it has ended before."""
        if self._is_shared or anew:
            self._is_shared = False
            self._bounds.clear()
            until = max(self._clock(), self._quiet_until) + BUCKETS if strictly else NEVER
            self._strict_until = max(self._strict_until, until) if anew else until
        self.shared_until = NEVER

    def _be_quiet(self, until: float) -> None:
        """Take nothing before this time, and fix the bounds then."""
        self._quiet_until = max(self._quiet_until, until)
        self._bounds.clear()
        self._strict_until = max(self._strict_until, self._quiet_until + BUCKETS)

    def _say(self) -> None:
        name = self.name
        if name != self._said:
            self._said = name
            self._changed(name)

    def wait_s(self) -> float:
        """Return the seconds before which this host takes nothing, since others may not know of it yet."""
        if self.hosts == 1:
            return 0.0
        return max(self._quiet_until - self._clock(), 0.0)

    @property
    def is_quiet(self) -> bool:
        """True while this host takes nothing."""
        return self._clock() >= self.shared_until and self.wait_s() > 0

    def again_s(self) -> float:
        """Return the seconds after which a request is worth another try that is outside the bounds.

        While the host takes nothing, as after a single slow answer, Redis can be back at any time. Otherwise the bounds
        become the shares then; at least 1.
        """
        return AGAIN_S if self.is_quiet else max(self._strict_until - self._clock(), 1.0)

    def bounds(self, window: str, rpm: int, tpm: int, sums: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        """Return the bounds of this host's own requests and tokens, while Redis does not decide alone.

        `sums` returns this host's own requests and tokens of the last minute.
        """
        if self._is_shared and self._clock() >= self.shared_until:
            self._end_shared()  # the answers to heartbeats are late
            self._say()
        hosts = self.hosts
        if hosts == 1:
            return rpm, tpm
        if self.wait_s():
            return 0, 0
        rpm, tpm = rpm // hosts, tpm // hosts
        if self._clock() >= self._strict_until:
            return rpm, tpm
        bound = self._bounds.get(window)
        if bound is None:
            bound = self._bounds[window] = sums()
        return min(rpm, bound[0]), min(tpm, bound[1])
