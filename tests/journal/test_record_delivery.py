from __future__ import annotations

import resource
from pathlib import Path

import msgspec
import pytest

from llm_gateway.domain.usage import UsageRecord, decode_record
from llm_gateway.errors import StoreUnavailable
from llm_gateway.journal.record_delivery import BATCH_RECORDS, Quarantine, QuarantineCount, RecordDelivery
from tests.journal.samples import Database, Heard, attempt, open_files, record, request_id


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "quarantine.jsonl"


@pytest.fixture
def delivery(database: Database, file: Path, heard: Heard) -> RecordDelivery:
    return RecordDelivery(database, Quarantine(file, heard))


def records(count: int) -> list[UsageRecord]:
    return [record(number) for number in range(count)]


def sizes(database: Database) -> list[int]:
    return [len(batch) for batch in database.batches]


def test_records_come_in_order_in_batches(delivery: RecordDelivery, database: Database) -> None:
    delivery.add(records(2 * BATCH_RECORDS + 1))
    delivery.run()

    assert sizes(database) == [2000, 2000, 1]
    assert list(database.stored) == [request_id(number) for number in range(4001)]


def test_without_records_the_sink_is_not_called(delivery: RecordDelivery, database: Database) -> None:
    delivery.add([])
    delivery.run()

    assert database.batches == []


def test_a_refused_record_is_quarantined_and_the_rest_of_its_batch_stored(
    delivery: RecordDelivery, database: Database, file: Path, heard: Heard
) -> None:
    database.refused = {request_id(5)}
    delivery.add([record(n, attempt("a"), user_id="b") if n == 5 else record(n) for n in range(8)])
    delivery.run()

    assert database.numbers() == [0, 1, 2, 3, 4, 6, 7]
    assert sizes(database) == [8, 4, 4, 2, 1, 1, 2]
    kept = msgspec.json.decode(file.read_bytes())
    assert kept["reason"] == "a value is out of range"
    assert decode_record(msgspec.json.encode(kept["record"])) == record(5, attempt("a"), user_id="b")
    assert heard.events == [
        (
            "a usage record cannot be stored: moved to the quarantine file",
            {
                "level": "error",
                "request_id": request_id(5),
                "reason": "a value is out of range",
                "file": str(file),
            },
        )
    ]


def test_the_quarantine_file_has_one_line_per_record_and_mode_0600(
    delivery: RecordDelivery, database: Database, file: Path
) -> None:
    database.refused = {request_id(0), request_id(2)}
    delivery.add(records(3))
    delivery.run()

    lines = file.read_bytes().splitlines()
    assert [msgspec.json.decode(line)["record"]["id"] for line in lines] == [request_id(0), request_id(2)]
    assert file.stat().st_mode & 0o777 == 0o600
    assert database.numbers() == [1]


def test_records_left_by_a_failure_are_delivered_by_the_next_run(delivery: RecordDelivery, database: Database) -> None:
    delivery.add(records(BATCH_RECORDS + 1))
    database.after = [StoreUnavailable("an ambiguous commit")]
    with pytest.raises(StoreUnavailable, match="ambiguous"):
        delivery.run()

    delivery.run()
    delivery.run()

    assert sizes(database) == [2000, 2000, 1]
    assert database.numbers() == list(range(2001))


def test_later_records_are_delivered_after_those_a_failure_left(delivery: RecordDelivery, database: Database) -> None:
    delivery.add(records(BATCH_RECORDS + 1))
    database.before = [StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable):
        delivery.run()

    delivery.add([record(5000)])
    delivery.run()

    assert database.numbers() == [*range(2001), 5000]
    assert sizes(database) == [2000, 1, 2000, 1] or sizes(database) == [2000, 2000, 1, 1]


def test_a_failure_while_bisecting_quarantines_no_record_twice(
    delivery: RecordDelivery, database: Database, file: Path
) -> None:
    database.refused = {request_id(0)}
    delivery.add(records(4))
    store = database.__call__
    calls = 0

    def failing(batch: list[UsageRecord]) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 5):
            raise StoreUnavailable("gone")
        store(batch)

    delivery._sink = failing
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            delivery.run()
    delivery.run()

    assert database.numbers() == [1, 2, 3]
    assert len(file.read_bytes().splitlines()) == 1


def test_a_record_is_not_quarantined_again_after_a_crash(database: Database, file: Path, heard: Heard) -> None:
    database.refused = {request_id(0), request_id(1)}
    for count in (1, 2, 2):
        delivery = RecordDelivery(database, Quarantine(file, heard))
        delivery.add(records(count))
        delivery.run()

    lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert [line["request_id"] for line in lines] == [request_id(0), request_id(1)]
    assert len(heard.events) == 5


def test_a_torn_line_of_the_quarantine_file_spoils_no_other(
    delivery: RecordDelivery, database: Database, file: Path
) -> None:
    file.write_bytes(b'{"request_id":"torn')
    database.refused = {request_id(0)}
    delivery.add(records(1))
    delivery.run()

    torn, whole, rest = file.read_bytes().split(b"\n")
    assert (torn, rest) == (b'{"request_id":"torn', b"")
    assert msgspec.json.decode(whole)["request_id"] == request_id(0)


def test_a_refused_record_waits_while_the_quarantine_file_cannot_be_written(
    delivery: RecordDelivery, database: Database, file: Path
) -> None:
    file.write_bytes(b"{}\n")
    database.refused = {request_id(0)}
    delivery.add(records(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    descriptors = open_files()
    for limit in (2, 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StoreUnavailable, match=r"quarantine.jsonl cannot be written \((File|No)"):
                delivery.run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert file.read_bytes() == b"{}\n"
    assert open_files() == descriptors

    delivery.run()

    assert len(file.read_bytes().splitlines()) == 2


def test_quarantined_records_are_counted_as_they_come_and_go(file: Path, heard: Heard) -> None:
    count, quarantine = QuarantineCount(file), Quarantine(file, heard)
    assert count() == 0
    for number in range(3):
        quarantine.add(request_id(number), "refused", payload="{}")
        assert count() == number + 1 == QuarantineCount(file)()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:1]))
    assert count() == 1
    file.unlink()
    assert count() == 0


def test_counting_the_quarantine_reads_only_added_lines(file: Path) -> None:
    file.write_bytes(b"x\n" * 1000)
    count = QuarantineCount(file)
    assert count() == 1000
    with file.open("r+b") as changed:
        changed.write(b"\n" * 1000)  # would be counted if it were read again
        changed.seek(0, 2)
        changed.write(b"y\n")
    assert count() == 1001


def test_records_are_freed_a_few_at_a_time(database: Database, file: Path, heard: Heard) -> None:
    """A record is freed with its last reference; no other object keeps one, as in the shipper."""
    left: list[int] = []
    freed: list[int] = []

    class Counted(UsageRecord):
        def __del__(self) -> None:
            freed.append(1)

    delivery = RecordDelivery(lambda _: None, Quarantine(file, heard), lambda: left.append(len(freed)))
    delivery.add([Counted(**msgspec.structs.asdict(record(number))) for number in range(100)])
    delivery.run()

    assert left == [*range(16, 100, 16), 100]
