"""Rate limiter: bound the requests and tokens of each provider, and of each service key, in any 60 seconds.

To add a backend, write a module that implements the contract (`base.py`), run the tests in tests/limiter against it,
and return it from `open_limiter`. `window.py`, `durations.py` and `reported.py` hold what counts, for any backend.
"""

from __future__ import annotations

from llm_gateway.host_memory import HostMemory
from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.shared import SharedLimiter
from llm_gateway.limiter.shared_keys import SharedKeyLimiter


def open_limiter(memory: HostMemory | None = None, number: int = 0) -> Limiter:
    """Open the limiter: of all processes that share `memory`, or of this process alone (None).

    `number` is this process's own, 1 and up for workers. What an earlier process with this number held is released.
    """
    if memory is None:
        return MemoryLimiter()
    limiter = SharedLimiter(memory, number)
    limiter.release_worker(number)
    return limiter


def open_key_limiter(memory: HostMemory | None = None, number: int = 0) -> Limiter:
    """Open the limiter of service keys, which takes no room of the providers: see `open_limiter`."""
    return MemoryLimiter(has_models=False) if memory is None else SharedKeyLimiter(memory, number)
