"""Log events and metrics; the only package that uses prometheus-client.

`events.py` takes log events, `writer.py` queues them and writes them from a thread of its own, `lines.py` renders them
as JSON or for people (`console.py`), `metrics.py` counts, `redaction.py` takes secrets out of text.
"""

from __future__ import annotations

from llm_gateway.telemetry.events import configure_logging
from llm_gateway.telemetry.metrics import METRICS_CONTENT_TYPE, Metrics
from llm_gateway.telemetry.writer import LogWriter

__all__ = ["METRICS_CONTENT_TYPE", "LogWriter", "Metrics", "configure_logging"]
