"""Batch workers' requests for larger leases: one transaction at a time for each account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.lease_answer import LeaseAnswer

THREADS = 4
"""Accounts that are asked about at once. More of them wait."""
MOST_WAITING = 1_024
"""Questions that wait at once; further ones are refused."""
BUSY = LeaseAnswer("unavailable", text="too many requests wait for it")


class LeaseBatches:
    """Answers questions by `fetch`, which gets an account, the least that one of them needs, and what all need."""

    def __init__(self, fetch: Callable[[AccountRef, int, int], LeaseAnswer]) -> None:
        self._fetch = fetch
        self._waiting: dict[AccountRef, list[tuple[int, asyncio.Future[LeaseAnswer]]]] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(THREADS, "leases")

    async def ask(self, ref: AccountRef, need: int) -> LeaseAnswer:
        """Return whether a request that lacks room for `need` may try again."""
        if self._count >= MOST_WAITING:
            return BUSY
        loop = asyncio.get_running_loop()
        future: asyncio.Future[LeaseAnswer] = loop.create_future()
        waiting = self._waiting.get(ref)
        if waiting is not None:
            waiting.append((need, future))
        else:
            self._waiting[ref] = [(need, future)]
            task = loop.create_task(self._serve(ref))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._count += 1
        try:
            return await future
        finally:
            self._count -= 1

    def close(self) -> None:
        """Let no further question be asked."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, ref: AccountRef) -> None:
        """Ask for all that wait, until nobody does. A refusal holds for those, too, who came meanwhile."""
        loop = asyncio.get_running_loop()
        while waiting := self._waiting[ref]:
            self._waiting[ref] = []
            needs = [need for need, future in waiting if not future.done()]
            if not needs:
                continue
            answer = BUSY
            try:
                answer = await loop.run_in_executor(self._threads, self._fetch, ref, min(needs), sum(needs))
            finally:
                if answer.state != "granted":
                    late = self._waiting[ref]
                    waiting += [each for each in late if each[0] >= min(needs)]
                    self._waiting[ref] = [each for each in late if each[0] < min(needs)]
                for _, future in waiting:
                    if not future.done():
                        future.set_result(answer)
        del self._waiting[ref]
