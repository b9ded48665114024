"""Configuration types: candidates, targets and the order of a plan."""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate, Target
from llm_gateway.domain.plan import Plan
from tests.worker.pipeline.fakes import PRICE, override, provider, snapshot


def test_a_candidate_has_the_price_of_its_model_and_its_part_of_the_cache_key() -> None:
    by_model = {"m1": PRICE}

    assert Candidate.of(provider("a", price_by_model=by_model), "m1").price == PRICE
    unpriced = Candidate.of(provider("a", price_by_model=by_model), "m2")
    assert (unpriced.price, unpriced.cache_part) == (None, b"id-a\0openai\0None\0m2")


def test_the_repr_of_a_target_hides_the_api_key() -> None:
    target = Target("https://a.test/v1", "https://a.test/models", {"authorization": "Bearer canary-1"})

    assert repr(target) == "Target('https://a.test/v1')"
    shown = repr(snapshot([provider("a", target=target)], override("a")))
    assert "canary" not in shown
    assert "https://a.test/v1" in shown


def test_a_plan_lists_its_candidates_in_the_order_of_its_tiers() -> None:
    a, b, c = (Candidate.of(provider(name), "m1") for name in "abc")

    assert Plan(((a, b), (c,))).candidates == (a, b, c)
    assert Plan(((a, b),)).candidates == (a, b)
    assert Plan(()).candidates == ()
