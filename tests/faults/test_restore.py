"""A restore drill: backups beside full traffic, each put back on another data directory and served from."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.cli.command import execute
from tests.faults.client import Load
from tests.faults.conftest import Note
from tests.faults.ledger import Ledger
from tests.faults.scene import Scene

QUICK, LONG = 1, 10


@pytest.mark.fault(
    "the database is lost and restored",
    "backups under load, each restored elsewhere; a gateway starts on it and serves",
)
async def test_a_backup_made_under_load_is_restored_and_served_from(scene: Scene, note: Note, long: bool) -> None:
    copies = [scene.directory / f"copy-{number}.db" for number in range(LONG if long else QUICK)]
    load, made = Load(), []
    with scene.gateway(accept_seconds=1) as gateway:
        scene.providers(gateway, "fast")
        load.start(gateway.port)
        for copy in copies:
            await asyncio.sleep(1)
            ran = await asyncio.to_thread(execute, "backup", str(copy), "--json", LLM_GATEWAY_DATA_DIR=str(scene.data))
            made.append(ran.json)
        load.stop()
        await load.done()
        ledger = scene.check(gateway, load)
    assert load.statuses.keys() == {200}, load.statuses

    whole = {row.id: row for row in ledger.rows}
    for copy, contents in zip(copies, made, strict=True):
        assert 0 < contents["usage_records"] < len(whole)
        _restore(scene, copy)
        restored = Ledger(copy.with_suffix(""))
        restored.check_sums()
        assert len(restored.rows) == contents["usage_records"]
        assert all(whole[row.id] == row for row in restored.rows)
    drill = Scene(copies[-1].with_suffix(".drill"), scene.mock, scene.journal)
    drill.directory.mkdir()
    copies[-1].with_suffix("").rename(drill.data)
    with drill.gateway() as gateway:
        assert gateway.ask("Hello").status == 200, "the restored provider's key opens"
        assert len(drill.books(gateway).rows) == made[-1]["usage_records"] + 1
    counts = ", ".join(f"{contents['usage_records']}" for contents in made)
    note(f"{len(whole)} requests, 0 failed; {len(copies)} backups with {counts} records, each complete and exact")


def _restore(scene: Scene, copy: Path) -> None:
    """Restore the copy into a directory of its own, named as the copy, with the encryption key kept elsewhere."""
    directory = copy.with_suffix("")
    directory.mkdir(mode=0o700)
    shutil.copy(scene.data / "encryption.key", directory / "encryption.key")
    ran = execute("restore", str(copy), "--json", LLM_GATEWAY_DATA_DIR=str(directory))
    assert ran.json["unreadable_keys"] == []
