"""What a call gets, said in a word: `ok`, `status-500`, `slow-200+reset`, `flaky-3+stall`. Pure.

A test steers the mock through the gateway with such a word as the model's name or as the provider's API key.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

SHAPES = frozenset(
    {
        "ok",  # a completion; its content is JSON when the request asks for a JSON object
        "json",  # content that is JSON, asked for or not
        "not-json-content",  # content that is not JSON, asked for or not
        "echo",  # the content is the prompt
        "length",  # cut by max_tokens: finish_reason is length, the content ends in the middle
        "null-content",
        "no-usage",
        "bad-usage",  # negative counts
        "bad-json",  # a body that is no JSON
        "bad-shape",  # a body that is JSON of another structure
        "empty",  # a body of no bytes
        "huge",  # content of 10 MB
    }
)
"""Answers with status 200."""

FAULTS = frozenset(
    {
        "stall",  # the call is read and never answered
        "stall-body",  # headers are sent, then nothing
        "drip",  # headers are sent, then the body, a byte every 50 ms
        "half",  # half of the body is sent, then the connection ends
        "reset",  # the connection is reset once the call was read
        "close",  # the connection ends once the call was read
        "garbage",  # what comes is not HTTP
        "leak",  # a 401 that quotes the key
    }
)
"""Answers that break off or never come."""

_STATUS = re.compile(r"status-([1-5]\d\d)(?:-after-([\w.]+))?")
_SLOW = re.compile(r"slow-(\d+)")
_FLAKY = re.compile(r"flaky-([1-9]\d*)")


class Behaviour(msgspec.Struct, frozen=True):
    """One way to treat a call. `every` = 3: only every third call of the model is treated so, the others are ok."""

    kind: str = "ok"
    status: int = 200
    retry_after: str | None = None
    delay_s: float = 0.0
    every: int = 0


OK = Behaviour()


@lru_cache(maxsize=4096)
def parse(word: str) -> Behaviour | None:
    """The behaviour that `word` names; None if it names none, as a usual model's name.

    Parts are joined with `+`: `slow-MS` adds a delay, `flaky-N` keeps the rest for every Nth call (a 500 if there is no
    rest), and one part says what comes: a name of SHAPES or FAULTS, or `status-NNN`, with a Retry-After header
    `status-429-after-3`.
    """
    what: Behaviour | None = None
    delay_s, every = 0.0, 0
    for part in word.split("+"):
        if slow := _SLOW.fullmatch(part):
            delay_s = int(slow[1]) / 1000
        elif flaky := _FLAKY.fullmatch(part):
            every = int(flaky[1])
        elif what is not None:
            return None
        elif part in SHAPES or part in FAULTS:
            what = Behaviour(kind=part)
        elif status := _STATUS.fullmatch(part):
            what = Behaviour(kind="status", status=int(status[1]), retry_after=status[2])
        else:
            return None
    if what is None:
        what = Behaviour(kind="status", status=500) if every else OK
    return msgspec.structs.replace(what, delay_s=delay_s, every=every)
