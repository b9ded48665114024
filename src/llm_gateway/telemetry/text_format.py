"""Write metrics in the text format of Prometheus.

Written here, since prometheus-client takes 0.1 s to import: a worker answers a scrape while control is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm_gateway.domain.metric_families import MetricFamily, with_few_values
from llm_gateway.telemetry.metrics import MOST_VALUES, OTHER

METRICS_CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})
_VALUE = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def text_of(families: Iterable[MetricFamily]) -> bytes:
    """Return the families as text. A label of a gauge has at most `MOST_VALUES` values, and `other`."""
    few = (with_few_values(family, MOST_VALUES, OTHER) for family in families)
    return "".join(line for family in few for line in _lines(family)).encode()


def _lines(family: MetricFamily) -> Iterator[str]:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    yield f"# HELP {name} {family.help.translate(_HELP)}\n# TYPE {name} {family.type}\n"
    for sample in family.samples:
        labels = ",".join(f'{label}="{value.translate(_VALUE)}"' for label, value in sorted(sample.labels.items()))
        yield f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {float(sample.value)!r}\n"
