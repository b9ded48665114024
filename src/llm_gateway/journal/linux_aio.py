"""Asynchronous fdatasync by the Linux kernel (io_submit(2)), which needs no thread.

Called through syscall(2), since the C library has no wrappers. The GIL is held during the call (`PyDLL`): a submission
only queues the work and takes 3 µs, less than it costs to get the GIL back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence

IOCB_CMD_FDSYNC = 3
IOCB_FLAG_RESFD = 1
"""The operation, and the flag to signal its end on an eventfd: include/uapi/linux/aio_abi.h."""

MOST_AT_ONCE = 16
"""Syncs that one context runs at the same time."""

SYSCALLS = {
    "x86_64": {"io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209},
    "aarch64": {"io_setup": 0, "io_destroy": 1, "io_submit": 2, "io_getevents": 4},
}
"""System call numbers by machine: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h."""


class _ControlBlock(ctypes.Structure):
    """`struct iocb` of include/uapi/linux/aio_abi.h, little endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event` of include/uapi/linux/aio_abi.h: the result of one operation that has ended."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("block", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


_BLOCK_WORDS, _FD = ctypes.sizeof(_ControlBlock) // 4, _ControlBlock.fd.offset // 4
"""Size of a control block, and the place of its descriptor, in words of 4 bytes."""
_EVENT_WORDS, _RESULT = ctypes.sizeof(_Event) // 8, _Event.result.offset // 8
"""Size of an event, and the place of its result, in words of 8 bytes."""


class AioContext:
    """A Linux AIO context for up to 16 syncs at once; `eventfd` becomes readable when some have ended.

    The kernel may access the control blocks until an operation ends; they live as long as the object, and `close` waits
    for running operations.
    """

    def __init__(self) -> None:
        """Create the context in the kernel.

        Raises:
            OSError: this system does not support or forbids AIO, or its limit of contexts is reached (aio-max-nr).
        """
        if sys.platform != "linux" or platform.machine() not in SYSCALLS or sys.maxsize < 2**32:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._numbers = SYSCALLS[platform.machine()]
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._blocks = (_ControlBlock * MOST_AT_ONCE)()
        self._pointers = (ctypes.c_void_p * MOST_AT_ONCE)()
        self._events = (_Event * MOST_AT_ONCE)()
        context = ctypes.c_ulong(0)
        self._call("io_setup", MOST_AT_ONCE, ctypes.addressof(context))
        self._context = context.value
        try:
            self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            self._call("io_destroy", self._context)
            raise
        for number, block in enumerate(self._blocks):
            block.opcode, block.flags, block.eventfd = IOCB_CMD_FDSYNC, IOCB_FLAG_RESFD, self.eventfd
            self._pointers[number] = ctypes.addressof(block)
        # Views of memory and converted arguments: to make a ctypes object takes as long as a system call.
        self._block_words = memoryview(self._blocks).cast("B").cast("I")
        self._event_words = memoryview(self._events).cast("B").cast("q")
        self._count = ctypes.c_long(0)
        self._submission = self._arguments("io_submit", context.value, self._count, ctypes.addressof(self._pointers))
        self._collection = self._arguments(
            "io_getevents", context.value, 0, MOST_AT_ONCE, ctypes.addressof(self._events)
        )

    def submit(self, fds: Sequence[int]) -> int:
        """Start to sync up to 16 file descriptors. Returns how many the kernel accepted, counted from the first.

        Call it only when no sync is running: the control blocks are shared.

        Raises:
            OSError: the kernel did not accept even the first.
        """
        taken = fds[:MOST_AT_ONCE]
        for number, fd in enumerate(taken):
            self._block_words[number * _BLOCK_WORDS + _FD] = fd
        self._count.value = len(taken)
        return self._made(self._submission)

    def results(self) -> list[int]:
        """Return the results of the syncs that have ended since the last call: 0, or a negative error number."""
        os.eventfd_read(self.eventfd)
        count = self._made(self._collection)
        return [self._event_words[number * _EVENT_WORDS + _RESULT] for number in range(count)]

    def close(self) -> None:
        """Wait for running syncs, then destroy the context and close `eventfd`."""
        self._block_words.release()
        self._event_words.release()
        self._call("io_destroy", self._context)
        os.close(self.eventfd)

    def _call(self, name: str, *arguments: int) -> int:
        return self._made(self._arguments(name, *arguments))

    def _arguments(self, name: str, *arguments: int | ctypes.c_long) -> list[ctypes.c_long]:
        """Return the arguments of syscall(2) as C integers."""
        numbers = [self._numbers[name], *arguments, *[0] * (5 - len(arguments))]
        return [number if isinstance(number, ctypes.c_long) else ctypes.c_long(number) for number in numbers]

    def _made(self, arguments: list[ctypes.c_long]) -> int:
        """Make a system call.

        Raises:
            OSError: the call failed.
        """
        result: int = self._syscall(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
