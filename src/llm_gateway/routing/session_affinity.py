"""Keep a session at one of several equal providers, whose prompt cache then holds the session's beginning.

A cached input token costs about a tenth of an uncached one. Candidates of a tier are ordered by rendezvous hashing
(Thaler and Ravishankar, 1998): each has a weight from a hash of session and candidate, and the heaviest comes first.
So every replica of the gateway finds the same order without shared state, and when a provider leaves, only its own
sessions move. The order is bounded by load: a candidate far busier than the tier's mean is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import Request

MOST_REMEMBERED = 4096
"""Sessions whose order is remembered; hashing one anew takes some microseconds."""
MOST_ABOVE_MEAN, ALWAYS_ALLOWED = 1.25, 4
"""A candidate serves its sessions while its calls in flight are at most 1.25 × the tier's mean + 4."""
LONG_INPUT_TOKENS = 1024
"""Estimated input tokens from which a request without a session keeps to one provider, too: providers cache from here.

https://developers.openai.com/api/docs/guides/prompt-caching, read 2026-11-27.
"""
BEGINNING_CHARACTERS = 2048
"""Characters of each text that tell the beginning of a conversation from others."""
FIRST_TURNS = 4
"""Turns among which the first one of the user is looked for."""
TURN_FIELDS, USER = frozenset({"role", "parts"}), "user"
"""Fields of a turn of the conversation, of which a tool has none. A turn without a role is the user's (Gemini)."""


class SessionAffinity:
    """The order in which a session's requests try the candidates of a tier.

    Example: `affinity.choose(request, tier, waiting, in_flight)` returns which of `waiting` to try now.
    """

    def __init__(self, most_remembered: int = MOST_REMEMBERED) -> None:
        self._most_remembered = most_remembered
        self._orders: dict[int, tuple[tuple[Candidate, ...], tuple[Candidate, ...]]] = {}
        """By hash of the session, whose name can have 10,000 characters: a tier, and the tier in the session's order.

        The least recently used comes first. If two sessions have one hash, the second keeps to the first one's order.
        """

    def clear(self) -> None:
        """Forget all orders; call it when the configuration changed, whose candidates they would keep in memory."""
        self._orders.clear()

    def choose(
        self,
        request: Request,
        tier: tuple[Candidate, ...],
        waiting: Sequence[Candidate],
        in_flight: Callable[[Candidate], int],
    ) -> Candidate:
        """Return the candidate of `waiting` to try now: the session's own unless it is too busy, else the least busy.

        `waiting` are the candidates of `tier` that were not tried yet; `in_flight` counts the calls to a candidate's
        provider.
        """
        session = session_key(request)
        if session is None:
            return min(waiting, key=in_flight)
        most = MOST_ABOVE_MEAN * sum(map(in_flight, tier)) / len(tier) + ALWAYS_ALLOWED
        for candidate in self._order(session, tier):
            if candidate in waiting and in_flight(candidate) <= most:
                return candidate
        return min(waiting, key=in_flight)

    def _order(self, session: str, tier: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        orders, key = self._orders, hash(session)
        known = orders.pop(key, None)
        if known is None or known[0] is not tier:
            known = tier, tuple(sorted(tier, key=lambda candidate: _weight(session, candidate), reverse=True))
            if len(orders) >= self._most_remembered:
                del orders[next(iter(orders))]
        orders[key] = known
        return known[1]


def _weight(session: str, candidate: Candidate) -> bytes:
    named = f"{session}\0{candidate.provider.id}\0{candidate.model}"
    return blake2b(named.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def session_key(request: Request) -> str | None:
    """Return the text that all requests of a session share; None for a short request that names no session.

    Keys and customers that use the same name for a session do not share it.
    """
    if request.session is not None:
        return f"{request.key_name}\0{request.session}"
    if request.beginning is None or request.estimated_input_tokens() < LONG_INPUT_TOKENS:
        return None
    return f"{request.key_name}\0{request.user_id}\0{request.beginning()}"


def beginning_of(document: dict[str, Any], fields: tuple[str, ...]) -> str:
    """Return the beginning of a conversation, which stays the same turn after turn: `fields` to the first user turn.

    Of every text only the first characters count, and of tools none: all sessions of an agent have the same.
    """
    texts: list[str] = []
    for name in fields:
        value = document.get(name)
        if isinstance(value, list):
            for turn in value[:FIRST_TURNS]:
                if not isinstance(turn, dict) or not TURN_FIELDS & turn.keys():
                    continue
                texts.append(_beginning(turn))
                if turn.get("role", USER) == USER:
                    break
        elif value is not None:
            texts.append(_beginning(value))
    return "\0".join(texts)


def _beginning(value: Any) -> str:
    """Return the first characters of the texts in a part of a request."""
    found: list[str] = []
    waiting, room = [value], BEGINNING_CHARACTERS
    while waiting and room > 0:
        value = waiting.pop()
        if isinstance(value, str):
            found.append(value[:room])
            room -= len(value)
        elif isinstance(value, list):
            waiting += reversed(value[:FIRST_TURNS])
        elif isinstance(value, dict):
            waiting += reversed([inner for name, inner in value.items() if name != "cache_control"])
    return "".join(found)
