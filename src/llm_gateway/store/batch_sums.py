"""Sum a batch of records for rollups and cube in one pass.

Nearly every record is *simple*: its tokens and cost are those of its only attempt, at its own provider and model, or it
has no attempts and cost nothing. Simple records are grouped by all dimensions of the cube; the sums by service,
provider and cell follow from the groups, which are few. Only the customers' sums are made record by record. The other
records are summed by `rollups.py` and `cube.py`, which define what every sum is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

import msgspec

from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.store.bulk import Pause, no_pause, with_pauses
from llm_gateway.store.cube import DIMENSIONS, CubeKey, cube_sums
from llm_gateway.store.rollups import (
    CUSTOMER,
    HOUR_MS,
    MINUTE_MS,
    PROVIDER,
    SERVICE,
    Key,
    Totals,
    record_sums,
    refuse_overflow,
)

_Group: TypeAlias = tuple[str | None, ...]
"""The dimensions of a simple record."""

_Key = TypeVar("_Key")

_group_of = attrgetter(
    *(dimension.attribute for dimension in DIMENSIONS if dimension.name != "key"), "key_id", "key_name"
)
_PROVIDER, _SERVICE = (
    [dimension.name for dimension in DIMENSIONS if dimension.name != "key"].index(name) for name in (PROVIDER, SERVICE)
)
_KEY = [dimension.name for dimension in DIMENSIONS].index("key")
_NOTHING = Usage()


class _Hour:
    """The sums of the simple records of one hour: groups with an attempt and without one, and customers.

    `minutes` has bits, of all records: the minutes of the hour in which each customer called.
    """

    def __init__(self) -> None:
        self.tried: defaultdict[_Group, Totals] = defaultdict(Totals)
        self.untried: defaultdict[_Group, Totals] = defaultdict(Totals)
        self.customers: defaultdict[str, Totals] = defaultdict(Totals)
        self.minutes: defaultdict[str, int] = defaultdict(int)


class BatchSums:
    """The sums of a batch: `add` its records, then read `rollups` and `cube` after one call of `finish`.

    Without `customers`, nothing is summed by customer: Postgres does that (`customer_sums.py`).
    """

    def __init__(self, *, customers: bool = True) -> None:
        self._has_customers = customers
        self.rollups: dict[Key, Totals] = {}
        """As `rollups.hourly` returns it."""
        self.cube: dict[CubeKey, Totals] = {}
        """As `cube.cube_sums` returns it."""
        self.minutes: dict[Key, int] = {}
        """Bits: the minutes of an hour in which a customer called."""
        self._hours: defaultdict[int, _Hour] = defaultdict(_Hour)
        self._others: list[UsageRecord] = []

    def add(self, records: Iterable[UsageRecord]) -> None:
        """Add records to the sums."""
        has_customers = self._has_customers
        for record in records:
            usage, attempts = record.usage, record.attempts
            of_hour = self._hours[record.at_ms // HOUR_MS]
            if has_customers:
                of_hour.minutes[record.user_id] |= 1 << record.at_ms // MINUTE_MS % 60
            if not (_is_simple(record, usage, attempts[0]) if len(attempts) == 1 else _is_free(record)):
                self._others.append(record)
                continue
            groups = of_hour.tried if attempts else of_hour.untried
            groups[_group_of(record)].add(record, usage)
            if has_customers:
                of_hour.customers[record.user_id].add(record, usage)

    def finish(self, pause: Pause = no_pause) -> None:
        """Compute the sums; `pause` is called after every few of them.

        Raises:
            RecordsRefused: as `rollups.hourly`.
        """
        others = record_sums(with_pauses(self._others, pause)).items()
        rollups, cube = _Parts[Key](), _Parts[CubeKey]()
        rollups.add((key, each) for key, each in others if self._has_customers or key[0] != CUSTOMER)
        cube.add(cube_sums(with_pauses(self._others, pause)).items())
        for hour, found in self._hours.items():
            for groups, is_tried in ((found.tried, True), (found.untried, False)):
                rollups.add(with_pauses(_of_rollups(hour, groups, is_tried=is_tried), pause))
                cube.add(with_pauses(_of_cube(hour, groups), pause))
        self.rollups, self.cube = rollups.sums(), cube.sums()
        for hour, found in self._hours.items():
            for customer, totals in with_pauses(found.customers.items(), pause):
                _into(self.rollups, (CUSTOMER, hour, customer), totals)
            for customer, bits in with_pauses(found.minutes.items(), pause):
                self.minutes[CUSTOMER, hour, customer] = bits
        refuse_overflow(self.rollups)


class _Parts(Generic[_Key]):
    """Totals to be added up by their keys. They are added column by column, in C: the groups have many."""

    def __init__(self) -> None:
        self._found: defaultdict[_Key, list[Totals]] = defaultdict(list)

    def add(self, parts: Iterable[tuple[_Key, Totals]]) -> None:
        """Add parts of sums."""
        for key, totals in parts:
            self._found[key].append(totals)

    def sums(self) -> dict[_Key, Totals]:
        """Return the sum of each key."""
        return {key: parts[0] if len(parts) == 1 else _added(parts) for key, parts in self._found.items()}


def _added(parts: Iterable[Totals]) -> Totals:
    return Totals(*map(sum, zip(*map(msgspec.structs.astuple, parts), strict=True)))


def _of_rollups(hour: int, groups: Mapping[_Group, Totals], *, is_tried: bool) -> Iterator[tuple[Key, Totals]]:
    """Yield the parts of the sums by service and, of groups with an attempt, by provider."""
    for group, totals in groups.items():
        yield (SERVICE, hour, str(group[_SERVICE])), totals
        if is_tried:
            yield (PROVIDER, hour, str(group[_PROVIDER])), totals


def _of_cube(hour: int, groups: Mapping[_Group, Totals]) -> Iterator[tuple[CubeKey, Totals]]:
    for group, totals in groups.items():
        *values, key_id, key_name = group
        values.insert(_KEY, key_id or key_name)
        yield (hour, tuple(values)), totals


def _is_simple(record: UsageRecord, usage: Usage, only: AttemptRecord) -> bool:
    """Return True if the record's only attempt was made at the record's place, and bought all of `usage` and cost."""
    return (
        only.provider == record.provider
        and only.model == record.model
        and only.cost_nanos == record.cost_nanos
        and only.usage == usage
    )


def _is_free(record: UsageRecord) -> bool:
    return not record.attempts and not record.cost_nanos and record.usage == _NOTHING


def _into(sums: dict[_Key, Totals], key: _Key, totals: Totals) -> None:
    known = sums.get(key)
    sums[key] = totals if known is None else known.plus(totals)
