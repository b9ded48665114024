"""Sums of the metrics of several workers, over their restarts."""

from __future__ import annotations

from pathlib import Path

from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge, with_label
from llm_gateway.telemetry import Metrics
from llm_gateway.telemetry.report_totals import KEPT, ReportTotals
from tests.telemetry.harness import record


def counter(value: float, **labels: str) -> MetricFamily:
    return MetricFamily(name="calls", type="counter", help="Calls", samples=[Sample("_total", labels, value)])


def breaker(value: float) -> MetricFamily:
    return MetricFamily(name="open", type="gauge", help="B", samples=[Sample("", {"p": "a"}, value)], is_maximum=True)


def values(families: list[MetricFamily]) -> dict[tuple[str, str], float]:
    """Return the values by name of the sample and labels."""
    return {
        (family.name + sample.suffix, ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_and_gauges_are_added_and_of_breakers_the_greatest_counts() -> None:
    totals = ReportTotals()
    totals.update("1", [counter(1, p="a"), gauge("busy", "B", 2), breaker(0.5)])
    totals.update("2", [counter(2, p="a"), counter(4, p="b"), gauge("busy", "B", 3), breaker(0)])
    assert values(totals.total({"1", "2"})) == {
        ("calls_total", "a"): 3,
        ("calls_total", "b"): 4,
        ("busy", ""): 5,
        ("open", "a"): 0.5,
    }


def test_a_later_report_replaces_the_one_before() -> None:
    totals = ReportTotals()
    totals.update("1", [counter(1)])
    totals.update("1", [counter(5)])
    assert values(totals.total({"1"})) == {("calls_total", ""): 5}


def test_a_worker_that_has_ended_leaves_its_counters_and_no_gauges() -> None:
    totals = ReportTotals()
    totals.update("1", [counter(1), gauge("busy", "B", 2)])
    totals.update("2", [counter(2)])
    assert values(totals.total({"2"})) == {("calls_total", ""): 3}


def test_counters_of_thousands_of_ended_workers_stay_and_take_no_memory() -> None:
    totals = ReportTotals()
    for number in range(10 * KEPT):
        totals.update(str(number), [counter(1), gauge("busy", "B", 1)])
    assert len(totals._state.last) == KEPT
    assert values(totals.total(())) == {("calls_total", ""): 10 * KEPT}


def test_counters_survive_a_restart_and_count_a_living_worker_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics"
    before = ReportTotals(file)
    before.update("ended", [counter(1)])
    before.update("living", [counter(2)])
    before.save()
    after = ReportTotals(file)
    after.update("living", [counter(3)])
    assert values(after.total({"living"})) == {("calls_total", ""): 4}


def test_a_damaged_file_is_ignored_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics"
    file.write_bytes(b"\xc1")
    totals = ReportTotals(file)
    totals.update("1", [counter(1)])
    totals.save()
    assert values(ReportTotals(file).total(())) == {("calls_total", ""): 1}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics"]


def test_histograms_of_two_workers_are_added_bucket_by_bucket() -> None:
    totals = ReportTotals()
    for key, latencies in (("1", (5, 300)), ("2", (5,))):
        metrics = Metrics(list)
        for latency in latencies:
            metrics(record(latency_ms=latency))
        totals.update(key, metrics.report())
    found = values(totals.total({"1", "2"}))
    name = "llm_gateway_latency_seconds"
    assert [found[f"{name}_bucket", f"ok,{bound}"] for bound in ("0.005", "0.25", "0.5", "+Inf")] == [2, 2, 3, 3]
    assert (found[f"{name}_count", "ok"], found[f"{name}_sum", "ok"]) == (3, 0.31)


def test_a_label_can_be_added_to_all_samples() -> None:
    assert with_label([counter(1, p="a")], "worker", "2") == [counter(1, p="a", worker="2")]
