"""A mock LLM vendor for tests and benchmarks: it fails on request, and records what it bills.

In a test's own process:

    async with MockUpstream() as mock:
        ...  # a provider with base_url=mock.base_url and models=["status-500"] fails every time
        assert mock.calls[0].prompt == "Hello"

As a process of its own, which a benchmark can pin to a core and which outlives a gateway that is killed:

    with UpstreamProcess(journal=path) as mock:
        ...
    bills = read_bills(path)

or `python -m tests.upstream --port 0 --journal FILE`, which prints its port.

The behaviour of a call is named by `behave()`, else by the API key, else by the model's name (see `behaviour`). Token
counts follow from the number of the call, so that exact costs can be checked.
"""

from __future__ import annotations

from tests.upstream.answers import completion_tokens, prompt_tokens
from tests.upstream.billing import Bill, read_bills
from tests.upstream.process import UpstreamProcess
from tests.upstream.server import Call, MockUpstream, Seen

__all__ = [
    "Bill",
    "Call",
    "MockUpstream",
    "Seen",
    "UpstreamProcess",
    "completion_tokens",
    "prompt_tokens",
    "read_bills",
]
