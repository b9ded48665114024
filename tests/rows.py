"""Tables of cases that one test walks: pytest takes 4 ms of CPU time for each case of a parametrised test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast


def each_row(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that calls a test with every row, like `pytest.mark.parametrize` but as one test.

    All rows are tried; the error has those that fail, each with a note that shows the row. Fixtures are made once, so
    none may keep what a row leaves behind.

    Raises:
        ExceptionGroup: when called as a test, if a row fails.
    """
    fields = [names] if isinstance(names, str) else list(names)
    table = [(row,) if isinstance(names, str) else tuple(row) for row in rows]
    assert table, "a test without rows shows nothing"

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        def calls(fixtures: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Callable[..., Any]]]:
            for row in table:
                yield row, functools.partial(test, **fixtures, **dict(zip(fields, row, strict=True)))

        @functools.wraps(test)
        def walk(*own: Any, **fixtures: Any) -> None:
            errors: list[Exception] = []
            for row, call in calls(fixtures):
                try:
                    call(*own)
                except Exception as error:  # each failing row is told
                    errors.append(_with_row(error, row))
            _report(test.__name__, errors, len(table))

        @functools.wraps(test)
        async def walk_asynchronously(*own: Any, **fixtures: Any) -> None:
            errors: list[Exception] = []
            for row, call in calls(fixtures):
                try:
                    await call(*own)
                except Exception as error:
                    errors.append(_with_row(error, row))
            _report(test.__name__, errors, len(table))

        chosen: Any = walk_asynchronously if inspect.iscoroutinefunction(test) else walk
        kept = [value for value in inspect.signature(test).parameters.values() if value.name not in fields]
        chosen.__signature__ = inspect.Signature(kept)  # what pytest makes fixtures for
        return cast("Callable[..., Any]", chosen)

    return decorate


def _with_row(error: Exception, row: tuple[Any, ...]) -> Exception:
    error.add_note(f"in the row {row!r}")
    return error


def _report(name: str, errors: list[Exception], rows: int) -> None:
    if errors:
        raise ExceptionGroup(f"{name}: {len(errors)} of {rows} rows failed", errors)
