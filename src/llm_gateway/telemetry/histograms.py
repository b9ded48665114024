"""Histograms of durations, each a list of numbers: the count of every bucket, then the sum in milliseconds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from llm_gateway.domain.metric_families import Sample

Bounds = tuple[float, ...]
"""Upper bounds of the buckets in milliseconds, ascending; one more bucket takes what is longer."""


def empty(bounds_ms: Bounds) -> list[float]:
    """Return a histogram without durations."""
    return [0] * (len(bounds_ms) + 2)


def add(counts: list[float], bounds_ms: Bounds, ms: float) -> None:
    """Count one duration in milliseconds."""
    counts[bisect_left(bounds_ms, ms)] += 1
    counts[-1] += ms


def samples(counts: Sequence[float], bounds_ms: Bounds, labels: dict[str, str]) -> Iterator[Sample]:
    """Yield the cumulative buckets, the count and the sum in seconds; nothing for an empty histogram."""
    if not any(counts):
        return
    total = 0.0
    for bound, count in zip([*(str(ms / 1000) for ms in bounds_ms), "+Inf"], counts[:-1], strict=True):
        total += count
        yield Sample("_bucket", {**labels, "le": bound}, total)
    yield Sample("_count", labels, total)
    yield Sample("_sum", labels, counts[-1] / 1000)
