"""A worker that ends: the others get at once what it had held and counted for requests that do not come any more."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from llm_gateway.domain.service_key import KeyLimit
from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.limiter.key_window import CALLS_AHEAD, PART
from llm_gateway.limiter.shared_keys import SharedKeyLimiter
from llm_gateway.settings import Settings
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.app import Worker, WorkerDependencies
from tests.limiter.taking import Clock
from tests.worker.pipeline.fakes import request, snapshot


async def test_calls_of_a_key_that_were_counted_ahead_are_given_back(tmp_path: Path) -> None:
    descriptor, rpm = create(), CALLS_AHEAD * PART + 30
    memory, clock = HostMemory(descriptor), Clock()
    own, other = (SharedKeyLimiter(memory, number, clock) for number in (1, 2))
    journal = JournalWriter.open(tmp_path, fsync="off")
    worker = Worker(
        WorkerDependencies(
            settings=msgspec.structs.replace(Settings(), workers=2),
            snapshot=lambda: snapshot([]),
            egress=Egress(strict=False),
            journal=journal,
            observe=lambda _: None,
            redact=Redactor(),
            log=lambda *_, **__: None,
            key_limiter=own,
            host=(memory, WorkerPlace(memory, 1)),
        )
    )
    for number in range(3):  # the second one counts others ahead
        assert worker._key_limits.admit(request(id=f"{number}"), (KeyLimit("own", rpm=rpm),)) is None
    assert other.state("own", rpm, 10**9).remaining_requests == rpm - 2 - CALLS_AHEAD

    await worker.close()

    assert other.state("own", rpm, 10**9).remaining_requests == rpm - 3
    await journal.sync_and_close()
    os.close(descriptor)
