"""Measure the lag of the event loop: a task sleeps for a fixed interval, and measures how late it is woken."""

from __future__ import annotations

import asyncio

from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.telemetry import histograms

EVERY_S = 0.25
"""Seconds between two measurements."""
BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 250, 1000)


class LoopLag:
    """Histogram of the event loop's lateness. `run` measures until it is cancelled."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._counts = histograms.empty(BOUNDS_MS)

    async def run(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._every_s
            await asyncio.sleep(self._every_s)
            histograms.add(self._counts, BOUNDS_MS, max(0.0, loop.time() - due) * 1000)

    def family(self) -> MetricFamily:
        """Return what was measured."""
        return MetricFamily(
            name="llm_gateway_loop_lag_seconds",
            type="histogram",
            help="How late the event loop wakes a task: the time for which something kept it busy",
            samples=list(histograms.samples(self._counts, BOUNDS_MS, {})),
        )
