"""Amounts that each worker holds in the budgets' accounts, in rows of a place in memory that it alone writes to.

A place belongs to the journal of its worker, whose digest is its owner. It is cleared by the control process, after
the requests that the journal leaves open were booked, and not by the next worker. An account's sums are those of all
rows; they can be computed again after a process was killed between two stores.
"""

from __future__ import annotations

from typing import Any

from llm_gateway.host_memory import (
    BUDGETS_AT,
    BUDGETS_HEADER_WORDS,
    HOLD_ROW_WORDS,
    HOLD_ROWS,
    HOLDER_WORDS,
    HOLDERS,
    HOLDERS_AT,
)
from llm_gateway.host_memory.budget_slots import GAP, SPENT, TAKEN
from llm_gateway.host_memory.slots import Key

LOADED = BUDGETS_AT
"""Word of the header: 1 once the balances of the database are here."""
NOWHERE = BUDGETS_AT + BUDGETS_HEADER_WORDS // 2
"""Where an account without a slot counts: nobody reads it."""
OWNER, OWNER_HIGH, ROWS_USED = range(3)
"""Words of a place: the digest of its journal's name, and the number of rows that were ever used."""
ROW_HELD, ROW_GAP, ROW_ACCOUNT, ROW_LATE = range(4)
"""Words of a row: what is held, by how much it can be exceeded, and the account's slot. `ROW_LATE`: what was spent of
it and the account does not count yet, since it was held ahead or another process had the lock; its worker writes it
without the lock.
"""
HOLDER_SIZE = HOLDER_WORDS + HOLD_ROWS * HOLD_ROW_WORDS


def find_place(words: Any, owner: Key) -> int | None:
    """Return the number of an owner's place, None if it has none."""
    for number in range(HOLDERS):
        at = HOLDERS_AT + number * HOLDER_SIZE
        if words[at + OWNER] == owner.low and words[at + OWNER_HIGH] == owner.high:
            return number
    return None


def claim_place(words: Any, owner: Key) -> int | None:
    """Take a free place for this process; None if there is none. Needs the accounts' lock."""
    for number in range(HOLDERS):
        at = HOLDERS_AT + number * HOLDER_SIZE
        if not words[at + OWNER]:
            words[at + OWNER_HIGH] = owner.high
            words[at + OWNER] = owner.low
            return number
    return None


def owners(words: Any) -> list[Key]:
    """Return the owners of all places that are taken."""
    places = [HOLDERS_AT + number * HOLDER_SIZE for number in range(HOLDERS)]
    return [Key(words[at + OWNER], words[at + OWNER_HIGH]) for at in places if words[at + OWNER]]


def clear_rows(words: Any, number: int) -> None:
    """Count what was spent and not counted yet, release all that is held at a place, and free it. Needs the lock."""
    place = HOLDERS_AT + number * HOLDER_SIZE
    for row in _rows(words, place):
        account, held, gap = words[row + ROW_ACCOUNT], words[row + ROW_HELD], words[row + ROW_GAP]
        late = words[row + ROW_LATE]
        if late:
            words[account + TAKEN] += late  # a part of it twice, if this process is killed here: never too little
            words[account + SPENT] += late
            words[row + ROW_LATE] = 0
        if held or gap:
            words[row + ROW_HELD] = words[row + ROW_GAP] = 0
            words[account + TAKEN] -= held
            words[account + GAP] -= gap
    words[place + ROWS_USED] = 0
    words[place + OWNER] = 0


def noted_spending(words: Any) -> dict[int, int]:
    """Return what workers have noted as spent and accounts do not count yet, by the account's word. Needs the lock."""
    noted: dict[int, int] = {}
    for number in range(HOLDERS):
        for row in _rows(words, HOLDERS_AT + number * HOLDER_SIZE):
            if late := words[row + ROW_LATE]:
                noted[words[row + ROW_ACCOUNT]] = noted.get(words[row + ROW_ACCOUNT], 0) + late
    return noted


def recompute_sums(words: Any) -> None:
    """Compute the sums of each account in which any worker has a row. Needs the lock."""
    sums: dict[int, tuple[int, int]] = {}
    for number in range(HOLDERS):
        for row in _rows(words, HOLDERS_AT + number * HOLDER_SIZE):
            held, gap = sums.get(words[row + ROW_ACCOUNT], (0, 0))
            sums[words[row + ROW_ACCOUNT]] = held + words[row + ROW_HELD], gap + words[row + ROW_GAP]
    for account, (held, gap) in sums.items():
        words[account + TAKEN] = words[account + SPENT] + held
        words[account + GAP] = gap


def _rows(words: Any, place: int) -> range:
    first = place + HOLDER_WORDS
    return range(first, first + words[place + ROWS_USED] * HOLD_ROW_WORDS, HOLD_ROW_WORDS)
