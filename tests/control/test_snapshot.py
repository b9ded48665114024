"""Configuration snapshot built from the stored providers and overrides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.control.embedded_model import OnlyModelWarning
from llm_gateway.domain.catalog import Provider, Snapshot
from tests.worker.pipeline.fakes import override, provider, snapshot


def names(made: Snapshot) -> list[list[str]]:
    return [[f"{c.provider.name}/{c.model}" for c in tier] for tier in made.tiers]


def test_a_snapshot_of_an_empty_store_is_empty() -> None:
    assert snapshot([]) == Snapshot(providers={}, tiers=(), overrides={})


def test_tiers_are_ordered_by_priority_then_name() -> None:
    made = snapshot(
        [
            provider("d", priority=-1),
            provider("b", models=("x", "y")),
            provider("c", priority=11),
            provider("a"),
            provider("off", priority=99, is_enabled=False),
        ]
    )

    assert names(made) == [["c/m1"], ["a/m1", "b/x"], ["d/m1"]]
    assert set(made.providers) == {"a", "b", "c", "d", "off"}


def test_overrides_are_found_by_customer_and_service() -> None:
    one, two = override("a"), override("b", service_name="chat")
    made = snapshot([], one, two)

    assert made.overrides == {("user", None): one, ("user", "chat"): two}


PROVIDERS = st.lists(
    st.builds(provider, st.sampled_from("abcdefgh"), priority=st.integers(-3, 3), is_enabled=st.booleans()),
    unique_by=lambda p: p.name,
)


@given(PROVIDERS, st.randoms())
def test_the_order_of_stored_providers_does_not_matter(providers: list[Provider], random: object) -> None:
    shuffled = providers.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis' st.randoms() gives a Random

    assert names(snapshot(shuffled)) == names(snapshot(providers))


@given(PROVIDERS)
def test_every_enabled_provider_is_in_the_tier_of_its_priority(providers: list[Provider]) -> None:
    made = snapshot(providers)
    priorities = [{candidate.provider.priority for candidate in tier} for tier in made.tiers]

    assert all(len(of_tier) == 1 for of_tier in priorities)
    assert [p for tier in priorities for p in tier] == sorted({p.priority for p in providers if p.is_enabled})[::-1]
    assert sum(len(tier) for tier in made.tiers) == sum(p.is_enabled for p in providers)


def embedded(priority: int = 0) -> Provider:
    return provider("local", kind="local", models=("toy",), priority=priority)


def test_the_embedded_model_answers_while_it_is_the_only_provider() -> None:
    assert names(snapshot([embedded()])) == [["local/toy"]]
    assert names(snapshot([embedded(), provider("a", is_enabled=False)])) == [["local/toy"]]


def test_the_embedded_model_is_no_fallback_of_a_real_provider_but_may_be_named() -> None:
    made = snapshot([embedded(priority=99), provider("a")])
    assert names(made) == [["a/m1"]]
    assert {"toy", "local/toy"} <= set(made.tiers_by_model)


def test_a_local_server_of_the_operators_own_is_a_real_provider() -> None:
    own = provider("box", kind="local", base_url="http://127.0.0.1:1/v1", models=("qwen",))
    assert names(snapshot([embedded(), own])) == [["box/qwen"]]


def test_one_warning_is_logged_when_the_embedded_model_becomes_the_only_one() -> None:
    logged: list[dict[str, object]] = []
    warn = OnlyModelWarning(lambda event, **fields: logged.append({"event": event, **fields}))
    for providers in ([], [embedded()], [embedded()], [embedded(), provider("a")], [provider("a")]):
        warn(snapshot(providers))
    assert [(line["level"], line["model"]) for line in logged] == [("warning", "toy")]
    warn(snapshot([embedded()]))
    event = (
        "only the embedded model answers, which is small and invents things: add a provider with "
        "POST /api/v1/providers or `llm-gateway providers add`"
    )
    assert [line["event"] for line in logged] == [event] * 2
