"""Output tokens of the last answers of each key and model, from which the output of the next one is expected."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable

SAMPLES, FEWEST = 1_000, 20
"""Answers that are remembered of a key and model, and the fewest from which anything is expected."""
MOST_SERIES = 256
"""Pairs of key and model that are remembered: those used last."""
PERCENT = 95
_RANK = SAMPLES * PERCENT // 100 - 1
MANY = 100
"""New samples from which on sorting all of them takes no longer than sorting each one in."""


class OutputSamples:
    """The samples of one process. Those of its neighbours are not known, so each worker learns by itself."""

    def __init__(self) -> None:
        self.known: OrderedDict[tuple[str, str], Series] = OrderedDict()
        self._last: tuple[str, str] | None = None

    def find(self, key: str, model: str) -> Series | None:
        """Return the samples of a key and model; None if there are none."""
        pair = key, model
        series = self.known.get(pair)
        if series is not None and pair != self._last:
            self.known.move_to_end(pair)
            self._last = pair
        return series

    def make(self, key: str, model: str) -> Series:
        """Return the samples of a key and model, of which there may be none yet."""
        series = self.known.get((key, model))
        if series is None:
            series = self.known[key, model] = Series()
            self._last = key, model
            if len(self.known) > MOST_SERIES:
                self.known.popitem(last=False)
        return series


class Series:
    """Samples of one key and model. They are sorted when something is expected from them: fewer read than add.

    `add` remembers the output of an answer.
    """

    __slots__ = ("_by_age", "_by_size", "_expected", "_new", "add")

    def __init__(self) -> None:
        self._by_age: deque[int] = deque(maxlen=SAMPLES)
        self._by_size: list[int] = []
        self._new: deque[int] = deque(maxlen=SAMPLES)
        self._expected: int | None = None
        self.add: Callable[[int], None] = self._new.append

    @property
    def expected(self) -> int | None:
        """The output that 95 % of the last answers did not exceed; None with too few of them."""
        if self._new:
            self._take_over()
        return self._expected

    def _take_over(self) -> None:
        """Sort the new samples in, and drop the oldest ones for them."""
        by_age, new = self._by_age, self._new
        if len(new) > MANY:
            by_age += new
            self._by_size = sorted(by_age)
        else:
            by_size = self._by_size
            for tokens in new:
                oldest = by_age[0] if len(by_age) == SAMPLES else None
                by_age.append(tokens)
                if oldest != tokens:
                    insort(by_size, tokens)
                    if oldest is not None:
                        del by_size[bisect_left(by_size, oldest)]
        new.clear()
        count = len(by_age)
        if count == SAMPLES:
            self._expected = self._by_size[_RANK]
        elif count >= FEWEST:
            self._expected = self._by_size[-(-count * PERCENT // 100) - 1]
