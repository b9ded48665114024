"""Shared memory of all processes of one host: a fixed layout of 8-byte words, and the lock that guards it.

The first process creates the memory and passes its file descriptor on; each process opens it once. Whatever is changed
is changed under `HostLock` (`lock.py`). A process can be killed between any two stores, hence two rules for writers:

- A store is one aligned 8-byte word: CPython writes an item of a `memoryview` of format "q" or "d" by one `memcpy` of
  constant size (`Objects/memoryobject.c`, `PACK_SINGLE`), which compilers turn into one move instruction.
- Counts are stored in an order in which each prefix counts too much, never too little. Sums of counts follow. Before
  the first store, the word `DIRTY` gets the offset of the slot that is changed, and after the last one 0. A process
  that finds it set computes the slot's sums again. The budgets' accounts need no such word: the
  process that gets the lock of a killed holder learns of it, and computes all sums.

The layout is made of constants, since the process that creates the memory imports no other part of the gateway.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

from llm_gateway.configuration_error import ConfigurationError

TYPE_CHECKING = False  # as typing's, which takes half a megabyte of the supervisor's memory to import
if TYPE_CHECKING:
    from typing import Any

MAGIC = 0x4C4C4D_47_5348_4D31
VERSION = 8
"""Version of the layout. Raise it with each change of the constants below or of what a word means."""
WORD = 8

AT_MAGIC, AT_VERSION, AT_SIZE, DIRTY, EPOCH, FILLED, CLAIMS, JOINED, KEYS_FILLED, HAS_DATABASE = range(10)
"""Words of the header. `DIRTY`: offset of the slot that is being changed. `EPOCH`: a counter of unique numbers.
`FILLED`: 1 after the calls of an earlier run were counted. `CLAIMS`: a counter of the states that got a slot.
`JOINED`: id of the worker that joined last. `KEYS_FILLED`: as `FILLED`, for the limits of service keys.
`HAS_DATABASE`: 1 after a control process has opened the database; 0 in memory of an earlier version, too."""
LOCKS_AT, LOCK_WORDS = 16, 16
"""Locks (`lock.py`), each in cache lines of its own: more than a `pthread_mutex_t` of any system, and a word."""
HEADER_WORDS = 64

PROVIDERS = 1_024
WORKERS = 64
"""Processes with a number of their own, 0 to 63: those of two generations while one replaces the other."""
ROW_WORDS = 64
WINDOW_WORDS = 144
PROVIDER_WORDS = WINDOW_WORDS + WORKERS * ROW_WORDS
PROVIDERS_AT = HEADER_WORDS
MODELS = 4_096
MODEL_WORDS = 48
MODELS_AT = PROVIDERS_AT + PROVIDERS * PROVIDER_WORDS
STATES = 2_048
"""Slots for the availability of models and accounts that failed lately (`states.py`)."""
STATE_WORDS = 96
STATES_AT = MODELS_AT + MODELS * MODEL_WORDS
PLACE_WORDS = 8
"""Words of a worker's place: its id, and what it holds (`workers.py`)."""
PLACES_AT = STATES_AT + STATES * STATE_WORDS
KEYS = 1_024
"""Slots for service keys with a limit of requests at once (`key_counts.py`)."""
KEY_WORDS = 72
KEYS_AT = PLACES_AT + WORKERS * PLACE_WORDS
KEY_WINDOWS = 65_536
"""Slots for the limits of service keys, each as large as a provider's window with a single row
(`limiter/shared_window.py`): more than there can be keys, and none of them takes a provider's slot."""
KEY_WINDOW_WORDS = WINDOW_WORDS + ROW_WORDS
KEY_WINDOWS_AT = KEYS_AT + KEYS * KEY_WORDS
BUDGETS_AT = KEY_WINDOWS_AT + KEY_WINDOWS * KEY_WINDOW_WORDS
"""Header of the budgets' accounts (`budget_holds.py`). They have a lock of their own."""
BUDGETS_HEADER_WORDS = 16
HOLDERS = 64
"""Workers that hold amounts in accounts, those that have died and are not cleared yet included (`budget_holds.py`)."""
HOLDER_WORDS = 8
HOLD_ROWS = 8_192
"""Accounts in which one worker can hold amounts at the same time."""
HOLD_ROW_WORDS = 4
HOLDERS_AT = BUDGETS_AT + BUDGETS_HEADER_WORDS
ACCOUNT_WORDS = 8
FIRST_ACCOUNTS, ACCOUNT_TABLES = 1_024, 10
"""Slots of the first table of accounts, and tables, each twice as large as the one before (`budget_slots.py`)."""
ACCOUNTS_AT = HOLDERS_AT + HOLDERS * (HOLDER_WORDS + HOLD_ROWS * HOLD_ROW_WORDS)
MOST_ACCOUNTS = FIRST_ACCOUNTS * ((1 << ACCOUNT_TABLES) - 1)
LEASE_WORDS = 4
"""Words of a row with what this host has leased of an account (`lease_layout.py`); rows are in the accounts' order."""
LEASES_AT = ACCOUNTS_AT + MOST_ACCOUNTS * ACCOUNT_WORDS
WORDS = LEASES_AT + MOST_ACCOUNTS * LEASE_WORDS
SIZE = WORDS * WORD
"""Bytes of the memory. The system allocates a page when it is first written, so that most of it is never there."""


class UnusableMemory(ConfigurationError):
    """The inherited memory has another layout. Create new memory, which counts nothing of the last minute yet."""


def create() -> int:
    """Create the memory with empty counts. Returns its file descriptor, which child processes do not inherit yet.

    Raises:
        ConfigurationError: the system refuses it.
    """
    try:
        return _create()
    except OSError as error:
        raise ConfigurationError(
            f"The {SIZE >> 20} MiB of memory that the processes share cannot be created ({error.strerror}): raise the "
            "limits of memory and of file sizes (ulimit -f)."
        ) from None


def _create() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("llm-gateway", os.MFD_CLOEXEC)
    else:
        import tempfile  # noqa: PLC0415 - it takes memory, and Linux needs it not

        with tempfile.TemporaryFile(prefix="llm-gateway-") as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, SIZE)
    except OSError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"The memory that the workers share cannot be created ({error.strerror}): allow the gateway files of "
            f"{SIZE} bytes (ulimit -f), or set LLM_GATEWAY_WORKERS=1."
        ) from None
    for at, value in ((AT_MAGIC, MAGIC), (AT_VERSION, VERSION), (AT_SIZE, SIZE)):
        os.pwrite(descriptor, value.to_bytes(WORD, "little"), at * WORD)
    return descriptor


def release_place(descriptor: int, number: int) -> None:
    """Set to 0 what a worker held, which has ended and whose number no other one has yet.

    Only a worker itself writes to its place, so no lock is needed.

    Raises:
        OSError: the memory cannot be written.
    """
    os.pwrite(descriptor, bytes(PLACE_WORDS * WORD), (PLACES_AT + number * PLACE_WORDS) * WORD)


def has_this_layout(descriptor: int) -> bool:
    """Return whether the memory has the layout of this version of the gateway."""
    size = os.fstat(descriptor).st_size
    header = b"" if size < HEADER_WORDS * WORD else os.pread(descriptor, 3 * WORD, 0)
    found = [int.from_bytes(header[at : at + WORD], "little") for at in range(0, len(header), WORD)]
    return found == [MAGIC, VERSION, SIZE] and size == SIZE


class HostMemory:
    """The memory as a process sees it: `words` are signed integers, `floats` are the same bytes as floating point.

    Open it once per process, and keep it and its descriptor until the process ends: its locks are in the memory, where
    the system looks for them when the process is killed. No method closes it.

    Args:
        descriptor: file descriptor from `create`, inherited or not.
        observe: wraps `words` and `floats`; for tests that end the process at a store.

    Raises:
        UnusableMemory: it was created by another version of the gateway, or is not the gateway's memory at all.
    """

    def __init__(self, descriptor: int, observe: Callable[[Any], Any] | None = None) -> None:
        self.descriptor = descriptor
        if not has_this_layout(descriptor):
            raise UnusableMemory(
                f"The shared memory (descriptor {descriptor}, {os.fstat(descriptor).st_size} bytes) does not have "
                f"layout {VERSION} of {SIZE} bytes, which this version of the gateway uses: create new memory."
            )
        self.mapped = mmap.mmap(descriptor, SIZE)
        whole = memoryview(self.mapped)
        self.words: Any = whole.cast("q")
        self.floats: Any = whole.cast("d")
        if observe is not None:
            self.words, self.floats = observe(self.words), observe(self.floats)

    @property
    def is_filled(self) -> bool:
        """Whether the calls of an earlier run have been counted here, so that they must not be counted again."""
        return bool(self.words[FILLED])

    def mark_filled(self) -> None:
        """Note that the calls of an earlier run have been counted."""
        self.words[FILLED] = 1
