"""Find the sums of customers' days that belong to blocks which are built already: those of late records. No SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_gateway.store.rollups import BLOCKS, CUSTOMER, DAY, Grain, Key, Totals, coarser


def late_in_blocks(days: Mapping[Key, Totals], built_until_ms: Sequence[int]) -> dict[Grain, Mapping[Key, Totals]]:
    """Return the totals of days that lie in blocks already built, summed per block."""
    late: dict[Grain, Mapping[Key, Totals]] = {}
    for block, until_ms in zip(BLOCKS, built_until_ms, strict=True):
        of_built = {key: totals for key, totals in days.items() if key[0] == CUSTOMER and key[1] * DAY.ms < until_ms}
        late[block] = coarser(of_built.items(), block.hours // DAY.hours)
    return late


def late_to_date(days: Mapping[Key, Totals], until_day: int) -> dict[Key, Totals]:
    """Return the totals of days that the totals to date have, with the bucket of these."""
    found: dict[Key, Totals] = {}
    for (dimension, day, name), totals in days.items():
        if dimension == CUSTOMER and block_of(until_day) <= day < until_day:
            key = (dimension, until_day, name)
            found[key] = found[key].plus(totals) if key in found else totals
    return found


def block_of(until_day: int) -> int:
    """Return the first day of the block of 32 days that totals to date belong to."""
    days_of_block = BLOCKS[-1].hours // DAY.hours
    return (until_day - 1) // days_of_block * days_of_block
