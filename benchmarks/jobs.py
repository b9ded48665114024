"""One spell of load, described, and its result: what every load generator takes and returns."""

from __future__ import annotations

import msgspec

NUMBER = "#" * 12
"""Placeholder for the number of a request, in a body that must be different each time."""


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

    def parts(self) -> tuple[bytes, bytes]:
        """Build the whole request, split where its number stands; the second part is empty if it has none."""
        body = self.body.encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        before, _, after = ("\r\n".join([*lines, "", ""]).encode() + body).partition(NUMBER.encode())
        return before, after


class Load(msgspec.Struct):
    """The answers of a job. `failed` counts what was not a 200, `failure` shows the first of those."""

    requests: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    failure: str = ""
    unread: int = 0
    """Maximum number of requests sent whose answer the generator did not wait for."""


class OpenJob(Job, frozen=True):
    """Send requests at `rate` a second for `lead_seconds`, which are not measured, and then for `seconds`."""

    rate: float = 100.0
    lead_seconds: float = 0.0
    seed: int = 0
    """Of the random arrivals: jobs of the same seed, rate and length send at the same times."""


class OpenLoad(msgspec.Struct):
    """The answers of an open-loop job. Latencies are those of the requests that were due after the lead time."""

    requests: int
    """All that were sent, those of the lead time included."""
    failed: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    lag_p99_us: float
    """How late the generator itself sent, 99th percentile."""
    connections: int
    """The most that were open at once."""
    failure: str = ""
