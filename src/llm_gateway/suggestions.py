"""Find the name that was probably meant, for messages about a name that does not exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import islice
from operator import itemgetter

LONGEST, MOST_KNOWN, MOST_TESTED, MOST_RATED, MOST_COMPARED = 64, 20_000, 80_000, 200, 5
"""Limits of the search: characters of a name, names read, tests for pieces, names rated, names compared in full.

A full comparison of two long names takes milliseconds."""
CLOSE = 0.7


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `name`; None if none is close.

    Case, `_`, `-` and `.` do not count, so that userId finds user_id. The work is bounded for all names.
    """
    plain = _plain(name)
    if not plain or len(name) > LONGEST:
        return None
    near: dict[str, str] = {}
    for each in islice(known, MOST_KNOWN):
        other = _plain(each) if len(each) <= LONGEST else ""
        if other == plain:
            return each
        if other and abs(len(other) - len(plain)) <= max(2, len(plain) // 2):
            near.setdefault(other, each)
    # difflib.get_close_matches does the same, but compares all similar names in full
    matcher = SequenceMatcher(b=plain)
    rated = [(_quick_ratio(matcher, other), other) for other in _most_alike(plain, near)]
    best = [(_ratio(matcher, other), other) for quick, other in nlargest(MOST_COMPARED, rated) if quick >= CLOSE]
    ratio, found = max(best, default=(0.0, ""))
    return near[found] if ratio >= CLOSE else None


def _most_alike(plain: str, others: Collection[str]) -> Collection[str]:
    """Return the `MOST_RATED` names that contain the most pieces of `plain`, 4 to 16 pieces by the number of names.

    Pieces overlap by one character, so that each mistake in a name changes two of them at most.
    """
    if len(others) <= MOST_RATED:
        return others
    step = -(-len(plain) // min(16, MOST_TESTED // len(others)))
    pieces = [plain[at : at + step + 1] for at in range(0, max(1, len(plain) - 1), step)]
    shared = [0] * len(others)
    for piece in pieces:
        shared = [count + (piece in other) for count, other in zip(shared, others, strict=True)]
    found = nlargest(MOST_RATED, zip(shared, others, strict=True), key=itemgetter(0))
    return [other for _, other in found]


def _quick_ratio(matcher: SequenceMatcher[str], other: str) -> float:
    matcher.set_seq1(other)
    return matcher.quick_ratio()


def _ratio(matcher: SequenceMatcher[str], other: str) -> float:
    matcher.set_seq1(other)
    return matcher.ratio()


def if_meant(name: str, known: Iterable[str]) -> str:
    """Return a sentence for the end of a message, with a blank before it; nothing if no known name is close."""
    found = closest(name, known)
    return f" Did you mean {found}?" if found is not None else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "")
