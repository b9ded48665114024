"""Explain: the candidate that it says serves is the one that is then called, and it changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.budget import Budget
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.explanation import Explanation
from llm_gateway.errors import GatewayError, RequestNotAllowed, UnknownModel
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.caching import Caching
from llm_gateway.worker.pipeline.explanation import Explainer
from llm_gateway.worker.pipeline.translation import Translation
from tests.worker.pipeline.fakes import TIMEOUT, World, answer, override, provider, refusal, request, snapshot

NAMES = ("a", "b", "c", "d")
ROUNDS = 4


class Scene:
    """A gateway over a fake world, and its explainer."""

    def __init__(self, providers: list[Provider], *overrides: Any, budgets: Sequence[Budget] = ()) -> None:
        self.world = world = World()
        table = BudgetTable(budgets) if budgets else None
        current = msgspec.structs.replace(snapshot(providers, *overrides), budgets=table)
        world.budgets.change(table)
        caching = Caching(MemoryCache(1_000_000), ttl_s=3600, shared=False)
        self.gateway = Gateway(lambda: current, caching, world.failover, world.recorder, world.admission.state)
        self.explainer = Explainer(
            lambda: current, caching, world.failover, world.availability, world.admission, Translation()
        )

    def explain(self, **changes: Any) -> Explanation:
        return asyncio.run(self.explainer.explain(request(**changes)))

    def ask(self, **changes: Any) -> None:
        asyncio.run(self.gateway.generate(request(**changes)))


STEPS = st.sampled_from(["answers", "fails", "account", "busy"])
PROVIDERS = st.lists(
    st.fixed_dictionaries(
        {
            "priority": st.sampled_from([10, 10, 20]),
            "rate_limit_rpm": st.sampled_from([1, 2, 60]),
            "rate_limit_tpm": st.sampled_from([100, 200, 100_000]),
            "is_enabled": st.sampled_from([True, True, True, False]),
        }
    ),
    min_size=1,
    max_size=len(NAMES),
)


@settings(deadline=None)
@given(
    PROVIDERS,
    st.lists(STEPS, min_size=ROUNDS, max_size=ROUNDS),
    st.sampled_from([None, "s1", "s2"]),
    st.booleans(),
    st.sampled_from(["", "", "a", "ab", "abcd"]),
)
def test_the_candidate_that_serves_is_called_first(
    fields: list[dict[str, Any]], steps: list[str], session: str | None, overrides: bool, too_long_for: str
) -> None:
    made = [provider(name, **each) for name, each in zip(NAMES, fields, strict=False)]
    scene = Scene(made, *([override(made[-1].name)] if overrides else []))
    world = scene.world
    for each in made:
        if each.name in too_long_for:
            world.availability.context_limits.learn(each.id, each.models[0], 1, 1)
    plays = {"answers": answer(), "fails": TIMEOUT, "account": refusal(401), "busy": refusal(429, retry_after_s=3)}
    for number, step in enumerate(steps):
        world.script(**{name: [plays[step]] * 20 for name in NAMES})
        asked = {"session": session, "prompt": f"question {number}", "use_cache": False}
        reserved = [world.admission.state(each, each.models[0]) for each in made]
        try:
            explanation = scene.explain(**asked)
        except GatewayError as error:
            with pytest.raises(type(error)):
                scene.ask(**asked)
            continue
        assert reserved == [world.admission.state(each, each.models[0]) for each in made]
        before = len(world.upstream.calls)
        with contextlib.suppress(GatewayError):
            scene.ask(**asked)
        called = world.upstream.called[before:]
        serving = [each.provider for each in explanation.candidates if each.verdict == "serves"]
        assert called[:1] == serving, explanation


def test_every_candidate_is_named_with_what_holds_it_back() -> None:
    small, busy = provider("small", rate_limit_tpm=100, priority=30), provider("busy", rate_limit_rpm=1, priority=20)
    scene = Scene([small, busy, provider("free"), provider("last", priority=1)])
    scene.world.script(busy=[answer()])
    scene.ask()
    found = scene.explain(prompt="another")
    assert [(each.rank, each.provider, each.verdict) for each in found.candidates] == [
        (1, "small", "passed_over"),
        (2, "busy", "passed_over"),
        (3, "free", "serves"),
        (4, "last", "available"),
    ]
    assert [[reason.code for reason in each.reasons] for each in found.candidates] == [
        ["exceeds_limit"],
        ["rate_limited"],
        [],
        [],
    ]
    assert 0 < (found.candidates[1].reasons[0].retry_after_s or 0) <= 61
    assert (found.route, found.cache) == ("priority", "miss")


def test_a_cached_answer_and_an_unknown_model_are_told() -> None:
    scene = Scene([provider("a")])
    scene.world.script(a=[answer()])
    scene.ask()
    assert scene.explain().cache == "hit"
    assert scene.explain(use_cache=False).cache == "bypass"
    with pytest.raises(UnknownModel):
        scene.explain(requested_model="none-such")


def test_a_gate_that_lets_few_calls_through_is_told() -> None:
    scene = Scene([provider("a", priority=20), provider("b")])
    world = scene.world
    world.script(a=[*[refusal(429, retry_after_s=3)] * 5, answer()], b=[answer()] * 20)
    for number in range(5):
        scene.ask(prompt=f"question {number}")
    world.clock.now += 4
    scene.ask(prompt="the trial")
    assert world.upstream.called[-1] == "a"
    [first, second] = scene.explain(prompt="another").candidates
    scene.ask(prompt="another")
    assert world.upstream.called[-1] == "b"
    assert (first.verdict, second.verdict) == ("passed_over", "serves")
    assert [reason.code for reason in first.reasons] == ["rate_limited"]


def test_a_budget_that_must_not_be_passed_passes_a_model_over_that_nothing_bounds() -> None:
    budget = Budget(id="b", name="core", limit=10**12, hold="bound")
    known = provider("known", priority=1, context_window_by_model={"m1": 1000, "m2": 1000})
    scene = Scene([provider("unknown"), known], budgets=[budget])
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf"}}
    first, second = scene.explain(messages=[{"role": "user", "content": [file]}]).candidates
    assert (first.verdict, second.verdict) == ("passed_over", "serves")
    assert [each.code for each in first.reasons] == ["unbounded"]
    assert [each.verdict for each in scene.explain().candidates] == ["serves", "available"]


def test_a_budget_of_dollars_passes_a_model_without_a_price_over() -> None:
    budget = Budget(id="b", name="core", match={"user_id": "poor"}, limit=10**9, overdraft=10**9)
    box = provider("box", price_by_model={})
    scene = Scene([box, provider("priced", priority=1)], budgets=[budget])
    first, second = scene.explain(user_id="poor").candidates
    assert (first.verdict, [each.code for each in first.reasons], second.verdict) == (
        "passed_over",
        ["unpriced"],
        "serves",
    )
    assert first.reasons[0].detail == (
        "Its price is not known, and budget 'core' is in dollars: give the provider prices."
    )
    assert scene.explain(user_id="rich").candidates[0].verdict == "serves"
    alone = Scene([box], budgets=[budget])
    assert [each.verdict for each in alone.explain(user_id="poor").candidates] == ["passed_over"]
    with pytest.raises(RequestNotAllowed):
        alone.ask(user_id="poor")
    changes: list[dict[str, Any]] = [{"unpriced": "allow"}, {"mode": "soft"}, {"unit": "tokens"}]
    for change in changes:
        lenient = Scene([box], budgets=[msgspec.structs.replace(budget, **change)])
        assert lenient.explain(user_id="poor").candidates[0].verdict == "serves", change
