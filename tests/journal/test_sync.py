"""Contract of both syncers: in the C threads of the event loop, and in a Python thread."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from llm_gateway.journal.libuv_fdatasync import LibuvPool
from llm_gateway.journal.sync import PoolSyncer, Syncer, ThreadSyncer, open_syncer
from tests.journal.samples import Heard, open_files, until

MEMORY = Path("/dev/shm")
MANY = 9


class FailingPool(LibuvPool):
    """C threads that give the next of `results` in the place of a real result, and refuse where that is an error."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.results: list[int | OSError] = []

    def fdatasync(self, fd: int, ended: Callable[[int], None]) -> None:
        given = self.results.pop(0) if self.results else None
        if isinstance(given, OSError):
            raise given
        super().fdatasync(fd, lambda result: ended(result if given is None else given))


def in_pool() -> Syncer:
    return PoolSyncer(LibuvPool(asyncio.get_running_loop()))


def by_thread() -> Syncer:
    return ThreadSyncer(os.fdatasync)


@pytest.fixture(params=[in_pool, by_thread])
async def syncer(request: pytest.FixtureRequest) -> AsyncIterator[Syncer]:
    make: Callable[[], Syncer] = request.param
    syncer = make()
    yield syncer
    await syncer.close()


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    if not MEMORY.is_dir():
        pytest.skip("no tmpfs at /dev/shm")
    path = MEMORY / f"sync-{os.getpid()}"
    path.mkdir()
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.fixture
def fds(folder: Path) -> Iterator[list[int]]:
    """Return descriptors of files that were just written."""
    opened = [os.open(folder / f"{number}", os.O_RDWR | os.O_CREAT, 0o600) for number in range(MANY)]
    for fd in opened:
        os.write(fd, b"an entry")
    yield opened
    for fd in opened:
        os.close(fd)


@pytest.fixture
def pipe() -> Iterator[int]:
    """Return a pipe's descriptor, for which fdatasync fails."""
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


async def outcome(syncer: Syncer, fds: Sequence[int]) -> OSError | None:
    ended: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    syncer.sync(fds, ended.set_result)
    assert not ended.done()  # never from within `sync`: the caller is not ready for its callback yet
    return await asyncio.wait_for(ended, 5)


@pytest.mark.parametrize("count", [0, 1, 2, MANY])
async def test_any_number_of_files_is_synced_and_reported_once(syncer: Syncer, fds: list[int], count: int) -> None:
    assert await outcome(syncer, fds[:count]) is None


async def test_syncs_run_one_after_the_other(syncer: Syncer, fds: list[int]) -> None:
    for number in range(20):
        os.write(fds[0], b"another entry")
        assert await outcome(syncer, fds[: number % 3 + 1]) is None


async def test_the_next_sync_may_start_in_the_callback_of_the_last(syncer: Syncer, fds: list[int]) -> None:
    told = asyncio.Event()
    syncer.sync(fds[:1], lambda _: syncer.sync(fds[1:2], lambda _: told.set()))
    await asyncio.wait_for(told.wait(), 5)


@pytest.mark.parametrize("place", [0, 1, MANY])
async def test_one_file_that_cannot_be_synced_fails_the_whole_sync(
    syncer: Syncer, fds: list[int], pipe: int, place: int
) -> None:
    failed = await outcome(syncer, [*fds[:place], pipe, *fds[place:]])
    assert failed is not None
    assert failed.errno == errno.EINVAL


async def test_syncing_a_closed_descriptor_fails(syncer: Syncer, fds: list[int]) -> None:
    ends = os.pipe()
    for end in ends:
        os.close(end)
    failed = await outcome(syncer, [ends[0]])
    assert failed is not None
    assert failed.errno == errno.EBADF


async def test_a_failed_sync_does_not_fail_the_next(syncer: Syncer, fds: list[int], pipe: int) -> None:
    assert await outcome(syncer, [pipe]) is not None
    assert await outcome(syncer, fds[:2]) is None


async def test_closing_waits_for_the_running_sync_and_starts_none(syncer: Syncer, fds: list[int]) -> None:
    told: list[OSError | None] = []
    syncer.sync(fds[:3], told.append)
    await syncer.close()
    assert told == [None]
    syncer.sync(fds[:1], told.append)
    await asyncio.sleep(0.05)
    assert told == [None]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("error", [-errno.EIO, OSError(errno.EIO, os.strerror(errno.EIO))], ids=["result", "refusal"])
async def test_an_error_of_one_file_fails_the_sync(fds: list[int], place: int, error: int | OSError) -> None:
    pool = FailingPool()
    syncer = PoolSyncer(pool)
    pool.results = [*[0] * place, error]
    failed = await outcome(syncer, fds[:3])
    assert isinstance(failed, OSError)
    assert (failed.errno, str(failed)) == (errno.EIO, "[Errno 5] Input/output error")
    assert await outcome(syncer, fds[:3]) is None
    await syncer.close()


async def test_the_first_of_several_errors_is_reported(fds: list[int]) -> None:
    pool = FailingPool()
    syncer = PoolSyncer(pool)
    pool.results = [-errno.EIO, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))]
    failed = await outcome(syncer, fds[:3])
    assert failed is not None
    assert failed.errno == errno.EIO
    await syncer.close()


async def test_a_second_sync_at_the_same_time_raises(fds: list[int]) -> None:
    syncer = in_pool()
    syncer.sync(fds[:1], lambda _: None)
    with pytest.raises(RuntimeError, match="already"):
        syncer.sync(fds[:1], lambda _: None)
    await syncer.close()


async def test_an_error_in_the_callback_is_reported_and_ends_the_sync(fds: list[int]) -> None:
    problems: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(repr(context["exception"])))
    syncer = in_pool()

    def fail(_failed: OSError | None) -> None:
        raise ValueError("of the caller")

    syncer.sync(fds[:1], fail)
    await until(lambda: problems)
    assert problems == ["ValueError('of the caller')"]
    assert await outcome(syncer, fds[:1]) is None
    await syncer.close()


async def test_the_gateways_loop_syncs_without_a_python_thread_and_leaves_nothing_open(fds: list[int]) -> None:
    heard, before, threads = Heard(), open_files(), threading.active_count()
    syncer = open_syncer(os.fdatasync, heard)
    assert await outcome(syncer, fds[:1]) is None
    assert threading.active_count() == threads
    await syncer.close()
    assert (heard.events, open_files()) == ([], before)


async def test_without_c_threads_a_python_thread_syncs_and_it_is_logged(fds: list[int]) -> None:
    heard, synced = Heard(), list[int]()

    def refuse(_loop: asyncio.AbstractEventLoop) -> LibuvPool:
        raise OSError(errno.ENOSYS, "uvloop exports no libuv")

    syncer = open_syncer(synced.append, heard, make_pool=refuse)
    for _ in range(2):
        assert await outcome(syncer, fds[:1]) is None
    assert synced == [fds[0], fds[0]]
    assert heard.events == [
        (
            "the event loop has no C threads: a Python thread syncs the usage journal",
            {"reason": "[Errno 38] uvloop exports no libuv"},
        )
    ]
    await syncer.close()
    await until(lambda: "journal-sync" not in {thread.name for thread in threading.enumerate()})


def test_asyncios_own_loop_has_no_such_threads() -> None:
    loop = asyncio.SelectorEventLoop()
    with pytest.raises(OSError, match="the event loop is asyncio"):
        LibuvPool(loop)
    loop.close()
