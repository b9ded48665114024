"""All that is asked of the windows in one turn goes out in one command, and each call gets its own decision."""

from __future__ import annotations

import asyncio
import random
from itertools import count

import pytest

from llm_gateway.limiter.base import Reservation, Wanted
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.redis import RedisLimiter
from llm_gateway.limiter.redis_batches import MOST_WINDOWS
from llm_gateway.limiter.redis_membership import Keys, RedisHost
from llm_gateway.redis_client.client import RedisClient
from tests.limiter.taking import Clock
from tests.redis.test_client import connected, path_of
from tests.redis_server import RedisServer, running
from tests.waiting import until

TPM = 1000
_numbers = count()


async def joined(client: RedisClient, clock: Clock, prefix: str | None = None) -> RedisLimiter:
    """Return the limiter of a host that shares the windows below the prefix, and has heard of the others."""
    keys = Keys(prefix or f"{{batches{next(_numbers)}}}", clock)
    host = RedisHost(client, f"{next(_numbers)}/1", lambda *_, **__: None, clock=clock, keys=keys)
    await host.step()
    return RedisLimiter(host, MemoryLimiter(clock), prefix="p")


async def taken(limiter: RedisLimiter, window: str, calls: int, tokens: int) -> list[Reservation]:
    decisions = await asyncio.gather(*[limiter.take(window, TPM, TPM, tokens) for _ in range(calls)])
    return [decision.reservation for decision in decisions if decision.reservation is not None]


async def test_all_takes_and_settles_of_a_turn_are_one_command(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        held = [*await taken(limiter, "a", 20, 10), *await taken(limiter, "b", 20, 10)]
        before = await scripts(client)
        for reservation in held:
            limiter.settle(reservation, tokens=1)
        a, b, (several, refused) = await asyncio.gather(
            taken(limiter, "a", 5, 100),
            taken(limiter, "b", 6, 100),
            limiter.take_all([Wanted("a", TPM, TPM, 3), Wanted("c", TPM, TPM, 3)]),
        )
        assert (len(a), len(b), len(several), refused) == (5, 6, 2, None)
        assert await scripts(client) - before == 1
        assert [await sums(client, limiter, window) for window in "abc"] == [(26, 523), (26, 620), (1, 3)]


async def test_settles_that_no_take_carries_are_sent_together(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        held = [*await taken(limiter, "a", 20, 10), *await taken(limiter, "b", 20, 10)]
        before = await scripts(client)
        for reservation in held:
            limiter.settle(reservation, tokens=1)
        await until(lambda: limiter._batches._timer is None)
        assert await scripts(client) - before == 1
        assert await sums(client, limiter, "a") == (20, 20)
        assert await sums(client, limiter, "b") == (20, 20)


async def test_of_a_turn_as_much_is_granted_as_fits(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        clock = Clock()
        prefix = f"{{batches{next(_numbers)}}}"
        limiter, other = await joined(client, clock, prefix), await joined(client, clock, prefix)
        assert len(await taken(other, "a", 2, 30)) == 2
        tokens = [500, 300, 400, 140, 1, 200]  # 60 are gone
        single = [limiter.take("a", TPM, TPM, each) for each in tokens]
        several = [limiter.take_all([Wanted("b", 5, TPM, 10), Wanted("a", TPM, TPM, 5)]) for _ in range(2)]
        came, groups = await asyncio.gather(*single), await asyncio.gather(*several)
        assert [each.reservation is not None for each in came] == [True, True, False, True, False, False]
        assert all(each.retry_after_s > 0 for each in came if each.reservation is None)
        assert [len(reservations) for reservations, _ in groups] == [1, 1], "there is no room in the second window"
        for reservations, refused in groups:
            assert refused is not None
            assert refused.retry_after_s > 0
            limiter.settle(reservations[0], tokens=0, sent=False)
        assert limiter.state("a", TPM, TPM).remaining_requests == TPM - 5
        assert limiter._local.state("a", TPM, TPM).remaining_requests == TPM - 3
        assert await sums(client, limiter, "a") == (5, 1000)
        assert await client.call("EXISTS", f"{limiter._prefix}b") == 0
        changed = await asyncio.gather(limiter.take("a", TPM, TPM + 1, 1), limiter.take("a", TPM, TPM + 2, 1))
        assert [each.reservation is not None for each in changed] == [True, True], "of limits that change in a turn"
        assert await sums(client, limiter, "a") == (7, 1002)


async def test_calls_of_a_turn_for_several_windows_each_get_all_or_nothing(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        clock = Clock()
        prefix = f"{{batches{next(_numbers)}}}"
        limiter, other = await joined(client, clock, prefix), await joined(client, clock, prefix)
        assert len(await taken(other, "team", 1, 400)) == 1
        before = await scripts(client)
        wanted = [("a", 40), ("b", 30), ("a", 70), ("a", 10), ("b", 25), ("b", 20)]  # of the team's 500, 100 are left
        calls = [
            asyncio.ensure_future(limiter.take_all([Wanted(key, TPM, TPM, 2 * n), Wanted("team", TPM, 500, n)]))
            for key, n in wanted
        ]
        await asyncio.sleep(0)
        calls[3].cancel()
        came = await asyncio.gather(*calls, return_exceptions=True)
        assert await scripts(client) - before == 1
        shown = []
        for each in came:
            if isinstance(each, BaseException):
                shown.append([0])
                continue
            reservations, refused = each
            shown.append([taken.tokens for taken in reservations])
            is_whole = refused is None
            for reservation in reservations:
                limiter.settle(reservation, tokens=int(is_whole), sent=is_whole)
        assert shown == [[80, 40], [60, 30], [140], [0], [50], [40, 20]]
        await until(lambda: limiter._batches._timer is None)
        assert [await sums(client, limiter, window) for window in ("a", "b", "team")] == [(1, 1), (2, 2), (4, 403)]
        own = [limiter._local.state(window, TPM, TPM).remaining_requests for window in ("a", "b", "team")]
        assert own == [TPM - 1, TPM - 2, TPM - 3]


async def test_what_redis_granted_too_late_in_several_windows_is_given_back() -> None:
    with running() as server:
        async with connected(path_of(server), timeout_s=0.05) as client:
            clock = Clock()
            prefix = f"{{batches{next(_numbers)}}}"
            limiter, other = await joined(client, clock, prefix), await joined(client, clock, prefix)
            await limiter._batches._host.step()
            assert len(await taken(other, "team", 1, 400)) == 1
            wanted = [[Wanted("key", TPM, TPM, n), Wanted("team", TPM, 500, n)] for n in (60, 70, 30)]
            server.freeze()
            came = await asyncio.gather(*[limiter.take_all(each) for each in wanted])
            assert [(reservations, each is None) for reservations, each in came] == [([], False)] * 3
            server.thaw()
            await until(lambda: client.is_up and limiter._batches._timer is None)
            await until(lambda: limiter._local.state("key", TPM, TPM).remaining_requests == TPM)
            assert await sums(client, limiter, "key") == (0, 0)
            assert await sums(client, limiter, "team") == (1, 400)


async def test_a_cancelled_call_of_a_turn_holds_nothing_and_the_others_are_decided(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        asked = [asyncio.ensure_future(limiter.take("a", TPM, TPM, 10)) for _ in range(4)]
        asked.append(asyncio.ensure_future(limiter.take_all([Wanted("a", TPM, TPM, 7), Wanted("b", TPM, TPM, 7)])))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        for cancelled in (asked[1], asked[4]):
            cancelled.cancel()
        came = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in came] == [False, True, False, False, True]
        await until(lambda: limiter._batches._timer is None)
        assert await sums(client, limiter, "a") == (3, 30)
        assert await sums(client, limiter, "b") == (0, 0)
        assert limiter._local.state("a", TPM, TPM).remaining_tokens == TPM - 30


async def test_a_turn_asks_again_at_a_server_that_forgot(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        clock = Clock()
        limiter = await joined(client, clock)
        await taken(limiter, "a", 3, 10)
        await client.call("DEL", f"{limiter._prefix}a", f"{limiter._prefix.removesuffix('p:')}epoch")
        clock.now += 0.5
        assert len(await taken(limiter, "a", 5, 10)) == 5
        await until(lambda: limiter._batches._timer is None)
        assert await sums(client, limiter, "a") == (5, 50)


async def test_a_take_has_the_room_that_settles_of_its_turn_made(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        first, second = await taken(limiter, "a", 2, 500)
        before = await scripts(client)
        limiter.settle(first, tokens=0, sent=False)
        limiter.settle(second, tokens=100)
        third = await limiter.take("a", TPM, TPM, 900)
        assert third.reservation is not None
        assert await scripts(client) - before == 1
        assert await sums(client, limiter, "a") == (2, 1000)


async def test_a_take_of_several_windows_has_the_room_that_settles_of_its_turn_made(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        held = [*await taken(limiter, "a", 1, 1000), *await taken(limiter, "b", 2, 500)]
        for reservation in held:
            limiter.settle(reservation, tokens=10)
        reservations, refused = await limiter.take_all([Wanted("a", TPM, TPM, 990), Wanted("b", TPM, TPM, 980)])
        assert refused is None
        assert len(reservations) == 2
        assert await sums(client, limiter, "a") == (2, 1000)
        assert await sums(client, limiter, "b") == (3, 1000)


@pytest.mark.parametrize("rpm", [TPM, 60])
async def test_after_many_turns_redis_has_counted_what_was_made(redis_server: RedisServer, rpm: int) -> None:
    async with connected(path_of(redis_server)) as one, connected(path_of(redis_server)) as two:
        clock, prefix = Clock(), f"{{batches{next(_numbers)}}}"
        limiters = [await joined(one, clock, prefix), await joined(two, clock, prefix)]
        await joined(one, clock, prefix)  # so both have heard of another host
        chance = random.Random(seed := random.randrange(10**6))
        print("seed", seed)  # noqa: T201 - pytest shows it with a failure
        made = {"a": [0, 0], "b": [0, 0]}

        async def call(limiter: RedisLimiter) -> None:
            tokens, names = chance.randint(0, 9), chance.choice(["a", "b", "ab"])
            held, _ = await limiter.take_all([Wanted(name, rpm, TPM, tokens) for name in names])
            is_whole = len(held) == len(names)
            try:
                await asyncio.sleep(chance.choice([0, 0.001]))
            finally:
                is_sent, used = is_whole and chance.random() < 0.8, chance.randint(0, tokens)
                for reservation in held:
                    limiter.settle(reservation, tokens=is_sent * used, sent=is_sent)
                    made[reservation.provider_id][0] += is_sent
                    made[reservation.provider_id][1] += is_sent * used

        calls: list[asyncio.Task[None]] = []
        for _ in range(40):
            calls += [asyncio.create_task(call(chance.choice(limiters))) for _ in range(chance.randint(0, 9))]
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            if calls:
                chance.choice(calls).cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: not any(limiter._batches._timer for limiter in limiters))
        await sums(two, limiters[1], "a")  # what was sent before this on its connection is executed before it
        for name, counts in made.items():
            assert await sums(one, limiters[0], name) == (counts[0], counts[1])
            states = [limiter._local.state(name, TPM, TPM) for limiter in limiters]
            assert sum(TPM - state.remaining_requests for state in states) == counts[0] <= rpm
            assert sum(TPM - state.remaining_tokens for state in states) == counts[1]


async def test_settles_without_a_connection_wait_for_the_next_one(redis_server: RedisServer) -> None:
    clock = Clock()
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, clock)
        held = await taken(limiter, "a", 4, 10)
        assert client._connection is not None
        client._connection.close("cut off")
        limiter.settle(held[0], tokens=0)
        await until(lambda: not client.is_up)
        limiter.settle(held[1], tokens=0)
        await until(lambda: client.is_up)
        limiter.settle(held[2], tokens=0)
        await until(lambda: limiter._batches._timer is None)
        assert await sums(client, limiter, "a") == (4, 10)


async def test_settles_of_many_windows_that_waited_are_sent_in_several_commands(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        limiter = await joined(client, Clock())
        names = [f"w{number}" for number in range(2 * MOST_WINDOWS + 1)]
        held = [await taken(limiter, name, 1, 10) for name in names]
        before = await scripts(client)
        assert client._connection is not None
        client._connection.close("cut off")
        await until(lambda: not client.is_up)
        for [reservation] in held:
            limiter.settle(reservation, tokens=1)
        await until(lambda: client.is_up and limiter._batches._timer is None)
        assert {await sums(client, limiter, name) for name in names} == {(1, 1)}
        assert await scripts(client) - before == 3


async def scripts(client: RedisClient) -> int:
    """Return how many scripts the server has executed."""
    await asyncio.sleep(0)  # the turn ends
    info = (await client.call("INFO", "commandstats")).decode()
    [calls] = [
        line.partition("calls=")[2].partition(",")[0] for line in info.split() if line.startswith("cmdstat_evalsha:")
    ]
    return int(calls)


async def sums(client: RedisClient, limiter: RedisLimiter, window: str) -> tuple[int, int]:
    """Return requests and tokens of a window in Redis."""
    await asyncio.sleep(0)  # the turn ends
    n, t = await client.call("HMGET", limiter._prefix + window, "n", "t")
    return int(n), int(t)
