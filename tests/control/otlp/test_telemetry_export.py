"""The export as a part of control: on with an endpoint, off without one, and where providers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_gateway.control.telemetry_export import Addresses, TelemetryExport
from llm_gateway.domain.catalog import Target
from llm_gateway.journal.other_reader import NO_READER
from llm_gateway.journal.record_feed import RecordFeed
from llm_gateway.journal.replay import replay
from llm_gateway.journal.segments import find_kept
from llm_gateway.settings import Settings
from tests.journal.samples import Database, Heard, left_behind, settled_frames
from tests.otlp_collector import OtlpCollector
from tests.worker.pipeline.fakes import provider, snapshot


async def test_what_is_left_at_the_stop_is_sent(tmp_path: Path) -> None:
    left_behind(tmp_path, {1: settled_frames(range(3))})
    with OtlpCollector() as collector:
        settings = Settings(data_dir=tmp_path, otlp_endpoint=collector.url, otlp_headers="api-key=k%201")
        export = TelemetryExport(settings, Heard())
        assert isinstance(export.other, RecordFeed)
        replay(tmp_path, Database(), log=Heard(), other=export.other)
        export.open(lambda: snapshot([]))
        await export.close()

    assert len(collector.spans) == len(collector.logs) == 3
    assert {headers["api-key"] for _, headers in collector.requests} == {"k 1"}
    assert [path for path, _ in collector.requests] == ["/v1/traces", "/v1/logs", "/v1/metrics"]
    assert find_kept(tmp_path / "journal") == {}
    names = {family.name for family in [*export.counters(), *export.gauges()]}
    assert names == {f"llm_gateway_otlp_{name}" for name in ("items", "lost_records", "up", "backlog_bytes")}


async def test_without_an_endpoint_nothing_is_kept_or_counted(tmp_path: Path) -> None:
    left_behind(tmp_path, {1: settled_frames(range(3))})
    before = RecordFeed(tmp_path)
    replay(tmp_path, Database(), log=Heard(), other=before)
    heard = Heard()
    export = TelemetryExport(Settings(data_dir=tmp_path), heard)

    assert export.other is NO_READER
    export.open(lambda: snapshot([]))
    await export.run()
    await export.close()
    assert [*export.counters(), *export.gauges()] == []
    assert heard.events == [("telemetry that was not exported is dropped, since no endpoint is set", {"journals": 1})]
    assert find_kept(tmp_path / "journal") == {}


def test_providers_are_where_the_configuration_in_force_says() -> None:
    def at(root: str) -> Any:
        return Target(root, f"{root}/models", {})

    found = snapshot([provider("a", target=at("https://api.openai.com/v1")), provider("b", target=None)])
    addresses = Addresses(lambda: found)
    assert (addresses("a"), addresses("b"), addresses("c")) == (("api.openai.com", 443), None, None)
    found = snapshot([provider("a", target=at("http://10.0.0.1:8000"))])
    assert addresses("a") == ("10.0.0.1", 8000)
    found = snapshot([provider("a", target=at("http://10.0.0.1"))])
    assert addresses("a") == ("10.0.0.1", 80)
