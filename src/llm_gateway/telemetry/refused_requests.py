"""Count refused requests that have no usage record, by the log lines that report them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from llm_gateway.domain.metric_families import MetricFamily, Sample

REFUSED = "request refused"
"""Log event of a refused request (`gate/request_context.py`, `server/shared_state.py`)."""
UNAUTHORIZED = 401


class RefusalCounter:
    """A log that counts the refused requests whose lines it passes on, by status and error code.

    `on_unauthorized` is called with the client's address for each request without a valid key.
    """

    def __init__(
        self, log: Callable[..., None], on_unauthorized: Callable[[str | None], None] = lambda _address: None
    ) -> None:
        self._log = log
        self._on_unauthorized = on_unauthorized
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: str, **fields: Any) -> None:
        """Pass a line on, and count the refused requests that it reports: one, or its `count`."""
        if event == REFUSED:
            self._counts[str(fields["status"]), str(fields["error_code"])] += fields.get("count", 1)
            if fields["status"] == UNAUTHORIZED:
                self._on_unauthorized(fields.get("client"))
        self._log(event, **fields)

    def family(self) -> MetricFamily:
        """Return the counts."""
        return MetricFamily(
            name="llm_gateway_refusals",
            type="counter",
            help="Requests refused before they had a usage record",
            samples=[
                Sample("_total", {"status": status, "error_code": code}, count)
                for (status, code), count in list(self._counts.items())
            ],
        )
