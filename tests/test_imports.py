"""Lazy imports, checked in a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys


def test_genai_prices_is_imported_only_at_the_first_lookup() -> None:
    program = (
        "import sys; from llm_gateway.providers.prices import PriceList, from_operator; "
        "from_operator({'input': 1, 'output': 2}); PriceList().find('local', 'm'); "
        "assert not any(name.startswith('genai_prices') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})


def test_metrics_are_written_without_importing_prometheus_client() -> None:
    program = (
        "import sys; from llm_gateway.telemetry import Metrics; from llm_gateway.telemetry.text_format import text_of; "
        "import llm_gateway.worker.process; "
        "assert text_of(Metrics(list).report()); assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})
