"""Records of requests that took several courses, for tests of the export."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord, add_usage

AT_MS = 1_790_000_000_000
REQUEST = "01a1e8a0-1c00-7abc-8def-0123456789ab"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
ADDRESSES = {"openai": ("api.openai.com", 443), "own": ("10.0.0.7", 8000)}


def attempt(number: int = 1, **fields: Any) -> AttemptRecord:
    plain: dict[str, Any] = {
        "id": f"01a1e8a0-1c0{number}-7abc-9def-00000000000{number}", "provider_id": "id-openai", "provider": "openai",
        "kind": "openai", "model": "gpt-5", "started_ms": AT_MS + 10, "status": 200, "latency_ms": 900,
        "usage": Usage(input_tokens=1000, output_tokens=50), "cost_nanos": 1_234_567, "finish_reason": "stop",
    }  # fmt: skip
    return AttemptRecord(**(plain | fields))


def record(*attempts: AttemptRecord, **fields: Any) -> UsageRecord:
    """Return the record of a request; usage and cost are those of the attempts."""
    usage, nanos = Usage(), 0
    for each in attempts:
        usage, nanos = add_usage(usage, each.usage), nanos + each.cost_nanos
    plain: dict[str, Any] = {
        "id": REQUEST, "at_ms": AT_MS, "instance": "host", "key_name": "shop", "user_id": "ann", "service": "search",
        "task_type": "general", "surface": "chat_completions", "version": 4, "requested_model": "gpt-5",
        "outcome": "ok", "status": 200, "provider": "openai", "model": "gpt-5", "usage": usage, "cost_nanos": nanos,
        "latency_ms": 920, "route": "model", "attempts": list(attempts),
    }  # fmt: skip
    return UsageRecord(**(plain | fields))


def streamed() -> UsageRecord:
    """Return the record of a streamed request that has all fields."""
    usage = Usage(
        input_tokens=1000, output_tokens=50, cache_read_tokens=400, cache_write_tokens=100, reasoning_tokens=20
    )
    served = attempt(
        usage=usage, upstream_model="gpt-5-2026-01-01", upstream_request_id="chatcmpl-1", service_tier="flex",
        accounts=[AccountRef("budget-1", "ann", 0)],
    )  # fmt: skip
    return record(
        served, stream=True, first_token_ms=310, session="s-1", agent="openai-python", team_id="team-1",
        key_id="key-1", client_request_id="order-17", traceparent=f"{PARENT}01", queued_ms=4,
    )  # fmt: skip


def failed_over() -> UsageRecord:
    """Return the record of a request whose first provider failed."""
    quoting = "Provider own: invalid prompt: 'my secret prompt'"
    first = attempt(
        provider_id="id-own", provider="own", model="llama", status=500, error=quoting, latency_ms=100,
        usage=Usage(), cost_nanos=0, finish_reason=None,
    )  # fmt: skip
    return record(first, attempt(2, why="failover:500", started_ms=AT_MS + 120, latency_ms=790))


def cached() -> UsageRecord:
    """Return the record of a request that the cache answered."""
    return record(
        outcome="cached", cache="hit", latency_ms=2, saved_cost_nanos=1_234_567, saved_input_tokens=1000,
        saved_output_tokens=50,
    )  # fmt: skip


def refused() -> UsageRecord:
    """Return the record of a request that no provider had room for."""
    return record(
        outcome="rate_limited", status=429, error_code="rate_limited", provider=None, model=None, latency_ms=8000,
        queued_ms=7990,
    )  # fmt: skip


def cut_off() -> UsageRecord:
    """Return the record of a request in which the gateway crashed."""
    return record(
        attempt(status=None, latency_ms=0), outcome="cancelled", status=0, error_code="gateway_crashed", latency_ms=0
    )
