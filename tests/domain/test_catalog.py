"""The configuration as the data plane reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.catalog import Candidate, Provider, Snapshot, Target, build_snapshot
from llm_gateway.domain.plan import Plan
from tests.worker.pipeline.fakes import PRICE, override, provider


def names(snapshot: Snapshot) -> list[list[str]]:
    return [[f"{c.provider.name}/{c.model}" for c in tier] for tier in snapshot.tiers]


def test_nothing_configured() -> None:
    assert build_snapshot([], []) == Snapshot(providers={}, tiers=(), overrides={})


def test_tiers_by_priority_then_name_with_the_default_model() -> None:
    snapshot = build_snapshot(
        [
            provider("d", priority=-1),
            provider("b", models=("x", "y")),
            provider("c", priority=11),
            provider("a"),
            provider("off", priority=99, is_enabled=False),
        ],
        [],
    )

    assert names(snapshot) == [["c/m1"], ["a/m1", "b/x"], ["d/m1"]]
    assert set(snapshot.providers) == {"a", "b", "c", "d", "off"}


def test_overrides_are_found_by_customer_and_service() -> None:
    one, two = override("a"), override("b", service_name="chat")
    snapshot = build_snapshot([], [one, two])

    assert snapshot.overrides == {("user", None): one, ("user", "chat"): two}


def test_a_candidate_has_its_price_and_its_part_of_the_cache_key() -> None:
    by_model = {"m1": PRICE}

    assert Candidate.of(provider("a", price_by_model=by_model), "m1").price == PRICE
    unpriced = Candidate.of(provider("a", price_by_model=by_model), "m2")
    assert (unpriced.price, unpriced.cache_part) == (None, b"id-a\0openai\0None\0m2")


def test_a_target_does_not_show_its_key() -> None:
    target = Target("https://a.test/v1", "https://a.test/models", {"authorization": "Bearer canary-1"})

    assert repr(target) == "Target('https://a.test/v1')"
    shown = repr(build_snapshot([provider("a", target=target)], [override("a")]))
    assert "canary" not in shown
    assert "https://a.test/v1" in shown


def test_a_plans_candidates_in_order() -> None:
    a, b, c = (Candidate.of(provider(name), "m1") for name in "abc")

    assert Plan(((a, b), (c,))).candidates == (a, b, c)
    assert Plan(((a, b),)).candidates == (a, b)
    assert Plan(()).candidates == ()


PROVIDERS = st.lists(
    st.builds(provider, st.sampled_from("abcdefgh"), priority=st.integers(-3, 3), is_enabled=st.booleans()),
    unique_by=lambda p: p.name,
)


@given(PROVIDERS, st.randoms())
def test_the_order_of_the_store_does_not_matter(providers: list[Provider], random: object) -> None:
    shuffled = providers.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis' st.randoms() gives a Random

    assert names(build_snapshot(shuffled, [])) == names(build_snapshot(providers, []))


@given(PROVIDERS)
def test_every_enabled_provider_is_in_the_tier_of_its_priority(providers: list[Provider]) -> None:
    snapshot = build_snapshot(providers, [])
    priorities = [{candidate.provider.priority for candidate in tier} for tier in snapshot.tiers]

    assert all(len(of_tier) == 1 for of_tier in priorities)
    assert [p for tier in priorities for p in tier] == sorted({p.priority for p in providers if p.is_enabled})[::-1]
    assert sum(len(tier) for tier in snapshot.tiers) == sum(p.is_enabled for p in providers)
