"""Reply of control to a worker that asks for a larger lease of a budget's account."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

LeaseState: TypeAlias = Literal["granted", "dry", "unavailable"]


class LeaseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: `granted` to try again, `dry` if too little is left of the limit, `unavailable` if that is not known.

    Amounts are in the budget's unit; `held` includes what other hosts may still use. `text` says why it is unavailable.
    """

    state: LeaseState
    limit: int = 0
    spent: int = 0
    held: int = 0
    text: str = ""
