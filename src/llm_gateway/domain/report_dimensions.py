"""Dimensions of the usage reports: one table that sums, API, CSV files, command line and dashboard follow.

A new dimension is a row of `DIMENSIONS`. Summed from records, it has reports of at most seven days. If it is to have
longer ones, it is a column of the cube as well (`store/cube.py`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Sums: TypeAlias = Literal["cube", "customers", "records"]
"""Where the sums of a dimension are: in the cube, in the rollups of customers, or nowhere but in the records."""


class Dimension(NamedTuple):
    """A dimension of the reports: its name in the API, and its title for people.

    The value of a usage record is that of the first of `columns` which is not null, "" if all are. The API's filter is
    the parameter `parameter`, the command line's the option `option`; both are the name if they are empty. `about` says
    more about the filter's value.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    sums: Sums
    parameter: str = ""
    option: str = ""
    about: str = ""

    @property
    def filter(self) -> str:
        """The API's parameter."""
        return self.parameter or self.name

    @property
    def flag(self) -> str:
        """The command line's option, as a name of Python: `task_type` for `--task-type`."""
        return self.option or self.name


DIMENSIONS = (
    Dimension("model", "Model", ("model",), "cube"),
    Dimension("provider", "Provider", ("provider",), "cube"),
    Dimension(
        "key", "Key", ("key_id", "key_name"), "cube", option="api_key",
        about="id of a key, or name of a key of the environment",
    ),
    Dimension("team", "Team", ("team_id",), "cube"),
    Dimension("service", "Service", ("service",), "cube"),
    Dimension("task_type", "Task type", ("task_type",), "cube"),
    Dimension("agent", "Agent", ("agent",), "cube"),
    Dimension("customer", "Customer", ("user_id",), "customers", parameter="user_id"),
    Dimension("session", "Session", ("session",), "records"),
)  # fmt: skip
"""All dimensions but tags, in the order in which they are listed."""
