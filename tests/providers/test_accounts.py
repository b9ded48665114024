"""Accounts of stored providers, and the callable providers that another process assembles from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.catalog import CallToSign, Candidate, Provider
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.usage import FREE, Price
from llm_gateway.errors import ConfigurationError
from llm_gateway.providers import local, openai
from llm_gateway.providers.account_assembler import AccountAssembler
from llm_gateway.providers.account_resolver import AccountResolver
from llm_gateway.providers.presets import Preset, base_url_of, load_presets, vendor_of
from llm_gateway.providers.prices import PriceList
from llm_gateway.worker.pipeline.translation import Translation
from tests.worker.pipeline.fakes import provider, request

LISTED = Price(input=((0, 1),), output=((0, 2),))


class Prices(PriceList):
    """A price list with one model, which records its lookups."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str | None, str]] = []

    def vendor_of(self, preset: str | None) -> str | None:
        return f"vendor of {preset}"

    def find(self, preset: str | None, model: str) -> Price | None:
        self.asked.append((preset, model))
        return LISTED if model == "listed" else None

    def context_window(self, preset: str | None, model: str) -> int | None:
        return 128_000 if model == "listed" and preset == "acme" else None


class Signature:
    """An authorizer for single calls."""

    async def __call__(self, call: CallToSign) -> bytes:
        return f"x-signature: {call.method}\r\n".encode()


PRESETS = {
    "acme": Preset("openai", "https://api.acme.test/v1"),
    "whole": Preset("openai", "https://whole.test/v1", protocols=("openai_chat", "openai_responses")),
    "plain": Preset("openai", "https://plain.test/v1", has_json_mode=False),
    "local": Preset("local"),
}


class Bench:
    """The way of a stored provider: it is resolved, sent to another process and assembled there."""

    def __init__(
        self,
        endpoint: tuple[str, str] | None = None,
        *,
        signs: bool = False,
        presets: Mapping[str, Preset] = PRESETS,
    ) -> None:
        self.learned: list[str] = []
        self.learned_by_worker: list[str] = []
        self.prices = Prices()
        dialects = {"openai": openai, "local": local}
        self._resolver = AccountResolver(
            dialects=dialects,
            presets=presets,
            prices=self.prices,
            local_endpoint=lambda: endpoint,
            learn=self.learned.extend,
        )
        self._assembler = AccountAssembler(
            dialects=dialects,
            learn=self.learned_by_worker.extend,
            authorize=lambda _provider, _key: Signature() if signs else None,
        )

    def prepare(self, stored: Provider, api_key: str) -> Provider:
        account = self._resolver.resolve(stored, api_key)
        assert "-key" not in repr(account)
        sent = msgspec.msgpack.encode(Configuration(accounts=(account,)))
        received = msgspec.msgpack.decode(sent, type=Configuration)
        assert received.accounts == (account,)
        return self._assembler.assemble(received.accounts[0])


def stored(name: str = "acme", **changes: Any) -> Provider:
    bare: dict[str, Any] = {
        "target": None,
        "codecs": {},
        "translation_codec": None,
        "price_by_model": {},
        "models": ("listed", "other"),
    }
    return provider(name, **{**bare, **changes})


def test_a_provider_without_a_base_url_gets_that_of_its_preset() -> None:
    prepared = Bench().prepare(stored(), "the-key")

    assert prepared.target is not None
    assert prepared.target.root == "https://api.acme.test/v1"
    assert prepared.target.headers["authorization"] == "Bearer the-key"


def test_an_explicit_base_url_replaces_that_of_the_preset() -> None:
    prepared = Bench().prepare(stored(base_url="https://proxy.test"), "k")

    assert prepared.target is not None
    assert prepared.target.root == "https://proxy.test"
    assert prepared.base_url == "https://proxy.test", "and is shown as it was given"


@pytest.mark.parametrize(("name", "is_asked"), [("acme", True), ("plain", False), ("unknown", True)])
def test_json_mode_is_requested_unless_the_preset_lacks_it(name: str, is_asked: bool) -> None:
    prepared = Bench().prepare(stored(name, base_url="https://x.test"), "k")

    call = Translation().call(request(json_mode=True), Candidate.of(prepared, "listed"))

    assert (b"response_format" in call.body) is is_asked


class TestProtocols:
    @pytest.mark.parametrize(
        ("name", "protocols", "spoken"),
        [
            ("acme", None, {"openai_chat", "openai_embeddings"}),
            ("whole", None, {"openai_chat", "openai_responses"}),
            ("whole", ("openai_chat",), {"openai_chat"}),
            ("acme", ("openai_responses",), {"openai_responses"}),
        ],
    )
    def test_protocols_come_from_the_provider_else_its_preset_else_its_kind(
        self, name: str, protocols: tuple[str, ...] | None, spoken: set[str]
    ) -> None:
        prepared = Bench().prepare(stored(name, protocols=protocols), "k")

        assert set(prepared.codecs) == spoken
        assert prepared.protocols == protocols, "and are shown as they were given"

    def test_the_protocols_of_a_preset_do_not_apply_to_another_kind(self) -> None:
        bench = Bench(("http://127.0.0.1:1/v1", "its-key"))
        assert set(bench.prepare(stored("whole", kind="local"), "k").codecs) == {"openai_chat", "openai_embeddings"}

    def test_a_protocol_that_the_kind_does_not_support_is_a_configuration_error(self) -> None:
        with pytest.raises(
            ConfigurationError,
            match=r"^A provider of kind 'openai' does not support the protocol 'gemini_content': choose from ",
        ):
            Bench().prepare(stored(protocols=("gemini_content",)), "k")


class TestAuthorize:
    def test_a_static_key_is_in_the_headers_without_an_authorizer(self) -> None:
        target = Bench().prepare(stored(), "the-key").target

        assert target is not None
        assert (target.authorize, target.headers["authorization"]) == (None, "Bearer the-key")

    def test_the_headers_of_an_account_with_an_authorizer_do_not_contain_the_key(self) -> None:
        target = Bench(signs=True).prepare(stored(), "the-key").target

        assert target is not None
        assert isinstance(target.authorize, Signature)
        assert "authorization" not in target.headers

    def test_a_new_snapshot_keeps_the_authorizer(self) -> None:
        bench = Bench(signs=True)
        first, again = bench.prepare(stored(), "k"), bench.prepare(stored(priority=99), "k")

        assert again.target == first.target

    @pytest.mark.parametrize(("changes", "key"), [({}, "other"), ({"base_url": "https://x.test"}, "k")])
    def test_another_key_or_base_url_gets_a_new_authorizer(self, changes: dict[str, Any], key: str) -> None:
        bench = Bench(signs=True)
        first, other = bench.prepare(stored(), "k"), bench.prepare(stored(**changes), key)

        assert first.target is not None
        assert other.target is not None
        assert other.target.authorize is not first.target.authorize


def test_the_stored_fields_of_a_provider_stay_unchanged() -> None:
    before = stored(base_url=None)
    prepared = Bench().prepare(before, "k")

    assert (prepared.id, prepared.name, prepared.models, prepared.base_url) == (
        before.id,
        "acme",
        ("listed", "other"),
        None,
    )


def test_a_provider_without_any_base_url_is_a_configuration_error() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^It has no base_url, and the kind 'openai' has no default: set base_url\.$"
    ):
        Bench().prepare(stored("unknown"), "k")


def test_a_provider_of_an_unknown_kind_is_a_configuration_error() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^This version does not support providers of kind 'smoke': choose from openai, "
    ):
        Bench().prepare(stored(kind="smoke"), "k")


class TestPrices:
    def test_the_operators_price_takes_precedence_over_the_list(self) -> None:
        bench = Bench()
        prepared = bench.prepare(stored(prices={"listed": {"input": 2.5, "output": 10}}), "k")

        assert prepared.price_by_model == {"listed": Price(input=((0, 2_500_000_000),), output=((0, 10_000_000_000),))}
        assert bench.prices.asked == [("acme", "other")]

    def test_the_list_is_searched_by_the_configured_model_name(self) -> None:
        bench = Bench()

        assert bench.prepare(stored(), "k").price_by_model == {"listed": LISTED}
        assert bench.prices.asked == [("acme", "listed"), ("acme", "other")]

    def test_a_provider_without_a_preset_is_looked_up_by_model_name_only(self) -> None:
        bench = Bench()
        bench.prepare(stored("mine", base_url="https://x.test"), "k")

        assert bench.prices.asked == [(None, "listed"), (None, "other")]

    def test_an_account_at_a_vendors_address_is_looked_up_in_the_vendors_list(self) -> None:
        bench = Bench()
        prepared = bench.prepare(stored("second", base_url="https://api.acme.test/v1"), "k")

        assert bench.prices.asked == [("acme", "listed"), ("acme", "other")]
        assert prepared.price_vendor == "vendor of acme"

    def test_reported_model_names_are_looked_up_in_the_vendors_list(self) -> None:
        prepare = Bench(("http://127.0.0.1:1/v1", "k")).prepare

        assert prepare(stored(), "k").price_vendor == "vendor of acme"
        assert prepare(stored("mine", base_url="https://x.test"), "k").price_vendor == "vendor of None"
        assert prepare(stored("mine", kind="local"), "k").price_vendor is None

    def test_local_models_are_free(self) -> None:
        bench = Bench(("http://127.0.0.1:1/v1", "k"))
        prepared = bench.prepare(stored("mine", kind="local"), "k")

        assert prepared.price_by_model == {"listed": FREE, "other": FREE}
        assert bench.prices.asked == []

    def test_the_operator_can_set_a_price_for_a_local_model(self) -> None:
        own = {"listed": {"input": 1.0, "output": 1.0}}
        prepared = Bench(("http://127.0.0.1:1/v1", "k")).prepare(stored("local", kind="local", prices=own), "k")

        assert prepared.price_by_model["listed"] == Price(input=((0, 10**9),), output=((0, 10**9),))
        assert prepared.price_by_model["other"] == FREE


class TestLocal:
    def test_the_embedded_model_has_the_address_and_key_of_its_server(self) -> None:
        bench = Bench(("http://127.0.0.1:4321/v1", "its-key"))
        prepared = bench.prepare(stored("local", kind="local"), "unused")

        assert prepared.target is not None
        assert prepared.target.root == "http://127.0.0.1:4321/v1"
        assert prepared.target.headers["authorization"] == "Bearer its-key"
        assert bench.learned == ["unused", "its-key"]
        assert bench.learned_by_worker == ["its-key"]

    def test_an_embedded_model_that_does_not_run_is_a_configuration_error(self) -> None:
        with pytest.raises(ConfigurationError, match="The embedded local model is not running: set"):
            Bench().prepare(stored("local", kind="local"), "k")

    def test_a_local_provider_with_a_base_url_uses_that_server(self) -> None:
        prepared = Bench().prepare(stored("mine", kind="local", base_url="http://gpu.test:8080/v1"), "k")

        assert prepared.target is not None
        assert prepared.target.root == "http://gpu.test:8080/v1"
        assert prepared.target.headers["authorization"] == "Bearer k"


@pytest.mark.parametrize("changes", [{}, {"kind": "smoke"}, {"name": "unknown"}], ids=repr)
def test_the_key_is_learned_for_redaction_even_if_resolving_fails(changes: dict[str, Any]) -> None:
    bench = Bench()
    try:
        bench.prepare(stored(**changes), "the-key")
    except ConfigurationError:
        assert changes
    assert bench.learned == ["the-key"]
    assert bench.learned_by_worker == ([] if changes else ["the-key"])


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (None, {"listed": 128_000}),
        (8192, {"listed": 8192, "other": 8192}),
        ({"other": 4096}, {"listed": 128_000, "other": 4096}),
        ({"listed": 1, "gone": 2}, {"listed": 1}),
    ],
)
def test_the_context_window_is_the_operators_else_that_of_the_public_list(own: Any, found: dict[str, int]) -> None:
    assert Bench().prepare(stored(context_window=own), "k").context_window_by_model == found


def test_the_embedded_model_gets_no_context_window_of_a_model_for_sale() -> None:
    embedded = stored("local", kind="local")
    assert Bench(("http://127.0.0.1:1/v1", "its-key")).prepare(embedded, "k").context_window_by_model == {}


def test_without_a_preset_the_address_is_that_of_the_kinds_vendor() -> None:
    presets = {"openai": Preset("openai", "https://api.openai.test/v1"), "acme": Preset("openai", "https://acme.test")}
    assert base_url_of("other", "openai", None, presets) == "https://api.openai.test/v1"
    assert base_url_of("acme", "openai", None, presets) == "https://acme.test"
    assert base_url_of("acme", "openai", "https://own.test", presets) == "https://own.test"
    assert base_url_of("other", "smoke", None, presets) is None
    assert base_url_of("local", "local", None, presets) is None


def test_the_public_list_knows_context_windows() -> None:
    prices = PriceList()
    assert prices.context_window("openai", "gpt-4o-mini") == 128_000
    assert prices.context_window(None, "claude-haiku-4-5-20251001") == 200_000
    assert prices.context_window("ollama", "gpt-4o-mini") is None
    assert prices.context_window("openai", "x" * 1000) is None


@pytest.mark.parametrize(
    ("name", "kind", "base_url", "vendor"),
    [
        ("groq", "openai", None, "groq"),
        ("groq", "openai", "http://127.0.0.1:1/v1", "groq"),
        ("my second account", "openai", "https://api.groq.com/openai/v1", "groq"),
        ("mine", "openai", "https://llm.example.com/v1", ""),
        ("mine", "openai", "http://localhost:8000/v1", ""),
        ("mine", "openai", None, "openai"),
        ("mine", "anthropic", None, "anthropic"),
        ("mine", "gemini", None, "gemini"),
        ("mine", "local", None, ""),
    ],
)
def test_the_vendor_of_an_account_is_known_by_its_name_or_by_the_host_of_its_address(
    name: str, kind: str, base_url: str | None, vendor: str
) -> None:
    assert vendor_of(name, kind, base_url, load_presets()) == vendor


def test_an_account_without_an_address_has_the_rules_of_the_vendor_that_it_is_sent_to() -> None:
    prepare = Bench(presets=load_presets()).prepare
    account = prepare(stored("second", base_url=None, models=("gpt-4o",)), "key")

    body = {"messages": [], "top_k": 5}
    assert account.target is not None
    assert account.target.root == "https://api.openai.com/v1"
    assert account.rules_by_model["gpt-4o"].passed["openai_chat"].apply(body).dropped == ["top_k"]


def test_a_prepared_provider_has_the_rules_of_its_vendor_for_each_model() -> None:
    prepare = Bench(presets=load_presets()).prepare
    account = stored("mine", base_url="https://api.groq.com/openai/v1", models=("gpt-oss-20b", "llama-4"))

    rules = prepare(account, "key").rules_by_model

    assert set(rules) == {"gpt-oss-20b", "llama-4"}
    body = {"messages": [], "reasoning_effort": "xhigh"}
    assert rules["gpt-oss-20b"].passed["openai_chat"].apply(body).dropped == ["reasoning"]
    assert body["reasoning_effort"] == "high"
    unknown = prepare(stored("mine", base_url="https://llm.example.com/v1", models=("llama-4",)), "key")
    assert unknown.rules_by_model == {}
