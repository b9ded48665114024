from __future__ import annotations

import threading
from functools import partial

from llm_gateway.journal.file_thread import FileThread
from tests.journal.samples import until


async def test_jobs_run_in_order_and_each_result_is_reported() -> None:
    thread = FileThread("a-worker")
    told: list[tuple[int, str]] = []
    names: set[str] = set()

    def job(number: int) -> int:
        names.add(threading.current_thread().name)
        if number == 1:
            raise OSError("it failed")
        if number == 2:
            raise ValueError("a mistake")
        return number

    for number in range(4):
        thread.do(partial(job, number), lambda result, error: told.append((result, str(error or ""))))
    await thread.stop()

    assert told == [
        (0, ""),
        (-1, "it failed"),
        (-1, "unexpected error in a file operation: ValueError('a mistake')"),
        (3, ""),
    ]
    assert names == {"a-worker"}
    await until(lambda: "a-worker" not in {thread.name for thread in threading.enumerate()})
