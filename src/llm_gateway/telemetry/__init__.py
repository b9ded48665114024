"""Log and Prometheus metrics: `configure_logging`, `LogWriter` and `Metrics`, imported from the modules below.

`events.py` accepts log events, `writer.py` queues them and writes them from its own thread, `lines.py` renders them as
JSON or for people (`console.py`), `redaction.py` removes secrets from text. `metrics.py` counts, `text_format.py`
writes the counts for Prometheus, `exposition.py` adds this process's memory and CPU time (prometheus-client).
"""

from __future__ import annotations

from llm_gateway.telemetry.events import configure_logging
from llm_gateway.telemetry.metrics import Metrics
from llm_gateway.telemetry.text_format import METRICS_CONTENT_TYPE
from llm_gateway.telemetry.writer import LogWriter

__all__ = ["METRICS_CONTENT_TYPE", "LogWriter", "Metrics", "configure_logging"]
