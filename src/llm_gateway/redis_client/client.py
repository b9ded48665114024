"""Keep one connection to a Redis server, for as long as the process runs; say once when it is lost and when it is back.

    away ── connect, AUTH, SELECT, a write that is tried ──▶ up ── a call without a reply for 50 ms ──▶ stalled
     ▲ └── fails: pause 0.05 s, doubled up to 2 s, for ever      ▲                                        │ │
     │                                                           └──── all replies have come ─────────────┘ │
     └──────────────── the connection ends, or is stalled for 2 s ◀─────────────────────────────────────────┘

While it is not up, calls get `LOST` at once: a dead server costs a request 50 ms at most, and only the first ones.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from llm_gateway.redis_client.address import RedisAddress
from llm_gateway.redis_client.connection import LOST, Connection, Counters, Late, Receiver, Reply, ReplyError
from llm_gateway.redis_client.script import Script, pack

Log: TypeAlias = Callable[..., None]

TIMEOUT_S = 0.05
"""Longest wait for a reply."""
CONNECT_S = 2.0
"""Longest wait for a connection, and for its first replies."""
STALLED_S = 2.0
"""Seconds after which a connection whose server does not answer is given up for a new one."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
STEADY_S = 5.0
"""A connection that lived as long was a good one: the next pause is the first again."""
TRY = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', 1000)"


class _Refused(Exception):
    """The server refuses the connection; the message says why."""


class RedisClient:
    """A connection to a server that is made again whenever it ends. Call `start` in the event loop, `close` at the end.

    `watchers` are called with True when the server can be used (again), and with False when it cannot. `run_id` tells
    one run of a server from another; it is empty if the server does not tell.
    """

    def __init__(self, address: RedisAddress, log: Log, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address = address
        self._log = log
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_lost = False
        self._has_stalled = False
        self._has_closed = False
        self._context: ssl.SSLContext | None = None
        self._tried = asyncio.Event()
        self.counters = Counters()
        self.is_up = False
        self.run_id = ""
        self.watchers: list[Callable[[bool], None]] = []

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def connected(self, timeout_s: float) -> bool:
        """Wait for the end of the first attempt to connect. Returns whether the server can be used now."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._tried.wait()
        return self.is_up

    async def close(self) -> None:
        """Close the connection, after what was sent has had its reply or its time."""
        self._has_closed = True
        if self.is_up:
            await self.call(b"PING")
        self.is_up = False
        if self._connection is not None:
            self._connection.close("the gateway stops")
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def call(self, *command: Any) -> asyncio.Future[Reply]:
        """Send a command; the future gets the reply, or `LOST` after 50 ms at most."""
        return self.call_packed(pack(*command))

    def call_packed(
        self, packed: bytes, script: Script | None = None, late: Late | None = None
    ) -> asyncio.Future[Reply]:
        """Send a packed command, as `call` does; see `Connection.call`."""
        if self.is_up and self._connection is not None:
            return self._connection.call(packed, script, late)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_result(LOST)
        return future

    def send(self, *command: Any) -> None:
        """Send a command whose reply does not matter."""
        self.send_packed(pack(*command))

    def send_packed(
        self, packed: bytes, script: Script | None = None, receiver: Receiver | None = None, late: Late | None = None
    ) -> bool:
        """Send a packed command, whose reply `receiver` gets, if there is one; see `Connection.send`."""
        return self.is_up and self._connection is not None and self._connection.send(packed, script, receiver, late)

    def before_write(self, compose: Callable[[], None]) -> bool:
        """Call `compose` right before the write that ends this turn; False if there is no connection."""
        return self.is_up and self._connection is not None and self._connection.before_write(compose)

    def refuse(self, error: ReplyError) -> None:
        """Begin anew with another connection, since the server cannot do what it was asked (a replica, no rights)."""
        if self._connection is not None:
            self._connection.close(f"it answers: {error}")

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            began = loop.time()
            reason = await self._live()
            self._connection = None
            self._has_stalled = False
            self._down(reason)
            if self._has_closed:
                return
            if loop.time() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause_s)  # noqa: S311 - spreads the load
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _live(self) -> str:
        """Connect, and return why the connection ended or could not be made."""
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._connect()
                self._connection = connection
                run_id = await self._greet(connection)
        except TimeoutError:
            return self._given_up(f"it does not answer within {CONNECT_S:g} seconds")
        except (OSError, ssl.SSLError, _Refused) as error:
            return self._given_up(str(error) or type(error).__name__)
        except asyncio.CancelledError:
            self._given_up("")
            raise
        except Exception as error:  # edge: a name that cannot be resolved; the next attempt must come all the same
            return self._given_up(f"{type(error).__name__}: {error}")
        self._up(run_id)
        while not connection.ended.done():
            await asyncio.wait([connection.ended], timeout=STALLED_S / 2)
            if connection.is_stalled and asyncio.get_running_loop().time() - connection.stalled_at > STALLED_S:
                connection.close("it does not answer")
        return connection.ended.result()

    def _given_up(self, reason: str) -> str:
        if self._connection is not None:
            self._connection.close(reason)
        return reason

    async def _connect(self) -> Connection:
        address, loop = self._address, asyncio.get_running_loop()
        self._connection = None

        def build() -> Connection:
            return Connection(self.counters, CONNECT_S, self._stalled)

        if address.path:
            return (await loop.create_unix_connection(build, address.path))[1]
        if address.is_tls and self._context is None:
            self._context = ssl.create_default_context(cafile=address.ca_file)
        return (await loop.create_connection(build, address.host, address.port, ssl=self._context))[1]

    async def _greet(self, connection: Connection) -> str:
        """Log in, choose the database, try a write. Returns the id of the server's run."""
        address = self._address
        greeting: list[tuple[Any, ...]] = []
        if address.password:
            greeting.append(("AUTH", *([address.user] if address.user else []), address.password))
        if address.database:
            greeting.append(("SELECT", address.database))
        greeting.append(("EVAL", TRY, 1, "{llmg}:try", "1"))
        asked = [connection.call(pack(*command)) for command in [*greeting, ("INFO", "server")]]
        *replies, server = [await each for each in asked]
        for command, reply in zip(greeting, replies, strict=True):
            if reply is LOST:
                if connection.ended.done():
                    raise _Refused(connection.ended.result())
                raise TimeoutError
            if isinstance(reply, ReplyError):
                # Of an answer to AUTH the first word only: a server that does not know it repeats the password.
                said = str(reply).split(maxsplit=1)[0] if command[0] == "AUTH" else reply
                raise _Refused(f"it refuses {command[0]}: {said}")
        connection.expect_within(self._timeout_s)
        return _run_id(server)

    def _up(self, run_id: str) -> None:
        self.run_id = run_id
        self.is_up = True
        self._has_stalled = False
        self._tried.set()
        if self._is_lost:
            self._is_lost = False
            self.counters.reconnects += 1
            self._log("redis is back", level="warning", address=self._address.shown)
        self._tell_watchers()

    def _down(self, reason: str) -> None:
        self._tried.set()
        was_up, self.is_up = self.is_up, False
        if not self._is_lost and not self._has_closed:
            self._is_lost = True
            self._log("redis cannot be used", level="warning", address=self._address.shown, reason=reason)
        if was_up:
            self._tell_watchers()

    def _stalled(self, is_stalled: bool) -> None:
        """Note that replies do not come, or that all have come after all."""
        if is_stalled and self.is_up:
            self._has_stalled = True
            self._down("it does not answer")
        elif not is_stalled and self._has_stalled and not self._has_closed and self._connection is not None:
            # One more in time, lest a server that is always slow is lost and back with each call.
            # A proxy may have another server behind it by now.
            self._connection.call(pack(b"INFO", b"server")).add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[Reply]) -> None:
        if future.result() is not LOST and self._has_stalled and not self._has_closed:
            self._up(_run_id(future.result()))

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            watcher(self.is_up)


def _run_id(server: Reply) -> str:
    """Return the id of the server's run from its reply to INFO; empty if it does not tell."""
    if not isinstance(server, bytes) or b"run_id:" not in server:
        return ""
    return server.partition(b"run_id:")[2].split(maxsplit=1)[0].decode()
