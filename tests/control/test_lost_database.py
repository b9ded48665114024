"""A control process that is started again makes no empty database in the place of the one that is gone."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_gateway.control.process import ControlProcess
from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory import create
from llm_gateway.settings import Settings
from llm_gateway.telemetry.process_log import open_log


async def test_a_database_that_is_gone_is_made_at_a_start_of_the_gateway_only(tmp_path: Path) -> None:
    output = open_log(level="error", form="json", secrets=[])
    settings = Settings(data_dir=tmp_path, local_model="false")
    file = tmp_path / "gateway.db"
    prepared: list[int] = []

    async def start(memory: int) -> None:
        process = ControlProcess(settings, output, memory=memory, on_prepared=lambda: prepared.append(memory))
        with ThreadPoolExecutor() as threads:  # the end of a process ends its threads: none uses the file afterwards
            asyncio.get_running_loop().set_default_executor(threads)
            async with process._stack:
                await process._open()

    memory = create()
    for _ in range(2):
        await start(memory)
    file.rename(tmp_path / "elsewhere.db")
    with pytest.raises(StoreUnavailable, match=r"gateway\.db, which this gateway uses, is gone: put it back\."):
        await start(memory)
    assert not file.exists()
    assert prepared == [memory] * 2, "a reload is refused while the old control process still runs"
    await start(create())
    assert file.exists()
