"""Write usage to the journal, and have it in the database before an answer leaves: for hosts without a disk.

The journal's files only carry entries from the worker to the shipper; they may be in memory. `durable` waits until the
shipper has committed them. All settles of a moment wait for one commit: what is written during one is in the next.

     durable          stored(entries)
    --------> waiting ---------------> the answer leaves, its record is in the database
                 |
                 |  PATIENCE_S
                 '-------------------> the answer leaves, since it was paid; its record waits in the files, as without
                                       this class, and is lost only if the host goes before the database is back

Meanwhile no call is begun: intents are refused while the database is known to be away, while an answer has waited for
STALLED_S, and from the first answer that left uncommitted on until everything written by then is stored. Intents
themselves are not committed: of a host that goes with its files, the calls are lost that were not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_gateway.errors import JournalUnavailable
from llm_gateway.journal.durability_waiters import DurabilityWaiters
from llm_gateway.journal.writer import JournalWriter

PATIENCE_S = 5.0
"""Seconds that an answer waits for the commit of its record: longer than control takes to be started again."""
STALLED_S = 4.0
"""Seconds that the oldest answer has waited for its commit, after which no call is begun."""
AGAIN_S = 0.25
"""Seconds until a commit is requested again, in case the process that was asked has ended."""

NO_DATABASE = (
    "The database does not store usage now, so no call is made (LLM_GATEWAY_JOURNAL=database): send the request again "
    "in some seconds."
)


class CommittedJournal(JournalWriter):
    """A JournalWriter whose `durable` waits for the database. Call `connect` after `open`, before anything else."""

    uncommitted = 0
    """Answers that left before their records were in the database."""
    _asked = _stored = _late_until = 0
    _is_ask_due = False
    _again: asyncio.TimerHandle | None = None

    def connect(
        self,
        ask: Callable[[int], None],
        has_database: Callable[[], bool],
        patience_s: float = PATIENCE_S,
        stalled_s: float = STALLED_S,
    ) -> None:
        """Set how commits are requested.

        Args:
            ask: requests that the first N entries, of which it gets the number, are committed, and `stored` is called
                then. A request may get lost; it is repeated.
            has_database: returns False while the database is known to be away.
            patience_s: seconds that an answer waits.
            stalled_s: seconds that an answer has waited, after which calls are refused.
        """
        self._ask, self._has_database = ask, has_database
        self._stalled_s = stalled_s
        self._commits = DurabilityWaiters(patience_s)

    def can_commit(self) -> bool:
        """Return whether the database stores usage, as far as is known."""
        is_late = self._stored < self._late_until
        return not is_late and self._commits.longest_wait_s() <= self._stalled_s and self._has_database()

    def stored(self, entries: int) -> None:
        """Let the answers leave whose records are among the first `entries` entries: these are committed."""
        if entries <= self._stored:
            return
        was_late, self._stored = self._stored < self._late_until, entries
        self._commits.release(entries)
        if was_late and entries >= self._late_until:
            self._log("usage records are in the database before their answers again")

    async def intent(self, request_id: str, payload: bytes) -> None:
        """Write the intent of an attempt, as JournalWriter does.

        Raises:
            JournalUnavailable: the database or the disk is away: the attempt must not be sent.
        """
        if not self.can_commit():
            raise JournalUnavailable(NO_DATABASE, retry_after_s=5)
        await super().intent(request_id, payload)

    async def durable(self) -> None:
        """Return once everything appended so far is in the database, or after `patience_s` seconds.

        Raises:
            JournalUnavailable: the journal's files cannot be written.
        """
        await super().durable()
        written = self.appended - len(self._waiting)
        if written <= self._stored:
            return
        try:
            await self._commit(written)
        except JournalUnavailable:
            self.uncommitted += 1
            if self._stored >= self._late_until:
                self._log("answers leave before their usage records are in the database", level="error")
            self._late_until = self._asked

    async def sync_and_close(self) -> None:
        """Close as JournalWriter does; the shipper takes the directory over."""
        await super().sync_and_close()
        self._commits.close()
        if self._again is not None:
            self._again.cancel()

    async def _commit(self, entries: int) -> None:
        committed = self._commits.wait(entries)
        self._asked = entries
        if not self._is_ask_due:
            self._is_ask_due = True
            self._loop.call_soon(self._ask_now)
        try:
            await committed
        finally:
            del committed  # as in JournalWriter._wait

    def _ask_now(self) -> None:
        self._is_ask_due = False
        self._ask(self._asked)
        if self._again is None:
            self._again = self._loop.call_later(AGAIN_S, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        if self._asked > self._stored and not self.is_closed:
            self._ask_now()
