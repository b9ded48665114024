"""Contract of all syncers: by Linux AIO, by a thread, and by Linux AIO until the kernel refuses."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from llm_gateway.journal.linux_aio import MOST_AT_ONCE, AioContext
from llm_gateway.journal.sync import AioSyncer, Syncer, ThreadSyncer, open_syncer
from tests.journal.samples import Heard, needs_aio, open_files, until

MEMORY = Path("/dev/shm")


class RefusingAio(AioContext):
    """Linux AIO that accepts `accepts` descriptors and refuses the rest."""

    def __init__(self, accepts: int, error: int = errno.EAGAIN) -> None:
        super().__init__()
        self.accepts = accepts
        self._error = error

    def submit(self, fds: Sequence[int]) -> int:
        if not self.accepts:
            raise OSError(self._error, os.strerror(self._error))
        taken = super().submit(fds[: self.accepts])
        self.accepts -= taken
        return taken


class FailingAio(AioContext):
    """Linux AIO that returns the given results first, then real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.results_to_give: list[int] = []

    def results(self) -> list[int]:
        return [self.results_to_give.pop(0) if self.results_to_give else result for result in super().results()]


def by_kernel() -> Syncer:
    return AioSyncer(AioContext(), lambda _: ThreadSyncer(os.fdatasync))


def by_thread() -> Syncer:
    return ThreadSyncer(os.fdatasync)


def after_a_refusal() -> Syncer:
    return AioSyncer(RefusingAio(0), lambda _: ThreadSyncer(os.fdatasync))


def after_a_refusal_midway() -> Syncer:
    return AioSyncer(RefusingAio(1), lambda _: ThreadSyncer(os.fdatasync))


@pytest.fixture(params=[by_kernel, by_thread, after_a_refusal, after_a_refusal_midway])
async def syncer(request: pytest.FixtureRequest) -> AsyncIterator[Syncer]:
    if request.param is not by_thread:
        needs_aio()
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
    opened = [os.open(folder / f"{number}", os.O_RDWR | os.O_CREAT, 0o600) for number in range(2 * MOST_AT_ONCE + 1)]
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


@pytest.mark.parametrize("count", [0, 1, 2, MOST_AT_ONCE, 2 * MOST_AT_ONCE + 1])
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


@pytest.mark.parametrize("place", [0, 1, MOST_AT_ONCE, 2 * MOST_AT_ONCE])
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
async def test_an_error_in_a_result_fails_the_sync(fds: list[int], place: int) -> None:
    needs_aio()
    aio = FailingAio()
    syncer = AioSyncer(aio, lambda _: ThreadSyncer(os.fdatasync))
    aio.results_to_give = [0] * place + [-errno.EIO]
    failed = await outcome(syncer, fds[:3])
    assert isinstance(failed, OSError)
    assert (failed.errno, str(failed)) == (errno.EIO, "[Errno 5] Input/output error")
    assert await outcome(syncer, fds[:3]) is None
    await syncer.close()


async def test_a_failed_result_before_a_refusal_is_still_reported(fds: list[int]) -> None:
    needs_aio()

    class Both(RefusingAio):
        def results(self) -> list[int]:
            return [-errno.EIO for _ in super().results()]

    syncer = AioSyncer(Both(1), lambda _: ThreadSyncer(os.fdatasync))
    failed = await outcome(syncer, fds[:3])
    assert failed is not None
    assert failed.errno == errno.EIO
    await syncer.close()


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EAGAIN])
async def test_a_kernel_that_refuses_is_not_tried_again(fds: list[int], error: int) -> None:
    needs_aio()
    refusals: list[OSError] = []

    def in_a_thread(refused: OSError) -> Syncer:
        refusals.append(refused)
        return ThreadSyncer(os.fdatasync)

    syncer = AioSyncer(RefusingAio(0, error), in_a_thread)
    for _ in range(3):
        assert await outcome(syncer, fds[:2]) is None
    assert [refused.errno for refused in refusals] == [error]
    await syncer.close()


async def test_the_sync_fails_if_no_thread_can_take_over(fds: list[int]) -> None:
    needs_aio()

    def no_thread(_refused: OSError) -> Syncer:
        raise RuntimeError("can't start new thread")

    syncer = AioSyncer(RefusingAio(1), no_thread)
    for _ in range(2):
        assert str(await outcome(syncer, fds[:2])) == "can't start new thread"
    await syncer.close()


async def test_a_second_sync_at_the_same_time_raises(fds: list[int]) -> None:
    needs_aio()
    syncer = by_kernel()
    syncer.sync(fds[:1], lambda _: None)
    with pytest.raises(RuntimeError, match="already"):
        syncer.sync(fds[:1], lambda _: None)
    await syncer.close()


async def test_linux_aio_is_used_where_it_works_and_leaves_nothing_open(fds: list[int]) -> None:
    needs_aio()
    heard, before, threads = Heard(), open_files(), threading.active_count()
    syncer = open_syncer(os.fdatasync, heard)
    assert await outcome(syncer, fds[:1]) is None
    assert threading.active_count() == threads
    await syncer.close()
    assert (heard.events, open_files()) == ([], before)


async def test_without_linux_aio_a_thread_syncs_and_it_is_logged(fds: list[int]) -> None:
    heard, synced = Heard(), list[int]()

    def refuse() -> AioContext:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    syncer = open_syncer(synced.append, heard, make_aio=refuse)
    for _ in range(2):
        assert await outcome(syncer, fds[:1]) is None
    assert synced == [fds[0], fds[0]]
    assert heard.events == [
        (
            "Linux AIO is unavailable: a thread syncs the usage journal",
            {"reason": "[Errno 38] Function not implemented"},
        )
    ]
    await syncer.close()
    await until(lambda: "journal-sync" not in {thread.name for thread in threading.enumerate()})


def test_the_eventfd_is_not_inherited_by_child_processes() -> None:
    needs_aio()
    aio = AioContext()
    assert not os.get_inheritable(aio.eventfd)
    aio.close()
