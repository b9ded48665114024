"""Heartbeat of this host in the database, the number of living hosts, and which of them is the leader.

    start ──▶ claim ──(row free)──▶ beat each second ──▶ living, leads, changes
                └──(another process beats with this id)──▶ refused: the data directory is a copy

`Hosts.id` and `Hosts.living` are for whatever is shared among hosts: leases of budgets, shares of limits. The leader is
the living host that started first. Two are never leaders by their own clocks: a host leads for `LEAD_S` after its last
beat, and another one takes its place `LIVING_S` after it. A step that a former leader has begun may still run then, so
jobs of the leader are safe beside each other; that only one does them saves work.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from llm_gateway import __version__
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.settings import Settings
from llm_gateway.store import migrations
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.hosts import BEAT_S, Beat, Host, HostClaim, HostTable, SecretNames, living
from llm_gateway.store.secrets import create_secret_file
from llm_gateway.wall_clock import CLOCK, TOLERATED_MS, WallClock

FILE = "host.id"
"""File in the data directory with the id of this host."""
WATCH_S, LOOK_S = 3.0, 0.25
"""Seconds for which a row must have no further beat until its host counts as gone, and between two looks at it."""
LEAD_S = 5.0
"""Seconds after its last beat for which a host may be the leader."""
MACHINES = uuid.UUID("6d0f9a0e-6f0c-5b7c-8a53-2f1f4a2d7e10")
"""Namespace of ids that are made of machines' names (RFC 9562, version 5)."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Machine(NamedTuple):
    """Name of a machine. `is_host`: its host is known by that name, and not by its data directory."""

    name: str
    is_host: bool = False


class Hosts:
    """This host and the others of its database.

    Args:
        directory: the data directory, which must be locked.
        log: `log(event, level=…, **fields)`.
        clock: monotonic time in seconds.
        sleep: waits in the calling thread.
        machine: name of this machine, and whether the host is known by it.
        wall: the time of day, which follows the database's clock.

    Raises:
        ConfigurationError: the file with the id cannot be read or made.
    """

    def __init__(
        self,
        directory: Path,
        log: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: WallClock = CLOCK,
        *,
        machine: Machine | None = None,
    ) -> None:
        self._directory = directory
        machine = self._machine = machine or Machine(socket.gethostname())
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._wall = wall
        self._claim = HostClaim(
            id=_id_of(directory / FILE, machine),
            name=machine.name,
            version=__version__,
            tables=migrations.HEAD,
            run=new_id(),
            place=_place_of(directory),
        )
        self._started_ms = wall.now_ms()
        self._table: HostTable | None = None
        self._is_alone = True
        self._known: tuple[Host, ...] = ()
        self._beat_at = clock()
        self._is_lost = False

    @property
    def id(self) -> str:
        """The id of this host, the same for the life of its data directory, or of its machine's name."""
        return self._claim.id

    @property
    def living(self) -> int:
        """The number of hosts that live, this one included, as of the last beat that the database answered."""
        return max(1, sum(host.is_living for host in self._known))

    @property
    def living_ids(self) -> frozenset[str]:
        """The ids of the hosts that live, as of the last beat that the database answered, and that of this one."""
        return frozenset(host.id for host in self._known if host.is_living) | {self.id}

    @property
    def is_shared(self) -> bool:
        """True on a database that hosts can share, even if this one is alone."""
        return not self._is_alone

    @property
    def name(self) -> str:
        """The name of this host's machine."""
        return self._claim.name

    def leads(self) -> bool:
        """Return whether this host does what only one of the hosts must do."""
        if self._is_alone:
            return True
        first = next((host for host in self._known if host.is_living), None)
        return first is not None and first.run == self._claim.run and self._clock() - self._beat_at < LEAD_S

    def claim(self, database: Database, secrets: SecretNames) -> None:
        """Say that this host starts. Call it before anything of the data directory goes to the database.

        Raises:
            ConfigurationError: the data directory is a copy of that of a running host, or other hosts have other keys.
            StoreUnavailable: the database does not answer.
        """
        self._table = table = HostTable(database)
        self._is_alone = database.is_sqlite
        if self._is_alone:
            return
        claim = self._claim = msgspec.structs.replace(self._claim, secrets=secrets)
        refuse_other_secrets(self.id, secrets, table.list())
        holder = table.claim(claim)
        if holder is not None:
            self._wait_for_silence(table, holder)
        load_or_create_id(self._directory / FILE, claim.id)
        self.beat()

    def beat(self) -> Beat | None:
        """Say that this host lives, and note who else does. Returns what there is to know; None on SQLite.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._table is None or self._is_alone:
            return None
        started, asked_ms = self._clock(), self._wall.now_ms()
        beat = self._table.beat(self._claim)
        self._follow_clock(asked_ms, beat.now_ms)
        if not beat.is_own and all(host.id != self.id for host in beat.hosts):
            self._table.claim(self._claim)  # it was removed while the database was out of reach
            beat = self._table.beat(self._claim)
        if not beat.is_own and not self._is_lost:
            self._log(
                "another gateway runs with the id of this host",
                level="error",
                host=self.id,
                advice="One data directory is a copy of the other: stop one of the two gateways.",
            )
        self._is_lost = not beat.is_own
        self._known, self._beat_at = beat.hosts, started
        return beat

    def changes(self) -> int:
        """Return a number that is another one after each management write of any host; always 0 on SQLite.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        return 0 if self._table is None or self._is_alone else self._table.changes()

    def list(self) -> tuple[Host, ...]:
        """Return all hosts, in the order of their starts, those that are gone included.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        stored = () if self._table is None else self._table.list()
        if not self._is_alone:
            return stored
        now_ms = self._wall.now_ms()
        own = msgspec.structs.asdict(self._claim)
        return (*stored, Host(**own, started_at_ms=self._started_ms, beat_at_ms=now_ms, silent_ms=0))

    def remove(self, host_id: str, audit: AuditTrail) -> None:
        """Remove a host that is gone for good. Raises what `HostTable.remove` raises."""
        if host_id.lower() == self.id:
            raise living(self._claim.name)
        if self._table is not None:
            self._table.remove(host_id, audit)

    def _follow_clock(self, asked_ms: int, database_ms: int) -> None:
        """Take over the time of the database's server, which was read after `asked_ms`, if this host's is wrong."""
        if not self._wall.compare(database_ms, asked_ms, self._wall.now_ms()):
            return
        if abs(self._wall.offset_ms) <= TOLERATED_MS:
            self._wall.correct(0)
            self._log("this host's clock agrees with that of the database again")
        else:
            self._log(
                "this host's clock differs from that of the database",
                level="warning",
                seconds=-self._wall.offset_ms / 1000,
                advice="The gateway follows the database's clock. Let NTP set this host's.",
            )

    def _wait_for_silence(self, table: HostTable, holder: Host) -> None:
        """Claim the row once it is certain that nobody beats there.

        Raises:
            ConfigurationError: somebody does.
        """
        self._log("waiting whether the last gateway with this host's id still runs", host=self.id, at_most_s=WATCH_S)
        seen_ms, until = holder.beat_at_ms, self._clock() + WATCH_S
        while self._clock() < until:
            self._sleep(LOOK_S)
            now = next((host for host in table.list() if host.id == self.id), None)
            if now is not None and now.beat_at_ms != seen_ms:
                raise self._taken(now)
        other = table.claim(self._claim, seen_ms)
        if other is not None:
            raise self._taken(other)

    def _taken(self, other: Host) -> ConfigurationError:
        """Return the error of a start with the id of a host that runs."""
        if self._machine.is_host:
            return ConfigurationError(
                f"Another gateway runs on the same database on a machine named {other.name}, as this one: with "
                "LLM_GATEWAY_JOURNAL=database a host is known by that name. Give each a name of its own by "
                "LLM_GATEWAY_HOST_NAME, or stop the other gateway."
            )
        return ConfigurationError(
            f"The data directory {self._directory} is a copy of that of a gateway that runs on the same database "
            f"(host {other.name}): set LLM_GATEWAY_DATA_DIR to a directory of this gateway's own, or stop the other "
            "one."
        )


async def beat_forever(
    hosts: Hosts, changed: Callable[[int], object], log: Callable[..., None], wake: asyncio.Event | None = None
) -> None:
    """Beat each second, and pass on the number of management writes that the database has seen. Runs until cancelled.

    `wake` asks for a beat at once. `changed` is called in a thread.
    """
    wake = wake or asyncio.Event()
    follower = Follower(changed, log)
    try:
        await _beat_forever(hosts, follower, log, wake)
    finally:
        await follower.stop()


async def _beat_forever(hosts: Hosts, follower: Follower, log: Callable[..., None], wake: asyncio.Event) -> None:
    is_failing = False
    while hosts.is_shared:
        wake.clear()
        try:
            beat = await asyncio.to_thread(hosts.beat)
            if beat is not None:
                follower.tell(beat.changes)
            is_failing = False
        except StoreUnavailable:  # logged by the health check
            pass
        except Exception as error:  # edge: the job logs any failure once and goes on
            if not is_failing:
                log("this host cannot tell the others that it lives", level="error", exc_info=error)
            is_failing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await wake.wait()


class Follower:
    """Follows changes beside the beats, so that a reload that takes long keeps no host from being counted.

    `changed` gets the newest number of management writes, in a thread.
    """

    def __init__(self, changed: Callable[[int], object], log: Callable[..., None]) -> None:
        self._changed = changed
        self._log = log
        self._newest = 0
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    def tell(self, changes: int) -> None:
        """Take over a number; call it in the event loop."""
        self._newest = changes
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        followed: int | None = None
        while followed != self._newest:
            followed = self._newest
            try:
                await asyncio.to_thread(self._changed, followed)
                self._is_failing = False
            except StoreUnavailable:  # logged by the health check
                pass
            except Exception as error:  # edge: the job logs any failure once, and tries again with the next beat
                if not self._is_failing:
                    self._log("changes of other hosts are not in force", level="error", exc_info=error)
                self._is_failing = True


def machine_of(settings: Settings) -> Machine:
    """Return the machine's name, by which a host is known whose data directory does not last."""
    return Machine(settings.name_of_host, is_host=settings.journal == "database")


def _id_of(path: Path, machine: Machine) -> str:
    """Return the id of a host. That of its machine's name is kept only once it is claimed: another one may have it."""
    if machine.is_host and not path.exists():
        return id_of_machine(machine.name)
    return load_or_create_id(path, new_id())


def id_of_machine(name: str) -> str:
    """Return the id of a host that is known by its machine's name."""
    return str(uuid.uuid5(MACHINES, name))


def load_or_create_id(path: Path, new: str) -> str:
    """Return the id in a file, which is made with `new` if it does not exist.

    Raises:
        ConfigurationError: the file cannot be read or made, or holds no id.
    """
    try:
        if not path.exists():
            create_secret_file(path, f"{new}\n".encode())
    except OSError as error:
        raise ConfigurationError(
            f"The file {path} cannot be written ({error.strerror}): free space, or set LLM_GATEWAY_DATA_DIR to a "
            "writable directory."
        ) from None
    try:
        return str(uuid.UUID(path.read_text("ascii").strip()))
    except OSError as error:
        raise ConfigurationError(
            f"The file {path} cannot be read ({error.strerror}): correct its permissions."
        ) from None
    except ValueError:
        raise ConfigurationError(
            f"The file {path} holds no id: restore it, or delete it, and this gateway becomes another host."
        ) from None


def _place_of(directory: Path) -> str:
    """Return a text that is another one for each copy of a directory, and after a restart of the machine.

    The caller holds the directory's lock, so that no process of the same place runs any more.
    """
    found = directory.stat()
    boot = BOOT_ID.read_text("ascii") if BOOT_ID.exists() else ""
    return hashlib.sha256(f"{boot}{found.st_dev}:{found.st_ino}".encode()).hexdigest()


def refuse_other_secrets(own_id: str, ours: SecretNames, hosts: tuple[Host, ...]) -> None:
    """Refuse a start with keys with which living hosts, or this one, could not use what is stored.

    Raises:
        ConfigurationError: one of them encrypts or hashes with a key that another one does not have.
    """
    for host in hosts:
        if host.id == own_id or not host.is_living:
            continue
        theirs = host.secrets
        for noun, setting, own, others in (
            ("encryption key", "LLM_GATEWAY_ENCRYPTION_KEYS", ours.encryption_keys, theirs.encryption_keys),
            ("pepper", "LLM_GATEWAY_KEY_PEPPERS", ours.peppers, theirs.peppers),
        ):
            if own and others and not (own[0] in others and others[0] in own):
                raise ConfigurationError(
                    f"The host {host.name} on the same database uses another {noun}, so that one of the two could not "
                    f"use what the other one stores: set {setting} to the same text on all hosts."
                )
