from __future__ import annotations

from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from llm_gateway.domain.usage import encode_record
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.directory_transfer import DirectoryTransfer
from llm_gateway.journal.record_delivery import BATCH_RECORDS
from llm_gateway.journal.segments import Position, WriterDir
from tests.journal.samples import (
    Database,
    Heard,
    frame,
    intent,
    locked,
    record,
    request_id,
    resealed,
    settled,
    settled_frames,
)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def quarantined(directory: WriterDir) -> list[dict[str, object]]:
    lines = (directory.path.parent / "quarantine.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


def drain(transfer: DirectoryTransfer, limit: Position | None = None) -> int:
    total, is_more = 0, True
    while is_more:
        moved, is_more = transfer.step(limit)
        total += moved
    return total


def test_settled_records_are_moved_in_batches(tmp_path: Path, database: Database, heard: Heard) -> None:
    transfer = DirectoryTransfer(locked(tmp_path, {1: settled_frames(range(2200))}), database, log=heard)

    moved, is_more = transfer.step(None)
    assert (moved >= 2000, is_more) == (True, True)
    rest, is_more = transfer.step(None)
    assert (moved + rest, is_more) == (2200, False)
    assert transfer.step(None) == (0, False)
    assert database.numbers() == list(range(2200))
    assert max(len(batch) for batch in database.batches) <= 2000
    assert heard.events == []


def test_the_checkpoint_never_passes_an_open_request(tmp_path: Path, database: Database, heard: Heard) -> None:
    before, opened, after = settled_frames(range(3)), frame("I", 50, intent(50)), settled_frames(range(3, 6))
    closing = frame("S", 50, settled(50))
    directory = locked(tmp_path, {1: before + opened + after + closing})
    transfer = DirectoryTransfer(directory, database, log=heard)

    drain(transfer, Position(1, len(before + opened + after)))
    assert directory.checkpoint() == Position(1, len(before))
    assert transfer.open_requests == 1

    drain(transfer, Position(1, len(before + opened + after + closing)))
    assert directory.checkpoint() == Position(1, len(before + opened + after + closing))
    assert transfer.open_requests == 0
    assert database.numbers() == [*range(6), 50]


def test_the_checkpoint_waits_for_the_database(tmp_path: Path, database: Database, heard: Heard) -> None:
    content = settled_frames(range(3))
    directory = locked(tmp_path, {1: content, 2: b""})
    transfer = DirectoryTransfer(directory, database, log=heard)
    database.before = [StoreUnavailable("gone"), StoreUnavailable("gone")]

    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            transfer.step(Position(1, len(content)))
        assert directory.checkpoint() == Position(1, 0)

    assert transfer.step(Position(1, len(content))) == (0, False)
    assert database.numbers() == [0, 1, 2]
    assert directory.checkpoint() == Position(1, len(content))


def test_while_the_database_is_down_no_more_than_a_batch_is_read(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    transfer = DirectoryTransfer(locked(tmp_path, {1: settled_frames(range(7000))}), database, log=heard)
    database.is_down = StoreUnavailable("gone")
    for _ in range(4):
        with pytest.raises(StoreUnavailable):
            transfer.step(None)
    assert len({tuple(batch) for batch in database.batches}) == 1

    database.is_down = None
    transfer.step(None)
    assert len(database.stored) < 3 * BATCH_RECORDS
    drain(transfer)
    assert database.numbers() == list(range(7000))


def test_there_may_be_more_after_exactly_a_batch(tmp_path: Path, database: Database, heard: Heard) -> None:
    directory = locked(tmp_path, {1: settled_frames(range(BATCH_RECORDS)), 2: settled_frames(range(2000, 2003))})
    transfer = DirectoryTransfer(directory, database, log=heard)

    assert transfer.step(None) == (BATCH_RECORDS, True)
    assert transfer.step(None) == (3, False)


def test_an_unchanged_checkpoint_is_not_written_again(tmp_path: Path, database: Database, heard: Heard) -> None:
    directory = locked(tmp_path, {1: settled_frames(range(3))})
    transfer = DirectoryTransfer(directory, database, log=heard)
    transfer.step(None)
    before = (directory.path / "checkpoint").stat()

    transfer.step(None)

    after = (directory.path / "checkpoint").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_segments_without_open_requests_are_deleted(tmp_path: Path, database: Database, heard: Heard) -> None:
    second = settled_frames(range(10)) + frame("I", 50, intent(50))
    directory = locked(
        tmp_path,
        {
            1: settled_frames(range(3)),
            2: second,
            3: settled_frames(range(10, 20)),
            4: frame("S", 50, settled(50)),
            5: b"",
        },
    )
    transfer = DirectoryTransfer(directory, database, log=heard)

    drain(transfer, Position(3, 0))
    assert directory.segments() == [2, 3, 4, 5]
    drain(transfer, Position(4, 0))
    assert directory.segments() == [2, 4, 5]
    drain(transfer, Position(4, len(frame("S", 50, settled(50)))))
    assert directory.segments() == [4, 5]
    drain(transfer, Position(5, 0))
    assert directory.segments() == [5]
    assert database.numbers() == [*range(20), 50]


def test_a_new_transfer_after_segments_were_deleted_counts_nothing_twice(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    first = frame("I", 50, intent(50)) + frame("I", 1, intent(1))
    directory = locked(tmp_path, {1: first, 2: frame("S", 1, settled(1)), 3: b""})
    transfer = DirectoryTransfer(directory, database, log=heard)
    drain(transfer, Position(3, 0))
    assert directory.segments() == [1, 3]

    anew = DirectoryTransfer(directory, database, log=heard)
    drain(anew)

    assert anew.abandon() == 2
    assert database.numbers() == [1, 50]
    assert database.stored[request_id(1)].outcome == "ok"
    assert database.stored[request_id(50)].error_code == "gateway_crashed"


def test_segments_are_deleted_even_if_the_checkpoint_cannot_be_written(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    directory = locked(tmp_path, {1: settled_frames(range(3)), 2: settled_frames(range(3, 6))})
    (directory.path / "checkpoint.new").mkdir()

    drain(DirectoryTransfer(directory, database, log=heard))

    assert directory.segments() == [2]
    assert database.numbers() == list(range(6))


def test_records_read_before_the_journal_failed_are_not_lost(tmp_path: Path, database: Database, heard: Heard) -> None:
    directory = locked(tmp_path, {1: settled_frames(range(3))})
    (directory.path / "000002.seg").mkdir()
    transfer = DirectoryTransfer(directory, database, log=heard)

    with pytest.raises(IsADirectoryError):
        transfer.step(None)
    assert database.numbers() == []

    (directory.path / "000002.seg").rmdir()
    (directory.path / "000002.seg").write_bytes(resealed(settled_frames(range(3, 5)), 2))
    transfer.close()
    assert drain(transfer) == 5
    assert database.numbers() == [0, 1, 2, 3, 4]


def test_an_undecodable_entry_is_quarantined(tmp_path: Path, database: Database, heard: Heard) -> None:
    directory = locked(tmp_path, {1: frame("S", 1, b'{"version":9}') + frame("S", 2, settled(2))})

    assert drain(DirectoryTransfer(directory, database, log=heard)) == 1

    assert database.numbers() == [2]
    assert quarantined(directory) == [
        {"request_id": request_id(1), "reason": "Object missing required field `id`", "payload": '{"version":9}'}
    ]
    assert heard.events[0][1]["request_id"] == request_id(1)


def test_an_entry_that_cannot_be_quarantined_yet_is_quarantined_later(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    directory = locked(tmp_path, {1: frame("S", 1, b"{}") + frame("S", 2, b"{}")})
    file = directory.path.parent / "quarantine.jsonl"
    file.mkdir()
    transfer = DirectoryTransfer(directory, database, log=heard)
    with pytest.raises(StoreUnavailable):
        drain(transfer)
    assert directory.checkpoint() == Position(1, 0)

    file.rmdir()
    drain(transfer)

    assert len(quarantined(directory)) == 2
    assert directory.checkpoint() > Position(1, 0)


def test_an_abandoned_record_that_the_database_refuses_is_quarantined(
    tmp_path: Path, database: Database, heard: Heard
) -> None:
    directory = locked(tmp_path, {1: frame("I", 1, intent(1)) + frame("I", 2, b"{}")})
    database.refused = {request_id(1)}
    transfer = DirectoryTransfer(directory, database, log=heard)
    drain(transfer)

    assert transfer.abandon() == 1
    assert len(quarantined(directory)) == 2


@pytest.mark.parametrize(("mark", "segment"), [(b"J2", 1), (b"J1", 0)])
def test_client_text_that_looks_like_an_entry_is_not_read_as_one(
    tmp_path: Path, database: Database, heard: Heard, mark: bytes, segment: int
) -> None:
    tail = b'","service":"service","task_type":"general","surface":"generate"}'
    payload = encode_record(record(1, user_id="@"))
    assert payload.endswith(tail)
    forged = b"S " + request_id(666).encode() + b" {"
    head = mark + b" %08x " % crc32(forged + tail, segment)
    evil = frame("S", 1, payload.replace(b"@", head + forged))
    damaged = b"j" + evil[1:]

    directory = locked(tmp_path, {1: evil + damaged + frame("S", 2, settled(2))})
    drain(DirectoryTransfer(directory, database, log=heard))

    assert database.numbers() == [1, 2]
    assert database.stored[request_id(1)].user_id == (head + forged).decode()
    assert [line["payload"] for line in quarantined(directory)] == [(b"{" + tail).decode()]


def test_a_damaged_segment_is_kept_and_logged(tmp_path: Path, database: Database, heard: Heard) -> None:
    content = settled_frames(range(1))
    directory = locked(tmp_path, {1: content + b"xyz\n" + frame("S", 2, settled(2))})

    drain(DirectoryTransfer(directory, database, log=heard))

    kept = directory.path.with_name("writer-000001.seg.damaged")
    fields = {
        "level": "error",
        "file": str(directory.segment(1)),
        "offset": len(content),
        "bytes": 4,
        "kept": str(kept),
    }
    assert kept.read_bytes() == directory.segment(1).read_bytes()
    assert heard.events == [("the usage journal is damaged", fields)]
    assert database.numbers() == [0, 2]
