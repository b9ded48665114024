"""Run fdatasync in libuv's thread pool: its threads need no GIL, and wake the event loop by themselves.

    pool = LibuvPool(asyncio.get_running_loop())
    pool.fdatasync(fd, lambda result: print(result))  # on the event loop: 0, or a negative error number

A Python thread waits for the GIL after each sync. The kernel's own AIO needs no thread, but its workers of a CPU are
scheduled behind whatever else runs there: beside a busy process a sync took 2 to 8 ms instead of 0.3.

uvloop exports libuv's functions and a pointer to its loop (`libuv_get_loop_t_ptr`). Functions and structures:
https://docs.libuv.org/en/v1.x/fs.html.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable

import uvloop

REQUEST_TYPE, OPERATION = 6, 16
"""UV_FS of `uv_req_type` and UV_FS_FDATASYNC of `uv_fs_type`, in include/uv.h."""

LOOP_CAPSULE: bytes | None = None
"""Name of the capsule with the pointer to the loop: none."""

_Ended = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""`uv_fs_cb`: called on the event loop with the request."""


class _Request(ctypes.Structure):
    """The public beginning of `uv_fs_t`, include/uv.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int),
        ("reserved", ctypes.c_void_p * 6),
        ("operation", ctypes.c_int),
        ("loop", ctypes.c_void_p),
        ("callback", ctypes.c_void_p),
        ("result", ctypes.c_ssize_t),
    )


class LibuvPool:
    """Runs fdatasync in the thread pool of a uvloop event loop, one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Find libuv's functions, and see that they and the request's fields are what this code expects.

        Raises:
            OSError: the loop is not uvloop's, or its libuv is another one than expected.
        """
        if not isinstance(loop, uvloop.Loop):
            raise OSError(errno.ENOSYS, f"the event loop is {type(loop).__module__}'s")
        try:
            library = ctypes.PyDLL(uvloop.loop.__file__)
            self._fdatasync, self._clean_up = library.uv_fs_fdatasync, library.uv_fs_req_cleanup
            size = library.uv_req_size(REQUEST_TYPE)
        except AttributeError as missing:
            raise OSError(errno.ENOSYS, f"uvloop exports no libuv: {missing}") from missing
        self._fdatasync.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, _Ended]
        self._clean_up.argtypes, self._clean_up.restype = [ctypes.c_void_p], None
        self._loop = _pointer(loop)
        self._memory = ctypes.create_string_buffer(max(size, ctypes.sizeof(_Request)))
        self._address = ctypes.addressof(self._memory)
        self._request = _Request.from_buffer(self._memory)
        self._callback = _Ended(self._on_end)
        self._ended: Callable[[int], None] | None = None
        self._check()

    def fdatasync(self, fd: int, ended: Callable[[int], None]) -> None:
        """Start to sync a file; `ended` is called on the event loop, later, with 0 or a negative error number.

        Call it only when no other sync runs: the request's memory is shared.

        Raises:
            OSError: libuv did not accept the request.
        """
        self._ended = ended
        refused: int = self._fdatasync(self._loop, self._address, fd, self._callback)
        if refused:
            self._ended = None
            raise OSError(-refused, os.strerror(-refused))

    def _on_end(self, _request: int) -> None:
        result = self._request.result
        self._clean_up(self._address)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(result)

    def _check(self) -> None:
        """Sync a descriptor that cannot be open, at once and without a callback, and look at the request.

        Raises:
            OSError: its fields are not where they should be.
        """
        result = self._fdatasync(self._loop, self._address, -1, _Ended())
        request = self._request
        found = (result, request.result, request.type, request.operation, request.loop)
        self._clean_up(self._address)
        if found != (-errno.EBADF, -errno.EBADF, REQUEST_TYPE, OPERATION, self._loop):
            raise OSError(errno.ENOSYS, f"uvloop's libuv has other requests than expected: {found[:-1]}")


def _pointer(loop: uvloop.Loop) -> int:
    """Return the address of the loop's `uv_loop_t`."""
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.restype, read.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address: int = read(uvloop.loop.libuv_get_loop_t_ptr(loop), LOOP_CAPSULE)  # type: ignore[attr-defined]
    return address
