"""Sum a batch of records for rollups and cube in one pass.

Nearly every record is *simple*: its tokens and cost are those of its only attempt, at its own provider and model, or it
has no attempts and cost nothing. Simple records are grouped by all dimensions of the cube; the sums by service,
provider and cell follow from the groups, which are few. Only the customers' sums are made record by record. The other
records are summed by `rollups.py` and `cube.py`, which define what every sum is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import TypeAlias, TypeVar

from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.store.bulk import Pause, no_pause, with_pauses
from llm_gateway.store.cube import DIMENSIONS, CubeKey, cube_sums
from llm_gateway.store.rollups import CUSTOMER, MINUTE_MS, PROVIDER, SERVICE, Key, Totals, record_sums, refuse_overflow

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
    """The sums of a batch: `add` its records, then read `rollups` and `cube` after one call of `finish`."""

    def __init__(self) -> None:
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
        for record in records:
            usage, attempts, minute = record.usage, record.attempts, record.at_ms // MINUTE_MS
            of_hour = self._hours[minute // 60]
            of_hour.minutes[record.user_id] |= 1 << minute % 60
            if not (_is_simple(record, usage, attempts[0]) if len(attempts) == 1 else _is_free(record)):
                self._others.append(record)
                continue
            groups = of_hour.tried if attempts else of_hour.untried
            groups[_group_of(record)].add(record, usage)
            of_hour.customers[record.user_id].add(record, usage)

    def finish(self, pause: Pause = no_pause) -> None:
        """Compute the sums; `pause` is called after every few of them.

        Raises:
            RecordsRefused: as `rollups.hourly`.
        """
        self.rollups.update(record_sums(with_pauses(self._others, pause)))
        self.cube.update(cube_sums(with_pauses(self._others, pause)))
        for hour, found in self._hours.items():
            self._spread(hour, found.tried, pause, is_tried=True)
            self._spread(hour, found.untried, pause, is_tried=False)
            for customer, totals in with_pauses(found.customers.items(), pause):
                _into(self.rollups, (CUSTOMER, hour, customer), totals)
            for customer, bits in with_pauses(found.minutes.items(), pause):
                self.minutes[CUSTOMER, hour, customer] = bits
        refuse_overflow(self.rollups)

    def _spread(self, hour: int, groups: Mapping[_Group, Totals], pause: Pause, *, is_tried: bool) -> None:
        """Add the groups of an hour to the sums that they are part of."""
        for group, totals in with_pauses(groups.items(), pause):
            _into(self.rollups, (SERVICE, hour, str(group[_SERVICE])), totals)
            if is_tried:
                _into(self.rollups, (PROVIDER, hour, str(group[_PROVIDER])), totals)
            *values, key_id, key_name = group
            values.insert(_KEY, key_id or key_name)
            _into(self.cube, (hour, tuple(values)), totals)


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
