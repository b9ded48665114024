"""Write the cube: usage totals per hour, day and eight days by every combination of dimensions (`cube.py`).

The margins of past days are rows of the same table, made later (`cube_margins.py`).

Records that were stored before the table existed are added to it in steps, oldest first (`fill`). Until that is over,
a record between the last one added and the newest one of then is left to it, even if it is changed meanwhile:

    ids:   ------------------- filled ---------------------- until ----------------->
           in the cube               | to be added by fill        | in the cube
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from operator import mul
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.usage import UsageRecord
from llm_gateway.store.bulk import Pause, adding, no_pause, with_pauses
from llm_gateway.store.cube import DIMENSIONS, GRAINS, MARGIN_GRAINS, MARGINS, CubeKey, Values
from llm_gateway.store.database import Database
from llm_gateway.store.driver_sql import CompiledQuery
from llm_gateway.store.numbered_texts import NumberedTexts
from llm_gateway.store.rollups import COUNTERS, DAY, Totals
from llm_gateway.store.set_insert import row_insert
from llm_gateway.store.tables import usage_cube, usage_cube_fill, usage_names

NAMES = tuple(dimension.name for dimension in DIMENSIONS)
COLUMNS = ("hours", "bucket", *NAMES, *COUNTERS)

LENGTHS = tuple(grain.hours for grain in GRAINS)
MASKS = [(margin, tuple(int(name in margin.names) for name in NAMES)) for margin in MARGINS]
"""Factors that make the numbers of the dimensions that a margin has not `ALL`."""

_FILLING = sa.select(usage_cube_fill.c.filled, usage_cube_fill.c.until)
_FILLING_SHARED, _FILLING_ALONE = _FILLING.with_for_update(read=True), _FILLING.with_for_update()
NEWEST_MARGINS = sa.select(sa.func.max(usage_cube.c.bucket)).where(usage_cube.c.hours == MARGINS[0].hours(DAY))

LONGEST_NAME = 256
"""Characters to which a name is cut; names beyond are summed together with those that begin alike."""


class Filling(NamedTuple):
    """Progress of adding the records that were stored before the cube existed."""

    filled: str
    until: str

    @property
    def is_over(self) -> bool:
        """True once all records that were stored before are in the cube."""
        return self.filled >= self.until

    def is_counted(self, record: UsageRecord) -> bool:
        """Return True if the record is in the cube, or is to be added to it by the code that stores it."""
        return not self.filled < record.id <= self.until


class CubeTable:
    """The table usage_cube. Its methods run in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._insert = row_insert(database, usage_cube, COLUMNS, adding(usage_cube, COUNTERS))
        self._names = NumberedTexts(database, usage_names)
        self._newest_margins = CompiledQuery(database, NEWEST_MARGINS)
        self._filling_shared = CompiledQuery(database, _FILLING_SHARED)
        self._filling_alone = CompiledQuery(database, _FILLING_ALONE)

    def filling(self, connection: Connection, *, to_fill: bool = False) -> Filling:
        """Return the progress of filling, and keep it from changing until the transaction ends.

        Call it before anything else in a transaction that adds to the cube: on Postgres it waits for a step of filling,
        or, `to_fill`, for every transaction that adds to the cube.
        """
        rows = (self._filling_alone if to_fill else self._filling_shared).rows(connection)
        return Filling(*rows[0]) if rows else Filling("", "")

    def set_filled(self, connection: Connection, filled: str) -> None:
        """Set the id up to which records are in the cube."""
        connection.execute(sa.update(usage_cube_fill).values(filled=filled))

    def add(
        self,
        connection: Connection,
        sums: Mapping[CubeKey, Totals],
        pause: Pause = no_pause,
        names: dict[str, int] | None = None,
    ) -> None:
        """Add hourly sums to the rows of all grains, and of margins that are built. `pause` is called in between.

        `names` are the known ones of `NumberedTexts.numbers`.
        """
        pause()
        ((newest,),) = self._newest_margins.rows(connection)
        end_of_margins = day_after(newest) * DAY.hours
        places = self._places(connection, {values for _, values in sums}, pause, names)
        added: dict[tuple[int, ...], Totals] = {}
        for (hour, values), totals in with_pauses(sums.items(), pause):
            place = places[values]
            keys = [(hours, hour // hours, *place) for hours in LENGTHS]
            if hour < end_of_margins:
                keys += _margin_keys(hour, place)
            for key in keys:
                known = added.get(key)
                added[key] = totals if known is None else known.plus(totals)
        rows = [(*key, *msgspec.structs.astuple(totals)) for key, totals in added.items()]
        self._insert.run(connection, rows, pause)

    def _places(
        self, connection: Connection, combinations: Collection[Values], pause: Pause, known: dict[str, int] | None
    ) -> dict[Values, tuple[int, ...]]:
        """Return the numbers of each combination's names."""
        names = {value: _name(value) for value in set(chain.from_iterable(combinations))}
        numbers = self._names.numbers(connection, names.values(), pause, known=known)
        number_of = {value: numbers[name] for value, name in names.items()}
        return {values: tuple(map(number_of.__getitem__, values)) for values in combinations}


def built_until(connection: Connection) -> int:
    """Return the day (since 1970) before which the margins are complete."""
    return day_after(connection.execute(NEWEST_MARGINS).scalar())


def day_after(newest_day: int | None) -> int:
    """Return the day after the newest, the first of all without one."""
    return 0 if newest_day is None else newest_day + 1


def _margin_keys(hour: int, place: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the keys of the margins' rows that a place of the cube adds to."""
    for margin, mask in MASKS:
        masked = tuple(map(mul, place, mask))
        for grain in MARGIN_GRAINS:
            yield (margin.hours(grain), hour // grain.hours, *masked)


def cube_names(keys: Iterable[CubeKey]) -> set[str]:
    """Return the names of sums, of all dimensions."""
    return {_name(value) for value in set(chain.from_iterable(values for _, values in keys))}


def _name(value: str | None) -> str:
    return "" if value is None else value[:LONGEST_NAME]
