"""Hosts on one Postgres database: ids, beats, the leader, and the refusal of copied data directories."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from llm_gateway.control.hosts import FILE, LEAD_S, WATCH_S, Hosts, Machine, beat_forever
from llm_gateway.errors import ConfigurationError, Conflict, NotFound
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.hosts import Beat, SecretNames, follow_clock
from llm_gateway.store.migrations import HEAD, OLDEST
from llm_gateway.store.tables import LIVING_S
from llm_gateway.wall_clock import WallClock
from tests.application.driver import ignore
from tests.databases import PostgresDatabases, postgres
from tests.e2e.process import write_migrated
from tests.store.test_concurrent_hosts import together

__all__ = ["postgres"]

KEYS = SecretNames(("one",), ("1:one",))
HOUR_NS = 3_600_000_000_000


@pytest.fixture
def database(postgres: PostgresDatabases) -> Iterator[Database]:
    with postgres.migrated() as url, closing(Database.open(url, fsync=False)) as database:
        yield database


class Machines:
    """Data directories on machines of their own, and a clock that only sleeping moves."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self.database = database
        self.now = 100.0
        self.while_asleep: Hosts | None = None
        self.logged: list[str] = []

    def host(self, name: str) -> Hosts:
        (self.root / name).mkdir(exist_ok=True)
        return Hosts(self.root / name, self.log, lambda: self.now, self.sleep)

    def started(self, name: str, secrets: SecretNames = KEYS) -> Hosts:
        host = self.host(name)
        host.claim(self.database, secrets)
        return host

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.while_asleep is not None:
            self.while_asleep.beat()

    def log(self, event: str, **_: object) -> None:
        self.logged.append(event)

    def age(self, host: Hosts, seconds: float) -> None:
        """Let the last beat of a host be older."""
        with self.database.write() as connection:
            older = "UPDATE hosts SET beat_at_ms = beat_at_ms - :age WHERE id = :id"
            connection.execute(sa.text(older), {"age": round(seconds * 1000), "id": host.id})


@pytest.fixture
def machines(tmp_path: Path, database: Database) -> Machines:
    return Machines(tmp_path, database)


def test_hosts_count_each_other_and_the_first_one_leads_until_it_is_silent(machines: Machines) -> None:
    first, second = machines.started("one"), machines.started("two")
    first.beat()
    assert (first.living, second.living) == (2, 2)
    assert (first.leads(), second.leads()) == (True, False)
    machines.now += LEAD_S
    assert not first.leads()  # it has not beaten since: another one may take its place
    machines.age(first, LIVING_S)
    second.beat()
    assert (second.living, second.leads()) == (1, True)
    first.beat()
    second.beat()
    assert (first.leads(), second.leads()) == (True, False)


def test_a_host_whose_clock_is_wrong_follows_that_of_the_database(machines: Machines) -> None:
    wrong_by = [HOUR_NS]
    wrong = WallClock(lambda: time.time_ns() + wrong_by[0])
    (machines.root / "one").mkdir()
    host = Hosts(machines.root / "one", machines.log, lambda: machines.now, machines.sleep, wrong)
    host.claim(machines.database, KEYS)
    host.beat()
    assert abs(wrong.time_ns() - time.time_ns()) < 1e9
    assert machines.logged == ["this host's clock differs from that of the database"]
    wrong_by[0] = 0
    host.beat()
    assert (machines.logged[1:], wrong.offset_ms) == (["this host's clock agrees with that of the database again"], 0)


def test_a_command_takes_over_the_clock_of_the_database(database: Database) -> None:
    right, wrong = WallClock(), WallClock(lambda: time.time_ns() - HOUR_NS)
    for clock in (right, wrong):
        follow_clock(database, clock)
    assert (right.offset_ms, round(wrong.offset_ms / 10_000)) == (0, 360)


def test_a_restart_in_the_same_place_goes_on_at_once_with_the_same_id(machines: Machines) -> None:
    first, second = machines.started("one"), machines.started("two")
    before = machines.now
    again = machines.started("one")
    assert (again.id, again.living, machines.now) == (first.id, 2, before)
    assert not again.leads()
    first.beat()
    assert machines.logged == ["another gateway runs with the id of this host"]
    second.beat()
    assert second.leads()


def test_a_host_without_a_disk_is_known_by_its_machine(machines: Machines, tmp_path: Path) -> None:
    def start(name: str, machine: str = "gateway-0") -> Hosts:
        (tmp_path / name).mkdir(exist_ok=True)
        known = Machine(machine, is_host=True)
        host = Hosts(tmp_path / name, machines.log, lambda: machines.now, machines.sleep, machine=known)
        host.claim(machines.database, KEYS)
        return host

    first, other = start("first"), start("other", "gateway-1")
    again = start("empty")
    assert (again.id, again.name, again.living) == (first.id, "gateway-0", 2)
    assert other.id != first.id
    machines.while_asleep = again
    with pytest.raises(ConfigurationError, match=r"^Another gateway runs .* on a machine named gateway-0, as this one"):
        start("third")
    assert start("third", "gateway-2").living == 3, "what it is told to do helps, on the same directory"
    machines.while_asleep = None
    renamed = start("other", "blue")
    assert (renamed.id, renamed.name) == (other.id, "blue"), "a directory that was not lost keeps the host's id"
    (tmp_path / "other" / FILE).unlink()
    assert start("other", "blue").id not in {other.id, first.id}


def test_a_copied_data_directory_is_refused_while_the_other_one_runs(machines: Machines) -> None:
    machines.while_asleep = machines.started("one")
    shutil.copytree(machines.root / "one", machines.root / "copy")
    with pytest.raises(ConfigurationError, match=r"copy is a copy of that of a gateway that runs on the same database"):
        machines.started("copy")
    machines.while_asleep = None
    started = machines.now
    moved = machines.started("copy")  # the other one is gone: this is its data directory, on another machine
    assert machines.now - started >= WATCH_S
    assert (moved.living, moved.leads()) == (1, True)
    assert machines.logged[-1] == "waiting whether the last gateway with this host's id still runs"


def test_of_two_copies_that_start_at_once_one_is_refused(machines: Machines) -> None:
    machines.host("one")
    shutil.copytree(machines.root / "one", machines.root / "copy")
    hosts, refused = [machines.host("one"), machines.host("copy")], list[ConfigurationError]()
    machines.while_asleep = None

    def start(host: Hosts) -> None:
        try:
            host.claim(machines.database, KEYS)
        except ConfigurationError as error:
            refused.append(error)
        else:
            machines.while_asleep = host

    together(*(partial(start, host) for host in hosts))
    assert len(refused) == 1


def test_hosts_with_keys_that_do_not_fit_together_are_refused(machines: Machines) -> None:
    machines.started("one", SecretNames(("old", "new"), ("1:one",)))
    with pytest.raises(ConfigurationError, match=r"uses another encryption key.*set LLM_GATEWAY_ENCRYPTION_KEYS"):
        machines.started("two", KEYS)
    with pytest.raises(ConfigurationError, match=r"uses another pepper.*set LLM_GATEWAY_KEY_PEPPERS"):
        machines.started("two", SecretNames(("old",), ("1:two",)))
    assert machines.started("two", SecretNames(("new", "old"), ("1:one",))).living == 2  # keys that are being changed


def test_only_hosts_that_are_gone_can_be_removed(machines: Machines, tmp_path: Path) -> None:
    first, second = machines.started("one"), machines.started("two")
    audit = AuditTrail(machines.database, tmp_path, fsync=False)
    with pytest.raises(Conflict, match="was there a moment ago: stop it, and wait 15 seconds"):
        first.remove(second.id, audit)
    machines.age(second, LIVING_S)
    before = first.changes()
    first.remove(second.id, audit)
    assert [host.id for host in first.list()] == [first.id]
    assert first.changes() != before
    with pytest.raises(NotFound):
        first.remove(second.id, audit)
    second.beat()  # it was only out of reach: it is there again
    assert second.living == 2


def test_on_sqlite_a_host_is_alone_and_stores_nothing(tmp_path: Path) -> None:
    write_migrated(tmp_path / "gateway.db")
    with closing(Database.open(f"sqlite:///{tmp_path / 'gateway.db'}", fsync=False)) as database:
        host = Hosts(tmp_path, ignore)
        host.claim(database, KEYS)
        assert (host.living, host.leads(), host.is_shared, host.beat()) == (1, True, False, None)
        assert [(each.id, each.is_living) for each in host.list()] == [(host.id, True)]
        audit = AuditTrail(database, tmp_path, fsync=False)
        with pytest.raises(Conflict):
            host.remove(host.id, audit)
        with pytest.raises(NotFound):
            host.remove("01890000-0000-7000-8000-000000000000", audit)


async def test_beats_go_on_when_one_or_a_reload_fails_or_takes_long(machines: Machines) -> None:
    beats, gate, tried, failing = [0], threading.Event(), [0], [True, True]

    class Counted(Hosts):
        def beat(self) -> Beat | None:
            beats[0] += 1
            if beats[0] in (2, 3):
                raise RuntimeError(beats[0])
            return super().beat()

    def changed(_: int) -> None:
        tried[0] += 1
        if failing:
            raise ValueError(failing.pop())
        gate.wait(10)

    (machines.root / "one").mkdir()
    host = Counted(machines.root / "one", machines.log)
    host.claim(machines.database, KEYS)  # the first beat
    wake = asyncio.Event()
    beating = asyncio.create_task(beat_forever(host, changed, machines.log, wake))

    async def reach(count: int) -> None:
        async with asyncio.timeout(10):
            while beats[0] < count or tried[0] < 3:
                wake.set()
                await asyncio.sleep(0.01)

    await reach(6)
    await reach(beats[0] + 3)  # the third reload still runs
    assert tried[0] == 3
    gate.set()
    beating.cancel()
    with suppress(asyncio.CancelledError):
        await beating
    assert sorted(machines.logged) == [
        "changes of other hosts are not in force",
        "this host cannot tell the others that it lives",
    ]


def test_a_host_that_an_upgrade_has_overtaken_is_refused(machines: Machines) -> None:
    with machines.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(sa.text("UPDATE compatibility SET oldest = '9998'"))
    with pytest.raises(ConfigurationError, match="not those of this version"):
        machines.started("one")
    with machines.database.write() as connection:  # the database is used again
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{HEAD}'"))
        connection.execute(sa.text(f"UPDATE compatibility SET oldest = '{OLDEST}'"))


def test_a_file_without_an_id_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("nonsense")
    with pytest.raises(ConfigurationError, match=r"host\.id holds no id: restore it, or delete it"):
        Hosts(tmp_path, ignore)
    (tmp_path / FILE).unlink()
    assert Hosts(tmp_path, ignore).id == Hosts(tmp_path, ignore).id
