"""Options that `budgets add` and `budgets update` share, and their translation into fields of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from llm_gateway.cli.exits import USAGE, CommandFailed

Count = Annotated[int | None, Parameter(validator=Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True)
class BudgetOptions:
    """Options that `budgets add` and `budgets update` share; None for an option that is not given."""

    usd: Annotated[str | None, Parameter(help="the limit in USD")] = None
    tokens: Annotated[Count, Parameter(help="the limit in tokens")] = None
    requests: Annotated[Count, Parameter(help="the limit in requests")] = None
    match: Annotated[
        list[str] | None,
        Parameter(name=("--match", "-m"), metavar="NAME=GLOB", help="what it counts, such as model=gpt-*; repeat it"),
    ] = None
    per: Annotated[
        str | None, Parameter(help="an account for each value of it, such as user_id; none: one account")
    ] = None
    period: Annotated[
        Literal["hour", "day", "week", "month", "quarter", "total"] | None, Parameter(help="month by default")
    ] = None
    tz: Annotated[str | None, Parameter(help="the time zone of the period, such as Europe/Berlin")] = None
    anchor: Annotated[int | None, Parameter(help="first day of the period, or hour of the day")] = None
    carry: Annotated[float | None, Parameter(help="part of what is left that is carried over, 0 to 1")] = None
    mode: Annotated[Literal["hard", "soft", "observe"] | None, Parameter(help="refuse, warn or count")] = None
    hold: Annotated[Literal["expected", "bound"] | None, Parameter(help="what is held before a call")] = None
    unpriced: Annotated[Literal["reject", "allow"] | None, Parameter(help="models without a known price")] = None
    notify_at: Annotated[
        str | None, Parameter(metavar="PARTS", help="parts of the limit that the webhook is called at, such as 0.8,1")
    ] = None

    def fields(self) -> dict[str, Any]:
        """Return the given options as fields of the API.

        Raises:
            CommandFailed: a condition is not NAME=GLOB, or a part is no number.
        """
        said = {
            "limit_usd": self.usd,
            "limit_tokens": self.tokens,
            "limit_requests": self.requests,
            "match": None if self.match is None else dict(_condition(text) for text in self.match),
            "period": self.period,
            "timezone": self.tz,
            "anchor": self.anchor,
            "carry": self.carry,
            "mode": self.mode,
            "hold": self.hold,
            "unpriced": self.unpriced,
            "notify_at": None if self.notify_at is None else _parts(self.notify_at),
        }
        found = {name: value for name, value in said.items() if value is not None}
        return found if self.per is None else found | {"per": None if self.per == "none" else self.per}


def _condition(text: str) -> tuple[str, str]:
    name, is_pair, glob = text.partition("=")
    if not is_pair:
        raise CommandFailed(f"--match takes NAME=GLOB, such as model=gpt-*, not {text!r}.", USAGE)
    return name, glob


def _parts(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise CommandFailed(f"--notify-at takes numbers such as 0.5,0.8,1, not {text!r}.", USAGE) from None
