"""Window of a provider or a service key in shared memory: 61 one-second buckets, running sums, open tokens.

The buckets are the truth. Stores are ordered so that each prefix counts too much: a taken call is added to the buckets
before it is granted, and a released one leaves them after its call ended; the sums follow (`host_memory`). A bucket is
cleared when it has left the window, before `SECOND` says so.

Open tokens are kept in a row for each process, so that those of a dead process can be dropped. A row's buckets are
those of the 61 seconds up to its own second. Open tokens only tell when room can be expected; they grant nothing. So
the windows of service keys, of which there are many, have one row for all processes: what a dead one had open is
expected back for a minute at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_gateway.host_memory import (
    DIRTY,
    EPOCH,
    KEY_WINDOWS,
    KEY_WINDOWS_AT,
    PROVIDERS,
    PROVIDERS_AT,
    ROW_WORDS,
    WINDOW_WORDS,
    WORKERS,
    HostMemory,
)
from llm_gateway.host_memory.slots import NEVER, Key, Slots, key_of
from llm_gateway.limiter.durations import Durations
from llm_gateway.limiter.shared_reports import NoModelUse, SharedModelUse
from llm_gateway.limiter.window import BUCKETS, Window

SECOND, NEWEST, REQUEST_SUM, TOKEN_SUM, OWNER, ACCOUNT, FREED_ROOM, UNCAPPED_MS = range(2, 10)
"""Words of a window. `OWNER`: unique number of this use of the slot. `ACCOUNT`: unique number of the provider's
account, to which reports belong. `FREED_ROOM`: a counter of the times that a call made room. `UNCAPPED_MS`: the change
of the provider after which reports became invalid last."""
REQUESTS, TOKENS = 16, 80
ROW_SECOND, OPEN = 0, 1
"""Words of a process's row: its newest second, and the tokens of open calls by second."""


class WindowTable(NamedTuple):
    """An area of the memory for windows of one kind.

    `holder` says in messages what has a window. A window has `rows` of open tokens: one for each process, or one for
    all. `has_models`: its holder reports limits of models. There are `slots`, and a window is in one of `probes` of
    them, nearly always in one of the first few.
    """

    holder: str
    start: int
    slots: int
    probes: int
    rows: int
    has_models: bool

    @property
    def size(self) -> int:
        """Words of a window."""
        return WINDOW_WORDS + self.rows * ROW_WORDS

    def of(self, words: Any) -> Slots:
        """Return the table's slots in a memory."""
        return Slots(words, self.start, count=self.slots, size=self.size, probes=self.probes)


PROVIDER_WINDOWS = WindowTable("another provider", PROVIDERS_AT, PROVIDERS, PROVIDERS, WORKERS, True)
KEYS_WINDOWS = WindowTable("the limits of another service key", KEY_WINDOWS_AT, KEY_WINDOWS, 512, 1, False)
NO_MODELS: Mapping[str, NoModelUse] = {"": NoModelUse()}


def recompute_sums(words: Any, at: int) -> None:
    """Compute the sums of the window at this word from its buckets."""
    words[at + REQUEST_SUM] = sum(words[at + REQUESTS : at + REQUESTS + BUCKETS])
    words[at + TOKEN_SUM] = sum(words[at + TOKENS : at + TOKENS + BUCKETS])


def has_open(words: Any, at: int, number: int) -> bool:
    """Return whether a process has open tokens in the window at this word."""
    return bool(words[at + WINDOW_WORDS + number * ROW_WORDS])


def drop_open(words: Any, at: int, number: int) -> None:
    """Drop the open tokens of a process in the window at this word."""
    row = at + WINDOW_WORDS + number * ROW_WORDS
    if words[row]:
        for word in range(row, row + ROW_WORDS):
            words[word] = 0


class SharedWindow:
    """One process's view of a window. Methods that change it need the memory's lock.

    `durations` and `used_share` are those of this process's calls: they estimate waits.
    """

    __slots__ = (
        "_at", "_key", "_low", "_memory", "_models", "_provider_id", "_row", "_slots", "_table", "_words", "durations",
        "seen", "used_share",
    )  # fmt: skip

    def __init__(self, memory: HostMemory, provider_id: str, number: int, table: WindowTable) -> None:
        self._memory = memory
        self._words: Any = memory.words
        self._provider_id = provider_id
        self._key: Key = key_of(provider_id)
        self._low: int = self._key.low
        self._table = table
        self._slots = table.of(memory.words)
        self._row = WINDOW_WORDS + number % table.rows * ROW_WORDS
        self._at = 0
        self._models: Any = {} if table.has_models else NO_MODELS  # dict[str, SharedModelUse]
        self.durations = Durations()
        self.used_share = 0.0
        self.seen = 0

    def is_found(self) -> bool:
        """Find the window's slot. Returns False if it has none."""
        at = self._at
        if at and self._words[at] == self._low:  # half of a digest tells two names apart that have one slot
            return True
        self._at = self._slots.find(self._key) or 0
        return self._at > 0

    def claim(self, second: int) -> bool:
        """Make an empty window in a free slot, or in one without a call in the last 61 seconds; False without any."""
        words = self._words
        at, is_free = self._slots.vacant(self._key, lambda at: int(words[at + SECOND]))
        if not is_free and words[at + SECOND] + BUCKETS > second:
            return False
        if words[at] != NEVER:
            self._slots.free(at)
            for word in range(at + SECOND, at + WINDOW_WORDS):
                words[word] = 0
            for number in range(self._table.rows):
                drop_open(words, at, number)
        words[at + SECOND] = words[at + NEWEST] = second
        words[at + OWNER] = words[at + ACCOUNT] = self._unique()
        self._slots.name(at, self._key)
        self._at = at
        return True

    def _unique(self) -> int:
        number = int(self._words[EPOCH]) + 1
        self._words[EPOCH] = number
        return number

    def forget(self) -> None:
        """Give up the slot."""
        self._slots.free(self._at)

    def second(self) -> int:
        """Return the window's newest second."""
        return int(self._words[self._at + SECOND])

    def advance(self, second: int) -> None:
        """Move the window's end to `second`, and clear the seconds that leave it."""
        words, at = self._words, self._at
        newest = words[at + SECOND]
        if second <= newest:
            return
        words[DIRTY] = at
        requests = tokens = 0
        for passed in range(max(newest, second - BUCKETS) + 1, second + 1):
            index = at + passed % BUCKETS
            if words[index + REQUESTS]:
                requests += words[index + REQUESTS]
                words[index + REQUESTS] = 0
            if words[index + TOKENS]:
                tokens += words[index + TOKENS]
                words[index + TOKENS] = 0
        words[at + REQUEST_SUM] -= requests
        words[at + TOKEN_SUM] -= tokens
        words[at + SECOND] = second
        words[DIRTY] = 0

    def use(self, model: str) -> SharedModelUse | NoModelUse:
        """Return the model's use, which has a slot from now on."""
        use: SharedModelUse | NoModelUse | None = self._models.get(model)
        if use is None:
            use = self._models[model] = SharedModelUse(self._memory, self._provider_id, model)
        use.claim(self._words[self._at + OWNER])
        return use

    def known_use(self, model: str) -> SharedModelUse | NoModelUse | None:
        """Return the model's use if it has a slot."""
        use: SharedModelUse | NoModelUse | None = self._models.get(model)
        if use is None:
            use = SharedModelUse(self._memory, self._provider_id, model)
        return use if use.is_found(self._words[self._at + OWNER]) else None

    def account(self) -> int:
        """Return the unique number of the provider's account."""
        return int(self._words[self._at + ACCOUNT])

    def forget_reports(self, changed_ms: int) -> None:
        """Make the reports of all models invalid, once for a change of the provider."""
        if self._words[self._at + UNCAPPED_MS] < changed_ms:
            self._words[self._at + ACCOUNT] = self._unique()
            self._words[self._at + UNCAPPED_MS] = changed_ms

    def ends_at(self, second: int) -> bool:
        """Return whether the window is where it was found last, and `second` is its newest second."""
        words, at = self._words, self._at
        return at > 0 and words[at + SECOND] == second and words[at] == self._low

    def take_if_fits(self, rpm: int, tpm: int, tokens: int, calls: int = 1) -> tuple[int, int, int] | None:
        """Count calls in the newest second, with all their tokens as open. Returns that second and the sums.

        Returns None if they do not fit into these limits.
        """
        words, at = self._words, self._at
        requests = words[at + REQUEST_SUM] + calls
        all_tokens = words[at + TOKEN_SUM] + tokens
        if requests > rpm or all_tokens > tpm:
            return None
        second: int = words[at + SECOND]
        index = second % BUCKETS
        words[DIRTY] = at
        words[at + index + REQUESTS] += calls
        words[at + index + TOKENS] += tokens
        words[at + REQUEST_SUM] = requests
        words[at + TOKEN_SUM] = all_tokens
        row = at + self._row
        if words[row] != second:
            words[at + NEWEST] = second
            self._advance_row(row, second)
        words[row + index + OPEN] += tokens
        words[DIRTY] = 0
        return second, requests, all_tokens

    def _advance_row(self, row: int, second: int) -> None:
        words = self._words
        for passed in range(max(int(words[row]), second - BUCKETS) + 1, second + 1):
            words[row + OPEN + passed % BUCKETS] = 0
        words[row + ROW_SECOND] = second

    def settle(self, bucket: int, reserved: int, tokens: int, unsent: int) -> bool:
        """Correct calls of the second `bucket`, of which `unsent` no longer count. Returns False if it has left."""
        words, at = self._words, self._at
        newest = words[at + SECOND]
        if not newest - BUCKETS < bucket <= newest:
            return False
        index = bucket % BUCKETS
        words[DIRTY] = at
        place = at + index + TOKENS
        count = words[place]
        left = count + tokens - reserved
        left = left if left > 0 else 0  # noqa: FURB136 - max() takes five times as long
        words[place] = left
        if unsent:
            unsent = min(unsent, words[at + REQUESTS + index])
            words[at + REQUESTS + index] -= unsent
            words[at + REQUEST_SUM] -= unsent
        words[at + TOKEN_SUM] += left - count
        row = at + self._row
        if words[row] - BUCKETS < bucket <= words[row]:
            place = row + index + OPEN
            still_open = words[place] - reserved
            words[place] = still_open if still_open > 0 else 0  # noqa: FURB136 - max() takes five times as long
        words[DIRTY] = 0
        return True

    def free_room(self) -> None:
        """Tell the other processes that room may have appeared."""
        self.seen = self._words[self._at + FREED_ROOM] + 1
        self._words[self._at + FREED_ROOM] = self.seen

    def has_news(self) -> bool:
        """Return whether another process made room since this was asked last."""
        if not self.is_found():
            return False
        freed = self._words[self._at + FREED_ROOM]
        if freed == self.seen:
            return False
        self.seen = freed
        return True

    def refill(self, second: int, tokens: int) -> None:
        """Count a call of an earlier run."""
        words, at = self._words, self._at
        words[DIRTY] = at
        words[at + REQUESTS + second % BUCKETS] += 1
        words[at + TOKENS + second % BUCKETS] += tokens
        words[at + REQUEST_SUM] += 1
        words[at + TOKEN_SUM] += tokens
        words[at + NEWEST] = max(second, words[at + NEWEST])
        words[DIRTY] = 0

    def sums(self) -> tuple[int, int, int]:
        """Return the sums of requests and tokens, and the second of the last call."""
        words, at = self._words, self._at
        return words[at + REQUEST_SUM], words[at + TOKEN_SUM], words[at + NEWEST]

    def copy(self, second: int) -> Window:
        """Return a copy of the window that ends at `second`. It needs no lock: its sums are those of its buckets."""
        words, at = self._words, self._at
        window = Window(int(words[at + SECOND]))
        window.newest = words[at + NEWEST]
        window.requests = list(words[at + REQUESTS : at + REQUESTS + BUCKETS])
        window.tokens = list(words[at + TOKENS : at + TOKENS + BUCKETS])
        window.request_sum, window.token_sum = sum(window.requests), sum(window.tokens)
        for row in range(at + WINDOW_WORDS, at + self._table.size, ROW_WORDS):
            newest = words[row]
            for passed in range(max(newest, window.second) - BUCKETS + 1, newest + 1) if newest else ():
                window.open_tokens[passed % BUCKETS] += words[row + OPEN + passed % BUCKETS]
        window.durations, window.used_share = self.durations, self.used_share
        if second > window.second:
            window.advance(second)
        return window
