"""Metrics that the control process measures at each scrape: the version, the database, the workers' configuration."""

from __future__ import annotations

import platform

from llm_gateway import __version__
from llm_gateway.domain.metric_families import MetricFamily, gauge


def gateway_gauges(*, database_ok: bool) -> list[MetricFamily]:
    """Return the versions of gateway and Python, and whether the database answers."""
    text = "Always 1; the labels are the versions of the gateway and of Python"
    return [
        gauge("llm_gateway_build_info", text, 1, version=__version__, python=platform.python_version()),
        gauge("llm_gateway_database_up", "1 if the database answers", float(database_ok)),
    ]
