"""FairQueue: whose turn it is, and how many come before a request that joins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.worker.pipeline.fair_queue import Ahead, FairQueue
from tests.examples import examples


def queue_of(*items: tuple[str, str, int]) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for customer, item, cost in items:
        queue.add(customer, item, cost)
    return queue


def served(queue: FairQueue[str]) -> str | None:
    """Serve the next request; its customer is the first letter."""
    item = queue.first()
    if item is not None:
        queue.remove(item[0], item, is_served=True)
    return item


def test_customers_take_turns_and_each_ones_requests_stay_in_order() -> None:
    queue = queue_of(("a", "a1", 10), ("a", "a2", 10), ("a", "a3", 10), ("b", "b1", 10), ("b", "b2", 10))

    assert [served(queue) for _ in range(6)] == ["a1", "b1", "a2", "b2", "a3", None]
    assert queue.count == 0


def test_turns_are_shared_by_cost() -> None:
    queue = queue_of(("a", "a1", 30), ("a", "a2", 30), *(("b", f"b{n}", 10) for n in range(1, 7)))

    assert [served(queue) for _ in range(8)] == ["b1", "b2", "a1", "b3", "b4", "b5", "a2", "b6"]


def test_a_customer_who_did_not_wait_saves_up_no_turns() -> None:
    queue = queue_of(*(("a", f"a{n}", 10) for n in range(9)))
    for _ in range(5):
        served(queue)
    for n in range(3):
        queue.add("b", f"b{n}", 10)

    assert [served(queue) for _ in range(4)] == ["a5", "b0", "a6", "b1"]


def test_a_request_that_leaves_without_a_place_costs_nothing() -> None:
    queue = queue_of(("a", "a1", 10), ("b", "b1", 10), ("a", "a2", 10), ("b", "b2", 10))
    queue.remove("a", "a1", is_served=False)
    queue.remove("a", "a1", is_served=False)
    queue.remove("c", "c1", is_served=True)

    assert (queue.count, queue.waiting("a"), queue.waiting("b"), queue.waiting("c")) == (3, 1, 2, 0)
    assert [served(queue) for _ in range(3)] == ["b1", "a2", "b2"]


def test_the_requests_ahead_are_those_that_will_be_served_before() -> None:
    queue = queue_of(*(("a", f"a{n}", 10) for n in range(50)))

    assert queue.ahead_of("a", 10) == Ahead(50, 500)
    assert queue.ahead_of("b", 10) == Ahead(1, 10)
    assert queue.ahead_of("b", 35) == Ahead(4, 35)
    assert FairQueue[str]().ahead_of("b", 35) == Ahead(0, 0)


requests = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=30)


@examples(2)
@given(requests, st.sampled_from("abcd"), st.integers(1, 9))
def test_no_more_are_served_before_than_were_told(waiting: list[tuple[str, int]], customer: str, cost: int) -> None:
    queue = queue_of(*((name, f"{name}{number}", size) for number, (name, size) in enumerate(waiting)))
    for _ in range(len(waiting) // 3):
        served(queue)
    ahead = queue.ahead_of(customer, cost)
    queue.add(customer, f"{customer}-new", cost)
    before = 0
    while served(queue) != f"{customer}-new":
        before += 1
    lanes = len({name for name, _ in waiting})
    assert before <= ahead.requests + lanes, "each lane's request in part is told as a whole, or not at all"


@examples(2)
@given(st.lists(st.integers(1, 9), min_size=5, max_size=40), st.lists(st.integers(1, 9), min_size=5, max_size=40))
def test_while_two_customers_wait_neither_is_ahead_by_more_than_one_request(a: list[int], b: list[int]) -> None:
    costs = {f"a{n}": cost for n, cost in enumerate(a)} | {f"b{n}": cost for n, cost in enumerate(b)}
    queue = queue_of(*((item[0], item, cost) for item, cost in costs.items()))
    given_to = {"a": 0, "b": 0}
    while queue.waiting("a") and queue.waiting("b"):
        item = served(queue)
        assert item is not None
        given_to[item[0]] += costs[item]
        assert abs(given_to["a"] - given_to["b"]) <= 9


def test_all_waiting_requests_are_returned() -> None:
    assert queue_of(("a", "a1", 1), ("b", "b1", 1), ("a", "a2", 1)).items() == ["a1", "a2", "b1"]
