"""Amounts that the attempts of one request hold in budgets' accounts: from an advance, or in the accounts themselves.

first attempt ── the advance has as much ──▶ `TakenAhead` ── another attempt ──▶ a list of `AttemptHold`
       └── it has not, or is closed ─────────────────────────────────────────────────▲
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.host_memory.account_group import AccountGroup
from llm_gateway.worker.pipeline.budget_account import REQUESTS, Matched
from llm_gateway.worker.pipeline.output_samples import Series

ByKind: TypeAlias = tuple[int, int, int, int, int]
"""What an attempt holds, exceeds it by, or spent, in the order of `Amount` (`budget_account.py`)."""
TakenAhead: TypeAlias = tuple[AttemptRecord, Matched, int, int]
"""The only attempt of a request, its accounts, and the nano-dollars and tokens that it took from their advance."""


class AttemptHold(msgspec.Struct, eq=False):
    """Amounts that one attempt holds in its accounts, in `group`: by what is held, or one by one after another attempt.

    `is_first`: it is the first attempt of its request. `samples` are those of its output, None for the first of a kind.
    """

    attempt: AttemptRecord
    matched: Matched
    group: AccountGroup
    needs: Sequence[int]
    gaps: Sequence[int] | None
    is_first: bool
    samples: Series | None

    def spent(self) -> Sequence[int]:
        """Return what the attempt has cost in each of its accounts, or may have cost while that is not known."""
        nanos, usage = self.attempt.cost_nanos, self.attempt.usage
        tokens = usage.input_tokens + usage.output_tokens
        spent = nanos, nanos, tokens, tokens, 1
        if self.is_first:
            return spent  # nearly always
        each = zip(self.needs, self.matched.group.kinds, strict=True)
        return [need if kind == REQUESTS else spent[kind] for need, kind in each]


Held: TypeAlias = TakenAhead | list[AttemptHold]
"""What the attempts of one request hold."""


def by_kind(nanos: int, tokens: int) -> ByKind:
    """Return the amounts of a request whose bound, and what is expected of it, are the same."""
    return nanos, nanos, tokens, tokens, 1


def as_list(held: Held) -> list[AttemptHold]:
    """Return what the attempts of a request hold as amounts in the accounts, which those of an advance are, too."""
    if isinstance(held, list):
        return held
    attempt, matched, nanos, tokens = held
    return [AttemptHold(attempt, matched, matched.group, by_kind(nanos, tokens), None, True, None)]


def one_by_one(
    needs: Sequence[int], gaps: Sequence[int] | None, matched: Matched, earlier: Sequence[AttemptHold]
) -> tuple[Sequence[int], Sequence[int] | None]:
    """Return the amounts by account, without the request itself where an earlier attempt of it was counted."""
    counted = {account.ref for hold in earlier for account in hold.matched.accounts}
    kinds = matched.group.kinds
    each = zip(kinds, matched.accounts, strict=True)
    own = [0 if kind == REQUESTS and account.ref in counted else needs[kind] for kind, account in each]
    return own, None if gaps is None else [gaps[kind] for kind in kinds]
