"""Build the requests of the benchmarks, as jobs for a load generator."""

from __future__ import annotations

import json

from benchmarks.jobs import NUMBER, Job
from benchmarks.targets import KEY, MODEL

PROMPT = f"Request {NUMBER}: what is the capital of France, and which river does it lie on?"
SAME_PROMPT = PROMPT.replace(NUMBER, "0" * len(NUMBER))
VENDOR_KEY = "Bearer sk-benchmark-0123456789"


def generate(port: int, prompt: str = PROMPT) -> Job:
    """Return a job that posts to /api/v1/generate of the gateway."""
    body = {"user_id": "customer-1", "service": "bench", "prompt": prompt, "max_tokens": 200}
    headers = {"content-type": "application/json", "x-service-key": KEY}
    return Job(port, "/api/v1/generate", json.dumps(body), headers)


def surface(port: int, path: str) -> Job:
    """Return a job that posts to a vendor-compatible endpoint of the gateway: chat/completions or messages."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200}
    headers = {"content-type": "application/json", "x-api-key": KEY}
    return Job(port, f"/v1/{path}", json.dumps(body), headers)


def vendor(port: int) -> Job:
    """Return a job that posts chat completions to the mock vendor, or to a proxy that needs no service key."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 200, "temperature": 0.7}
    headers = {"content-type": "application/json", "authorization": VENDOR_KEY}
    return Job(port, "/v1/chat/completions", json.dumps(body), headers)
