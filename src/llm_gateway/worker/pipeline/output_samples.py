"""Output tokens of the last answers of each key and model, from which the output of the next one is expected."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque

SAMPLES, FEWEST = 1_000, 20
"""Answers that are remembered of a key and model, and the fewest from which anything is expected."""
MOST_SERIES = 256
"""Pairs of key and model that are remembered: those used last."""
PERCENT = 95
_RANK = SAMPLES * PERCENT // 100 - 1


class OutputSamples:
    """The samples of one process. Those of its neighbours are not known, so each worker learns by itself."""

    def __init__(self) -> None:
        self._series: OrderedDict[tuple[str, str], Series] = OrderedDict()
        self._last: tuple[str, str] | None = None

    def find(self, key: str, model: str) -> Series | None:
        """Return the samples of a key and model; None if there are none."""
        pair = key, model
        series = self._series.get(pair)
        if series is not None and pair != self._last:
            self._series.move_to_end(pair)
            self._last = pair
        return series

    def make(self, key: str, model: str) -> Series:
        """Return the samples of a key and model, of which there may be none yet."""
        series = self._series.get((key, model))
        if series is None:
            series = self._series[key, model] = Series()
            self._last = key, model
            if len(self._series) > MOST_SERIES:
                self._series.popitem(last=False)
        return series


class Series:
    """Samples of one key and model. `expected`: the output that 95 % did not exceed; None with too few of them."""

    __slots__ = ("_by_age", "_by_size", "expected")

    def __init__(self) -> None:
        self._by_age: deque[int] = deque()
        self._by_size: list[int] = []
        self.expected: int | None = None

    def add(self, tokens: int) -> None:
        """Remember the output of an answer."""
        by_age, by_size = self._by_age, self._by_size
        if len(by_age) == SAMPLES:
            oldest = by_age.popleft()
            by_age.append(tokens)
            if oldest == tokens:
                return
            del by_size[bisect_left(by_size, oldest)]
            insort(by_size, tokens)
            self.expected = by_size[_RANK]
            return
        by_age.append(tokens)
        insort(by_size, tokens)
        count = len(by_size)
        if count >= FEWEST:
            self.expected = by_size[-(-count * PERCENT // 100) - 1]
