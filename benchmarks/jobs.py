"""One spell of load, described, and what came of it: what every load generator takes and gives."""

from __future__ import annotations

import msgspec

NUMBER = "#" * 12
"""Where a request's own number stands in a body that is to be another one each time."""


class Job(msgspec.Struct, frozen=True):
    """POST `body` to `path` over `connections` for `seconds`, and on until `at_least` answers came."""

    port: int
    path: str
    body: str
    headers: dict[str, str]
    connections: int = 1
    seconds: float = 1.0
    at_least: int = 0
    first: int = 0
    """The number of the first request: jobs of one run must not repeat each other's."""


class Load(msgspec.Struct):
    """The answers of a job. `failed` counts what was not a 200, `failure` shows the first of those."""

    requests: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    failure: str = ""
    unread: int = 0
    """At most so many requests were sent whose answer the generator did not wait for."""
