"""Budget table of the main benchmark: limit, target and measured value of each figure."""

from __future__ import annotations

import msgspec

from benchmarks.findings import Figure, Findings


class Row(msgspec.Struct, frozen=True):
    """A row of a budget table: its limit (`must`), target (`aim`) and measured figure; smaller is better."""

    name: str
    unit: str
    must: float | None
    aim: float | None
    measured: Figure | None
    digits: int = 0

    @property
    def verdict(self) -> str:
        """Comparison of the median with the budget, in words."""
        if self.measured is None:
            return "not measured"
        if self.must is None or self.aim is None:
            return ""
        if self.measured.value <= self.aim:
            return "aim met"
        return "must met" if self.measured.value <= self.must else "MUST MISSED"


def rows(found: Findings) -> list[Row]:
    """Return the rows of the table for one run."""
    cpu = {key: speed.cpu_us for key, speed in found.speeds.items()}
    nginx = cpu.get("nginx")
    proxied, hit = cpu.get("always"), cpu.get("hit")
    return [
        Row("POST /generate to the mock, fsync interval", "µs CPU/request", 150, 100, cpu.get("interval")),
        Row("POST /generate to the mock, fsync always", "µs CPU/request", 190, 130, proxied),
        Row("cache hit", "µs CPU/request", 75, 45, hit),
        Row("added latency at 1 connection, p50, fsync always", "ms", 1.5, 0.6, found.added_ms, 2),
        Row("resident memory, idle", "MB", 150, 90, _single(found.idle_mb)),
        Row("resident memory, after this load", "MB", 220, 150, _single(found.loaded_mb)),
        Row("start to first 200, without the local model", "s", 3, 1, found.start_s, 2),
        Row("plain nginx proxy", "µs CPU/request", None, None, nginx, 1),
        Row("POST /generate, fsync always, to nginx", "×", 9, 6, _ratio(proxied, nginx), 1),
        Row("cache hit to nginx", "×", 3.5, 2, _ratio(hit, nginx), 1),
        Row("POST /v1/chat/completions, passed through, fsync always", "µs CPU/request", None, None, cpu.get("chat")),
        Row("POST /v1/messages, translated, fsync always", "µs CPU/request", None, None, cpu.get("messages")),
    ]


def _single(value: float | None) -> Figure | None:
    return None if value is None else Figure(value, value, value)


def _ratio(figure: Figure | None, yardstick: Figure | None) -> Figure | None:
    return None if figure is None or yardstick is None else figure.over(yardstick)
