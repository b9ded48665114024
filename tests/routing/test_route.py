"""Routing: tiers of providers, overrides and their fallback, and errors without a usable provider."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.catalog import Override, Provider, Snapshot
from llm_gateway.domain.plan import Plan
from llm_gateway.errors import NoProvider, UnknownModel
from llm_gateway.routing.route import check_model, route
from tests.worker.pipeline.fakes import override, provider, request, snapshot

A, B = provider("a", priority=20), provider("b", priority=20)
C, D = provider("c", priority=5), provider("d", priority=50, is_enabled=False)
ALL = [C, B, D, A]


def names(plan: Plan) -> list[list[str]]:
    return [[f"{c.provider.name}/{c.model}" for c in tier] for tier in plan.tiers]


def routed(*overrides: Override, providers: list[Provider] = ALL, service: str = "chat") -> list[list[str]]:
    return names(route(request(service=service), snapshot(providers, *overrides)))


def test_enabled_providers_are_tried_by_priority_then_name() -> None:
    assert routed() == [["a/m1", "b/m1"], ["c/m1"]]


def test_a_providers_default_model_is_its_first() -> None:
    assert routed(providers=[provider("a", models=("z", "y"))]) == [["a/z"]]


def test_without_an_override_the_snapshots_own_tiers_are_the_plan() -> None:
    configuration = snapshot(ALL)

    plan = route(request(), configuration)

    assert plan.tiers is configuration.tiers
    assert plan.override_id is None


def test_an_override_comes_first_and_its_provider_only_once() -> None:
    assert routed(override("c")) == [["c/m2"], ["a/m1", "b/m1"]]
    assert routed(override("b")) == [["b/m2"], ["a/m1"], ["c/m1"]]
    assert routed(override("b", "m1")) == [["b/m1"], ["a/m1"], ["c/m1"]]


def test_the_plan_holds_the_overrides_id() -> None:
    configuration = snapshot(ALL, override("c", id="seven"))

    assert route(request(), configuration).override_id == "seven"


def test_an_overridden_candidate_has_its_models_price() -> None:
    configuration = snapshot(ALL, override("c"))

    first = route(request(), configuration).candidates[0]

    assert (first.price, first.cache_part) == (C.price_by_model["m2"], b"id-c\0openai\0None\0m2")


def test_an_override_for_the_service_wins_over_one_for_all() -> None:
    both = (override("a"), override("c", service_name="chat"))

    assert routed(*both)[0] == ["c/m2"]
    assert routed(*both, service="other")[0] == ["a/m2"]


@pytest.mark.parametrize("other", [override("c", user_id="someone"), override("c", service_name="other")])
def test_overrides_of_other_customers_are_ignored(other: Override) -> None:
    assert routed(other) == [["a/m1", "b/m1"], ["c/m1"]]


def test_a_pinned_override_is_the_only_candidate() -> None:
    assert routed(override("c", allow_fallback=False)) == [["c/m2"]]


DORMANT = [("d", "m1"), ("gone", "m1"), ("a", "removed")]


@pytest.mark.parametrize(("name", "model"), DORMANT)
def test_an_override_to_a_disabled_or_missing_provider_is_ignored(name: str, model: str) -> None:
    plan = route(request(), snapshot(ALL, override(name, model)))

    assert names(plan) == [["a/m1", "b/m1"], ["c/m1"]]
    assert plan.override_id is None


@pytest.mark.parametrize(("name", "model"), DORMANT)
def test_an_unusable_override_falls_back_to_the_one_for_all_services(name: str, model: str) -> None:
    assert routed(override(name, model, service_name="chat"), override("c"))[0] == ["c/m2"]


@pytest.mark.parametrize(("name", "model"), DORMANT)
@pytest.mark.parametrize("service", ["chat", None])
def test_an_unusable_pinned_override_is_an_error(name: str, model: str, service: str | None) -> None:
    with pytest.raises(NoProvider) as raised:
        routed(override(name, model, allow_fallback=False, service_name=service), override("a", service_name="x"))

    error = raised.value
    assert error.detail == (
        f"This customer is pinned to {name}/{model}, which is disabled or no longer configured: "
        "enable it, or delete the override."
    )
    assert (error.status, error.code, error.retryable, error.retry_after_s) == (503, "no_provider", False, 30.0)


def test_an_unusable_pinned_override_does_not_fall_back_to_the_one_for_all_services() -> None:
    with pytest.raises(NoProvider):
        routed(override("d", allow_fallback=False, service_name="chat"), override("c"))


@pytest.mark.parametrize("providers", [[], [D]])
def test_without_an_enabled_provider_the_error_says_what_to_do(providers: list[Provider]) -> None:
    with pytest.raises(NoProvider) as raised:
        routed(override("gone"), providers=providers)

    assert raised.value.detail == (
        "No provider is enabled that can be used: create one with POST /api/v1/providers or enable one; if one is "
        "enabled, the gateway's log says what is wrong with it."
    )


def test_an_empty_configuration_has_no_provider() -> None:
    with pytest.raises(NoProvider, match="No provider is enabled"):
        route(request(), Snapshot(providers={}, tiers=(), overrides={}))


PROVIDERS = st.lists(
    st.builds(
        provider,
        st.sampled_from("abcdef"),
        priority=st.integers(0, 3),
        is_enabled=st.booleans(),
        models=st.sampled_from([("m1",), ("m1", "m2")]),
    ),
    unique_by=lambda p: p.name,
)
OVERRIDES = st.lists(
    st.builds(
        override,
        st.sampled_from("abcdef"),
        st.sampled_from(["m1", "m2"]),
        service_name=st.sampled_from(["chat", "other", None]),
        allow_fallback=st.booleans(),
    ),
    unique_by=lambda o: o.service_name,
)


@given(PROVIDERS, OVERRIDES)
def test_every_plan_holds_each_enabled_provider_once(providers: list[Provider], overrides: list[Override]) -> None:
    try:
        plan = route(request(), snapshot(providers, *overrides))
    except NoProvider:
        return
    tried = [candidate.provider for candidate in plan.candidates]
    enabled = {p.name for p in providers if p.is_enabled}

    assert all(tier for tier in plan.tiers)
    assert all(candidate.model in candidate.provider.models for candidate in plan.candidates)
    assert len(tried) == len({p.name for p in tried})
    pinned = any(o.id == plan.override_id and not o.allow_fallback for o in overrides)
    assert {p.name for p in tried} == ({tried[0].name} if pinned else enabled)
    ranks = [(-p.priority, p.name) for p in tried[plan.override_id is not None :]]
    assert ranks == sorted(ranks)


MODELS = st.lists(st.sampled_from(["m1", "a/m1", "b/m1", "a/x", "b/a/m1"]), min_size=1, unique=True).map(tuple)
LISTING = st.lists(
    st.builds(
        provider,
        st.sampled_from("abc"),
        priority=st.integers(0, 1),
        is_enabled=st.booleans(),
        models=MODELS,
        model_aliases=st.sampled_from([None, {"x": "m1"}, {"*": "m1"}]),
    ),
    unique_by=lambda p: p.name,
)


@given(LISTING)
def test_who_names_a_provider_gets_it_whatever_others_call_their_models(providers: list[Provider]) -> None:
    """A provider that lists OpenRouter's model `openai/gpt-4o` gets no request that names the provider openai."""
    made = snapshot(providers, override("c", "m1"))
    for one in providers:
        if not one.is_enabled:
            continue
        for model in one.models:
            assert names(route(request(requested_model=f"{one.name}/{model}"), made)) == [[f"{one.name}/{model}"]]
        for alias, model in (one.model_aliases or {}).items():
            named = f"{one.name}/{alias.replace('*', 'any')}"
            if model in one.models and named not in one.models and f"{one.name}/x" not in one.models:
                assert names(route(request(requested_model=named), made)) == [[f"{one.name}/{model}"]]


class TestAliases:
    ALIASED = provider("x", model_aliases={"claude-*": "m2", "fast": "m1"})

    def test_an_override_comes_before_the_providers_of_an_alias(self) -> None:
        asked = request(requested_model="claude-3")
        assert names(route(asked, snapshot([A, self.ALIASED], override("a")))) == [["a/m2"], ["x/m2"]]

    def test_overrides_do_not_apply_to_an_alias_named_with_its_provider(self) -> None:
        asked = request(requested_model="x/claude-3")
        assert names(route(asked, snapshot([A, self.ALIASED], override("a")))) == [["x/m2"]]

    def test_the_error_for_an_unknown_model_names_the_aliases(self) -> None:
        with pytest.raises(UnknownModel) as raised:
            route(request(requested_model="fats"), snapshot([A, self.ALIASED]))
        assert raised.value.detail == (
            "No enabled provider has the model 'fats'. Did you mean fast? Available models: auto, claude-*, fast, m1, "
            "m2; or name one as provider/model."
        )

    def test_a_name_that_matches_an_alias_passes_the_check_of_names(self) -> None:
        check_model("claude-3", snapshot([self.ALIASED]))
        with pytest.raises(UnknownModel):
            check_model("gpt", snapshot([self.ALIASED]))
