"""Requests are begun at the pace at which the loop serves them: bursts wait, lasting overload is refused fast."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from llm_gateway.server.intake import (
    CALM_S,
    MOST_A_TURN,
    MOST_BYTES,
    MOST_WAITING,
    OVERLOADED,
    OVERLOADED_AFTER_S,
    Intake,
)
from llm_gateway.server.known_heads import MOST_HEAD_BYTES, MOST_HEADS, UNKNOWN, KnownHeads
from tests.rows import each_row
from tests.server.harness import GET, WAIT_S, Client, Response, Running, answer, read_body, running

POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
DEFECT = b"raises when it is begun"
BURST = 5 * MOST_A_TURN
CROWD = MOST_WAITING + 4 * MOST_A_TURN
WORK_S = 0.0005
"""Seconds for which each request keeps the loop."""


class Turns:
    """A handler that keeps the loop for a moment, and counts the requests begun in each turn."""

    def __init__(self) -> None:
        self.begun = [0]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.begun[-1]:
            asyncio.get_running_loop().call_soon(self.begun.append, 0)
        self.begun[-1] += 1
        time.sleep(WORK_S)  # noqa: ASYNC251 - as the work on a request does
        await read_body(receive)
        await answer(send, b"done")


async def connect(server: Running, count: int) -> list[Client]:
    return [await server.connect() for _ in range(count)]


async def test_of_a_burst_few_are_begun_in_a_turn_and_all_are_served() -> None:
    turns = Turns()
    async with running(turns) as server:
        clients = await connect(server, BURST)
        for client in clients:
            client.writer.write(POST)
        answers = await asyncio.gather(*(client.response() for client in clients))
        assert {each.status for each in answers} == {200}
    assert sum(turns.begun) == BURST
    assert max(turns.begun) <= 2 * MOST_A_TURN, (
        "the count of a turn ends when the first tasks of the next one are there"
    )
    assert OVERLOADED not in [event for event, _ in server.events]


async def test_lasting_overload_is_refused_fast_on_connections_that_stay_open() -> None:
    answers: list[Response] = []
    statuses: set[int] = set()
    got: list[Response] = []

    async def insist(client: Client) -> None:
        while time.monotonic() < ends or (503 not in statuses and time.monotonic() < ends + WAIT_S):
            answers.append(await client.ask(POST))
            statuses.add(answers[-1].status)

    async def look(client: Client) -> None:
        while time.monotonic() < ends:
            got.append(await client.ask(GET))

    async with running(Turns()) as server:
        clients = await connect(server, CROWD)
        reader = await server.connect()
        ends = time.monotonic() + OVERLOADED_AFTER_S
        await asyncio.gather(look(reader), *map(insist, clients))
        refused = [each for each in answers if each.status == 503]
        assert statuses == {200, 503}
        assert {each.status for each in got} == {200}
        assert all("connection" not in each.headers for each in refused)
        for each in refused:
            assert each.headers["retry-after"] == "1"
            assert each.json["code"] == "overloaded"
            assert each.json["request_id"] == each.headers["x-request-id"]
        assert len({each.headers["x-request-id"] for each in refused}) == len(refused)
        split = await server.connect()
        await split.send(POST[:-1])
        await asyncio.sleep(0)
        await split.send(POST[-1:])
        assert (await split.response()).status == 200, "nothing waits any more"
    counted = sum(fields["count"] for event, fields in server.events if event == "request refused")
    assert counted == len(refused)
    assert [event for event, _ in server.events].count(OVERLOADED) == 1


async def test_a_client_that_waited_with_an_empty_line_only_is_disconnected_as_any_other() -> None:
    async with running(head_s=1.0, keep_alive_s=0.1) as server:
        clients = await connect(server, 2 * MOST_A_TURN)
        for client in clients:
            client.writer.write(b"\r\n")
        assert set(await asyncio.gather(*(client.rest() for client in clients))) == {b""}


class Connection:
    """A connection as the intake sees it, on a clock that the test sets."""

    def __init__(self, loop: Loop) -> None:
        self.loop: Any = loop
        self.is_held = False
        self.begun = self.closed = self.dropped = 0
        self.responses: list[bytes] = []
        self.is_last_response = False
        self.is_gone = self.is_defect = False
        self._data = b""

    def hold(self, data: bytes) -> None:
        self.is_held, self._data = True, data

    def begin_held(self) -> None:
        self.is_held = False
        if self._data == DEFECT:
            raise RuntimeError
        self.begun += 1

    def refuse_unparsed(self, response: bytes, now: float) -> bool:
        assert now == self.loop.time()
        if self.is_defect:
            raise RuntimeError
        if not self.is_gone:
            self.responses.append(response)
        return not self.is_gone

    def await_refusal(self, missing: int) -> None:
        self.dropped += missing

    def refuse(self, status: int) -> None:
        assert status == 503
        self.closed += 1


class Loop:
    """An event loop whose turns the test makes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[tuple[Any, Any]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Any, *arguments: Any) -> None:
        self.soon.append((call, arguments))

    def turn(self, seconds: float = 0.03) -> None:
        self.now += seconds
        due, self.soon = self.soon, []
        for call, arguments in due:
            call(*arguments)

    def rest(self) -> None:
        """Make turns until nothing is left to do."""
        while self.soon:
            self.turn()


class Scene:
    """An intake, its log, and connections that arrive."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.intake = Intake(self._log, lambda: b"date: today", lambda: None)
        self.waiting: list[Connection] = []

    def _log(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def arrive(self, count: int = 1, data: bytes = POST) -> list[Connection]:
        """Let requests arrive. Returns the connections of those that were not begun at once."""
        found = []
        for _ in range(count):
            connection = Connection(self.loop)
            if not self.intake.admits(connection, data):
                found.append(connection)
        return found

    def overload(self) -> None:
        """Let requests arrive faster than they are begun, until the intake calls it overload."""
        while not self.intake.is_overloaded:
            self.waiting += self.arrive(2 * MOST_A_TURN)
            self.loop.turn()

    def is_over(self) -> bool:
        return not self.intake.is_overloaded


def test_those_that_waited_longest_are_begun_first_and_clients_that_left_never() -> None:
    scene = Scene()
    waiting = scene.arrive(3 * MOST_A_TURN)
    assert len(waiting) == 2 * MOST_A_TURN
    waiting[0].is_held = False
    late = scene.arrive(1)
    scene.loop.turn()
    assert [each.begun for each in waiting] == [0] + [1] * MOST_A_TURN + [0] * (MOST_A_TURN - 1)
    scene.loop.turn()
    assert [each.begun for each in waiting[1:]] == [1] * (2 * MOST_A_TURN - 1)
    assert late[0].begun == 1
    scene.loop.rest()
    assert scene.arrive(MOST_A_TURN) == []


def test_overload_refuses_what_exceeds_the_queue_until_it_is_calm_again() -> None:
    scene = Scene()
    scene.overload()
    assert scene.loop.now - 100.0 > OVERLOADED_AFTER_S
    scene.loop.rest()
    assert all(each.begun for each in scene.waiting if not each.responses), "those that waited are served"
    more = scene.arrive(MOST_A_TURN + 2 * MOST_WAITING)
    assert [each.is_held for each in more] == [True] * MOST_WAITING + [False] * MOST_WAITING
    [part] = scene.arrive(1, POST[:-1])
    [torn] = scene.arrive(1, POST[:-3])
    assert scene.arrive(5, GET) == []
    scene.loop.turn()
    assert all(len(each.responses) == 1 for each in more[MOST_WAITING:])
    assert more[-1].responses[0].startswith(b"HTTP/1.1 503 ")
    assert (len(part.responses), part.dropped) == (1, 1), "the rest of its body is dropped"
    assert (len(torn.responses), torn.closed) == (0, 1), "its end is not known"
    scene.intake.look(scene.loop.now)
    assert scene.events[-1][1]["count"] == sum(len(each.responses) for each in [*scene.waiting, *more, part])
    scene.loop.rest()
    scene.intake.look(scene.loop.now + CALM_S / 2)
    assert not scene.is_over()
    scene.intake.look(scene.loop.now + 2 * CALM_S)
    assert scene.is_over()
    expected = ["overloaded: requests are refused", "request refused", "overload is over"]
    assert [event for event, _ in scene.events] == expected


def test_requests_that_would_fill_the_memory_do_not_wait() -> None:
    scene = Scene()
    large = bytes(MOST_BYTES // 8)
    assert len(scene.arrive(MOST_A_TURN + 20, large)) == 8


def test_the_bytes_of_clients_that_left_do_not_count() -> None:
    scene = Scene()
    large = bytes(MOST_BYTES // 8)
    for each in scene.arrive(MOST_A_TURN + 7, large):
        each.is_held = False
    scene.arrive(2 * MOST_A_TURN)
    scene.loop.turn()
    assert len(scene.arrive(20, large)) == 7, "others wait all the time"


def test_a_request_that_cannot_be_begun_does_not_stop_the_others() -> None:
    scene = Scene()
    scene.arrive(MOST_A_TURN)
    [defect, other] = [*scene.arrive(1, DEFECT), *scene.arrive(1)]
    with pytest.raises(RuntimeError):
        scene.loop.turn()
    scene.loop.rest()
    assert (defect.begun, other.begun) == (0, 1)


WHOLE = [
    (POST, True),
    (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\ncontent-length:0\r\n\r\n", True),
    (POST[:-1], False),
    (POST + b"P", False),
    (POST[:30], False),
    (GET, False),
    (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", False),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", False),
    (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", False),
    (b"POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n", False),
    (b"POST / HTTP/1.1\r\nHost: x\r\n\r\nContent-Length: 0\r\n", False),
    (POST.replace(b" x\r\n", b" x\nTransfer-Encoding: chunked\r\n"), False),
    (POST.replace(b" x\r\n", b" x\r\n transfer-encoding: chunked\r\n"), False),
    (POST.replace(b" x\r\n", b" x\r\nContent-Length : 2\r\n"), False),
    (POST.replace(b" x\r\n", b" x\r\nContent-Length: 00000000010\r\n"), False),
    (b"", False),
]


@each_row(("data", "expected"), WHOLE)
def test_only_a_request_whose_end_is_certain_is_whole(data: bytes, expected: bool) -> None:
    heads = KnownHeads()
    assert [heads.missing(data) == 0 for _ in range(2)] == [expected] * 2


def test_a_head_that_is_known_says_only_how_much_follows_it() -> None:
    heads, head = KnownHeads(), POST[:-2]
    sizes = [0, 1, 2, 3]
    assert [heads.missing(head + bytes(size)) for size in sizes] == [2, 1, 0, -1]
    assert heads.missing(POST[:-3]) == UNKNOWN
    for number in range(2 * MOST_HEADS):
        assert heads.missing(head[:-2] + b"X: %d\r\n\r\n" % number) == 2
    assert heads.missing(head[:-2] + b"X: " + bytes([120] * MOST_HEAD_BYTES) + b"\r\n\r\n") == 2
    assert len(heads._lengths) <= MOST_HEADS
    assert max(map(len, heads._lengths)) <= MOST_HEAD_BYTES
    heads.clear()
    assert not heads._lengths


def test_a_connection_that_fails_keeps_no_other_from_its_refusal_and_one_that_is_gone_is_not_counted() -> None:
    scene = Scene()
    scene.overload()
    refused = scene.arrive(MOST_WAITING + 8)[-6:]
    refused[2].is_defect, refused[4].is_gone = True, True
    with pytest.raises(RuntimeError):
        scene.loop.turn()
    scene.loop.rest()
    assert [len(each.responses) for each in refused] == [1, 1, 0, 1, 0, 1]
