"""A started gateway and a collector over HTTP: traces, metrics and logs of what it served, also while it was away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.process import GatewayProcess, free_port, until
from tests.otlp_collector import OtlpCollector, attributes
from tests.upstream import UpstreamProcess

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REQUESTS = 12


def by_request(collector: OtlpCollector) -> dict[str, dict[str, Any]]:
    """Return the attributes of SERVER spans by the ids of their requests."""
    found = [attributes(span.attributes) for span in collector.spans if span.kind == 2]
    return {each["llm_gateway.request.id"]: each for each in found}


def test_everything_that_was_served_is_exported(tmp_path: Path, mock: UpstreamProcess) -> None:
    port = free_port()
    settings = {"otlp_endpoint": f"http://127.0.0.1:{port}", "otlp_headers": "api-key=secret%20of%20the%20collector"}
    with GatewayProcess(tmp_path, **settings) as gateway:
        gateway.provider("failing", mock.base_url, "status-500", priority=3)
        gateway.provider("traced", mock.base_url, "ok", priority=2, trace=True)
        with OtlpCollector(port) as collector:
            answer = gateway.call(
                "POST", "/v1/chat/completions",
                {"model": "traced/ok", "messages": [{"role": "user", "content": "my secret prompt"}], "stream": True},
                traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1",
            )  # fmt: skip
            assert answer.status == 200
            until(lambda: len(collector.spans) >= 2 and len(collector.logs) >= 1)
            check_trace(gateway, collector, answer.headers["x-gateway-request-id"])
            assert collector.requests[0][1]["api-key"] == "secret of the collector"
        # The collector is away: requests are answered, and their telemetry waits.
        ids = {gateway.ask(f"Hello {number}").headers["x-gateway-request-id"] for number in range(REQUESTS)}
        assert gateway.ask("Hello", model="nothing").status == 404
        until(lambda: "llm_gateway_otlp_up 0" in metrics(gateway))
        with OtlpCollector(port) as back:
            until(lambda: len(by_request(back)) == REQUESTS + 1)
            assert ids < by_request(back).keys()
            gateway.call("POST", "/api/v1/generate", {"user_id": "u", "service": "s", "prompt": "Hello"})
            until(lambda: len(by_request(back)) == REQUESTS + 2)
            check_sums(gateway, [*collector.spans, *back.spans])
            assert "llm_gateway_otlp_up 1" in metrics(gateway)
            gateway.stop()
            report = back.metrics[-1]
        names = {metric.name for metric in report}
        assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} < names
        check_log(gateway)
    assert not (tmp_path / "data" / "feed.positions.new").exists()


def metrics(gateway: GatewayProcess) -> str:
    return gateway.call("GET", "/metrics").body.decode()


def check_trace(gateway: GatewayProcess, collector: OtlpCollector, request_id: str) -> None:
    """Check the spans, the log record and the usage record of the first request."""
    server, client = sorted(collector.spans, key=lambda span: int(span.kind))
    attempt = attributes(client.attributes)
    assert {server.trace_id.hex(), client.trace_id.hex()} == {TRACE}
    assert (server.parent_span_id.hex(), client.parent_span_id) == (PARENT, server.span_id)
    assert (server.name, client.name) == ("chat traced/ok", "chat ok")
    assert [event.name for event in server.events] == ["llm_gateway.first_token"]
    assert attempt["server.address"] == "127.0.0.1"
    assert attempt["gen_ai.response.time_to_first_chunk"] >= 0
    [log] = collector.logs
    assert (log.trace_id, log.span_id) == (server.trace_id, server.span_id)
    stored = gateway.call("GET", f"/api/v1/usage/records/{request_id}").json
    assert stored["traceparent"] == f"00-{TRACE}-{PARENT}-01"


def check_sums(gateway: GatewayProcess, spans: list[Any]) -> None:
    """Check that costs of spans add up to the report's."""
    found = [attributes(span.attributes) for span in spans]
    report = gateway.call("GET", "/api/v1/usage/summary").json
    reported = round(report["total_cost_usd"] * 1e9)
    assert reported > 0
    for name in ("llm_gateway.cost_usd", "llm_gateway.total.cost_usd"):
        assert sum(round(each[name] * 1e9) for each in found if name in each) == reported
    assert {"500", "model_not_found"} <= {each.get("error.type") for each in found}
    assert len({span.span_id for span in spans}) == len(spans)


def check_log(gateway: GatewayProcess) -> None:
    """Check the gateway's own log: the trace context, one line for each change of state, and no secret."""
    lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    assert [line["traceparent"] for line in lines if line.get("traceparent")] == [f"00-{TRACE}-{PARENT}-01"]
    told = [line["event"] for line in lines if "collector" in line["event"]]
    assert told == [
        "the OTLP collector does not take telemetry: it waits in the journal",
        "the OTLP collector takes telemetry again",
    ]
    assert "secret of the collector" not in gateway.log
