"""The event loop's lateness is measured."""

from __future__ import annotations

import asyncio
import time

from llm_gateway.worker.loop_lag import LoopLag
from tests.waiting import until


async def test_a_loop_that_is_kept_busy_is_seen_as_late() -> None:
    lag = LoopLag(every_s=0.001)
    measuring = asyncio.create_task(lag.run())
    await until(lambda: lag.family().samples)
    before = {sample.labels.get("le"): sample.value for sample in lag.family().samples if sample.suffix == "_bucket"}
    time.sleep(0.06)  # noqa: ASYNC251 - it keeps the loop busy
    await until(lambda: lag.family().samples[-2].value > before["+Inf"])
    measuring.cancel()
    after = {sample.labels.get("le"): sample.value for sample in lag.family().samples if sample.suffix == "_bucket"}
    assert after["+Inf"] - after["0.05"] >= 1
    assert lag.family().samples[-1].value >= 0.05
    assert lag.family().name == "llm_gateway_loop_lag_seconds"
