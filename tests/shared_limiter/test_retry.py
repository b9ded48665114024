"""Retries of what could not be done while another process held a lock."""

from __future__ import annotations

import asyncio
from typing import Any

from llm_gateway.host_memory.retry import Retry
from tests.waiting import until


async def test_an_attempt_that_raises_is_not_the_last_one() -> None:
    outcomes: list[bool | OSError] = [OSError("the lock cannot be read"), False, True]
    logged: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))

    def attempt() -> bool:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    retry = Retry(attempt)
    retry.start()
    await until(lambda: not outcomes)
    assert [str(each) for each in logged] == ["the lock cannot be read"]
    retry.stop()
