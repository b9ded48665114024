"""Find the name that was probably meant, for messages about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import islice

LONGEST, MOST_KNOWN, MOST_RATED, MOST_COMPARED = 64, 20_000, 200, 5
"""Limits of the search: characters of a name, names read, names rated, names compared in full.

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
        if other and abs(len(other) - len(plain)) <= max(2, len(plain) // 2) and len(near) < MOST_RATED:
            near.setdefault(other, each)
    matcher = SequenceMatcher(
        b=plain
    )  # difflib.get_close_matches does the same, but compares all similar names in full
    rated = [(_quick_ratio(matcher, other), other) for other in near]
    best = [(_ratio(matcher, other), other) for quick, other in nlargest(MOST_COMPARED, rated) if quick >= CLOSE]
    ratio, found = max(best, default=(0.0, ""))
    return near[found] if ratio >= CLOSE else None


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
