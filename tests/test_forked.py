"""Functions in forked processes: what they return and raise, and how they are stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise
from typing import Any, NoReturn

import pytest

from llm_gateway.errors import Invalid
from llm_gateway.forked import MOST_WAITING, ForkFailed, Forks
from llm_gateway.protocols.contract import Unreadable

MEBIBYTE = 2**20


async def test_a_function_sees_what_its_caller_sees_and_returns_data_in_pieces() -> None:
    seen = {"a": [1]}

    def change() -> tuple[Any, bytes]:
        seen["a"].append(2)
        return seen, b"x" * MEBIBYTE

    found, pieces = await Forks().run(change, 30)
    assert (found, seen) == ({"a": [1, 2]}, {"a": [1]})
    assert (b"".join(pieces), len(pieces) > 1) == (b"x" * MEBIBYTE, True)


@pytest.mark.parametrize("error", [Unreadable("messages", "wrong"), Invalid("Bad.", loc=("body", "a")), ValueError(1)])
async def test_what_a_function_raises_is_raised(error: Exception) -> None:
    def fail() -> NoReturn:
        raise error

    with pytest.raises(type(error)) as raised:
        await Forks().run(fail, 30)
    assert (raised.value.args, vars(raised.value)) == (error.args, vars(error))


async def test_a_process_that_is_killed_fails_its_call_alone() -> None:
    forks = Forks()

    def die() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(ForkFailed, match="killed"):
        await forks.run(die, 30)
    assert await forks.run(lambda: (7, b""), 30) == (7, [])


async def test_a_process_that_needs_too_much_memory_fails() -> None:
    with pytest.raises(ForkFailed, match="memory"):
        await Forks(most_bytes=64 * MEBIBYTE).run(lambda: (len(bytearray(512 * MEBIBYTE)), b""), 30)


async def test_a_process_that_takes_too_long_is_killed() -> None:
    forks = Forks()

    def hang() -> tuple[Any, bytes]:
        time.sleep(60)
        return None, b""

    started = time.monotonic()
    with pytest.raises(ForkFailed, match="too long"):
        await forks.run(hang, 0.2)
    assert await forks.run(lambda: (7, b""), 30) == (7, [])
    assert time.monotonic() - started < 20


async def test_one_process_runs_at_a_time() -> None:
    forks, at = Forks(), time.monotonic

    def wait() -> tuple[Any, bytes]:
        begun = at()
        time.sleep(0.05)
        return (begun, at()), b""

    times = sorted(found for found, _ in await asyncio.gather(*[forks.run(wait, 30) for _ in range(3)]))
    assert all(end <= begun for (_, end), (begun, _) in pairwise(times))


async def test_more_documents_than_may_wait_are_refused_at_once() -> None:
    forks = Forks()
    calls = [forks.run(lambda: (None, b""), 30) for _ in range(MOST_WAITING + 2)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    refused = [str(error) for error in ended if isinstance(error, ForkFailed)]
    assert refused == [f"{MOST_WAITING} documents wait already"] * 2
    assert await forks.run(lambda: (7, b""), 30) == (7, [])
