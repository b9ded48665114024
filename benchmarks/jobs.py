"""Data classes for a job of a load generator and its result, exchanged as JSON between processes."""

from __future__ import annotations

import msgspec

NUMBER = "#" * 12
"""Placeholder in a body for the number of the request, which makes each body different."""


class Job(msgspec.Struct, frozen=True):
    """A job: POST `body` to `path` over `connections` for `seconds`, and longer until `at_least` answers came."""

    port: int
    path: str
    body: str
    headers: dict[str, str]
    connections: int = 1
    seconds: float = 1.0
    at_least: int = 0
    first: int = 0
    """Number of the first request: jobs of one run must not repeat numbers."""

    def parts(self) -> tuple[bytes, bytes]:
        """Return the whole HTTP request, split at the placeholder; the second part is empty without one."""
        body = self.body.encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        before, _, after = ("\r\n".join([*lines, "", ""]).encode() + body).partition(NUMBER.encode())
        return before, after


class Load(msgspec.Struct):
    """Result of a job. `failed` counts the answers other than 200, `failure` shows the first of them."""

    requests: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    failure: str = ""
    unread: int = 0
    """Maximum number of requests sent whose answer the generator did not wait for."""


class OpenJob(Job, frozen=True):
    """An open-loop job: send `rate` requests per second for `lead_seconds`, not measured, and then for `seconds`."""

    rate: float = 100.0
    lead_seconds: float = 0.0
    seed: int = 0
    """Seed of the random arrivals: jobs of the same seed, rate and length send at the same times."""
    may_refuse: bool = False
    """Count answers with status 503 as refusals, not as failures."""


class OpenLoad(msgspec.Struct):
    """Result of an open-loop job. Latencies are those of requests due after the lead time."""

    requests: int
    """Number of requests sent, those of the lead time included."""
    failed: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    lag_p99_us: float
    """Delay of the generator itself in sending, 99th percentile."""
    connections: int
    """Maximum number of connections open at once."""
    failure: str = ""
    refused: int = 0
    """Number of answers with status 503, if the job allows them. The latencies above do not contain them."""
    refused_p99_us: float = 0.0
    in_time: int = 0
    """Number of requests served before the last one was due."""
