"""Commands `providers …` against a running gateway."""

from __future__ import annotations

import pytest

from tests.cli.command import SetUp, call, execute, on_terminal

Capsys = pytest.CaptureFixture[str]


def add_acme(capsys: Capsys, set_up: SetUp, *flags: str) -> dict[str, object]:
    base_url = set_up.vendor.base_url
    added = call(
        capsys, "providers", "add", "acme", "-m", "ok", "--base-url", base_url, "--no-api-key", "--json", *flags
    )
    found: dict[str, object] = added.json
    return found


def test_a_provider_is_added_with_every_flag(set_up: SetUp, capsys: Capsys) -> None:
    flags = "--display-name Acme --kind openai --priority -3 --rpm 70 --tpm 8000 --timeout 2.5 --disabled -m status-500"
    flags += " --protocols openai_chat,openai_embeddings --alias claude-*=ok --alias fast=status-500 --trace"
    flags += " --context-window 8192 --max-output-tokens ok=100"
    added = add_acme(capsys, set_up, *flags.split(), "--price", "ok=0.15,0.6", "--price", "status-500=1,2")
    assert added == {
        "id": added["id"], "name": "acme", "display_name": "Acme", "base_url": set_up.vendor.base_url,
        "models": ["ok", "status-500"], "is_enabled": False, "rate_limit_rpm": 70, "rate_limit_tpm": 8000,
        "priority": -3, "created_at": added["created_at"], "updated_at": added["updated_at"], "kind": "openai",
        "prices": {"ok": {"input": 0.15, "output": 0.6}, "status-500": {"input": 1, "output": 2}}, "timeout_s": 2.5,
        "protocols": ["openai_chat", "openai_embeddings"], "effective_base_url": set_up.vendor.base_url,
        "model_aliases": {"claude-*": "ok", "fast": "status-500"}, "context_window": 8192,
        "max_output_tokens": {"ok": 100}, "trace": True, "warnings": [],
    }  # fmt: skip
    assert set_up.gateway.call("GET", "/api/v1/providers").json == [added]


def test_omitted_flags_get_the_defaults_of_the_api(set_up: SetUp, capsys: Capsys) -> None:
    given = {
        "name": "acme",
        "display_name": "acme",
        "api_key": "k",
        "models": ["ok"],
        "base_url": set_up.vendor.base_url,
    }
    named = {**given, "name": "other"}
    by_hand = set_up.gateway.call("POST", "/api/v1/providers", named).json
    added = add_acme(capsys, set_up)
    own = {"id", "name", "display_name", "created_at", "updated_at"}
    assert {k: v for k, v in added.items() if k not in own} == {k: v for k, v in by_hand.items() if k not in own}


def test_a_provider_is_listed_and_shown_by_name_or_id(set_up: SetUp, capsys: Capsys) -> None:
    acme = add_acme(capsys, set_up)
    header, row = call(capsys, "providers", "list").rows
    assert dict(zip(header, row, strict=True)) == {
        "name": "acme", "kind": "openai", "models": "ok", "is_enabled": "true", "priority": "10",
        "rate_limit_rpm": "60", "rate_limit_tpm": "100000", "id": acme["id"],
    }  # fmt: skip
    assert call(capsys, "providers", "list", "--json").json == [acme]
    by_name = call(capsys, "providers", "show", "acme")
    assert by_name == call(capsys, "providers", "show", str(acme["id"]))
    assert dict(by_name.rows)["base_url"] == set_up.vendor.base_url
    assert call(capsys, "providers", "show", "acme", "--json").json == acme
    ended = call(capsys, "providers", "show", "acne")
    assert ended.code == 1
    assert ended.sentence == "There is no provider 'acne': there are acme. Did you mean acme?"


def test_update_changes_only_the_given_options(set_up: SetUp, capsys: Capsys) -> None:
    acme = add_acme(capsys, set_up, "--price", "ok=1,2")
    flags = "--new-name zenith --priority 5 --price other=3,4 -m other -m ok"
    after = call(capsys, "providers", "update", "acme", *flags.split(), "--json").json
    prices = {"ok": {"input": 1, "output": 2}, "other": {"input": 3, "output": 4}}
    changed = {"name": "zenith", "priority": 5, "models": ["other", "ok"], "prices": prices}
    assert after == {**acme, **changed, "updated_at": after["updated_at"]}
    assert call(capsys, "providers", "update", "zenith", "--rpm", "7").out == "Updated zenith.\n"
    ended = call(capsys, "providers", "update", "zenith")
    assert (ended.code, "--help" in ended.sentence) == (2, True)


def test_an_empty_base_url_restores_the_vendors_own(set_up: SetUp, capsys: Capsys) -> None:
    flags = ["-m", "x", "--base-url", set_up.vendor.base_url, "--no-api-key", "--json"]
    assert call(capsys, "providers", "add", "groq", *flags).json["base_url"] == set_up.vendor.base_url
    assert call(capsys, "providers", "update", "groq", "--base-url", "", "--json").json["base_url"] is None


def test_protocols_are_set_and_shown_and_an_empty_list_restores_the_vendors(set_up: SetUp, capsys: Capsys) -> None:
    def shown() -> str:
        return dict(call(capsys, "providers", "show", "acme").rows)["protocols"]

    add_acme(capsys, set_up, "--protocols", "openai_chat, openai_responses")
    assert shown() == "openai_chat,openai_responses"
    ended = call(capsys, "providers", "update", "acme", "--protocols", "gemini_content")
    assert ended.code == 1
    assert ended.sentence.endswith("choose from openai_chat, openai_responses, openai_embeddings.")
    assert call(capsys, "providers", "update", "acme", "--protocols", "").out == "Updated acme.\n"
    assert shown() == ""


def test_a_disabled_provider_serves_again_once_enabled(set_up: SetUp, capsys: Capsys) -> None:
    add_acme(capsys, set_up)
    assert call(capsys, "providers", "disable", "acme").out == "Disabled acme.\n"
    assert set_up.gateway.ask().json["code"] == "no_provider"
    assert call(capsys, "providers", "enable", "acme", "--json").json["is_enabled"] is True
    assert set_up.gateway.ask().status == 200


def test_a_test_ends_with_1_if_a_provider_does_not_answer(set_up: SetUp, capsys: Capsys) -> None:
    add_acme(capsys, set_up)
    assert call(capsys, "providers", "test", "acme").rows == [["name", "success", "error"], ["acme", "true", ""]]
    assert call(capsys, "providers", "test", "acme", "--json").json == {"success": True, "error": None}
    assert (
        call(capsys, "providers", "add", "gone", "-m", "x", "--base-url", "http://127.0.0.1:9/v1", "--no-api-key").code
        == 0
    )
    one = call(capsys, "providers", "test", "gone")
    assert (one.code, one.err) == (1, "")
    assert "gone\tfalse\tNo connection" in one.out
    every = call(capsys, "providers", "test", "--json")
    assert every.code == 1
    assert '"success": true' in every.out
    assert '"success": false' in every.out


def test_a_removed_provider_is_no_longer_listed(set_up: SetUp, capsys: Capsys) -> None:
    acme = add_acme(capsys, set_up)
    assert call(capsys, "providers", "remove", "acme", "--json").json == acme
    assert call(capsys, "providers", "list", "--json").json == []
    ended = call(capsys, "providers", "remove", "acme")
    assert (ended.code, ended.sentence) == (1, "There is no provider 'acme': none is configured.")


def test_an_error_of_the_gateway_is_shown_as_its_sentence(set_up: SetUp, capsys: Capsys) -> None:
    add_acme(capsys, set_up)
    for flags, said in (
        (["add", "acme", "-m", "x", "--base-url", set_up.vendor.base_url], "exists already"),
        (["add", "unheard", "-m", "x", "--alias", "y=z"], "not in models"),
        (["add", "Bad Name", "-m", "x"], "name"),
    ):
        ended = call(capsys, "providers", *flags, "--no-api-key")
        assert ended.code == 1
        assert said in ended.sentence


@pytest.mark.parametrize("price", ["ok", "ok=1", "ok=1,2,3", "=1,2", "ok=a,b", "ok=-1,2", "ok=nan,1"])
def test_an_invalid_price_ends_with_2(set_up: SetUp, capsys: Capsys, price: str) -> None:
    ended = call(capsys, "providers", "add", "acme", "-m", "ok", "--no-api-key", "--price", price)
    assert (ended.code, "MODEL=IN,OUT" in ended.sentence) == (2, True)


def test_a_price_can_be_set_for_any_model_name(set_up: SetUp, capsys: Capsys) -> None:
    added = add_acme(capsys, set_up, "-m", "meta/llama:free=1", "--price", "meta/llama:free=1=0.5,1")
    assert added["prices"] == {"meta/llama:free=1": {"input": 0.5, "output": 1}}


def test_on_a_terminal_providers_are_a_table_with_titles(set_up: SetUp) -> None:
    empty = on_terminal("providers", "list")
    assert empty.out.strip() == "No providers yet. Add one: llm-gateway providers add openai --model gpt-4o-mini"
    models = ["-m", "ok", "-m", "b", "-m", "c", "-m", "d"]
    flags = [
        *models,
        "--base-url",
        set_up.vendor.base_url,
        "--tpm",
        "1000000",
        "--no-api-key",
        "--price",
        "ok=0.15,0.6",
    ]
    added = on_terminal("providers", "add", "acme", *flags)
    assert "Added acme: ok, b, c, d, priority 10.\n" in added.out
    assert "llm-gateway providers test acme" in added.out
    shown = on_terminal("providers", "list")
    assert "Tokens/min" in shown.out
    assert "ok, b, c, 1 more" in shown.out
    assert "1,000,000" in shown.out
    assert "\t" not in shown.out
    details = on_terminal("providers", "show", "acme").out
    assert "ok, b, c, d" in details
    assert "ok: input 0.15, output 0.6" in details


def test_removing_a_provider_on_a_terminal_asks_first(set_up: SetUp, capsys: Capsys) -> None:
    add_acme(capsys, set_up)
    for typed in ("n\n", "\n", "\x04"):
        kept = on_terminal("providers", "remove", "acme", typed=typed)
        assert kept.code == 1
        assert "cannot be undone" in kept.out
        assert "Traceback" not in kept.out
    assert on_terminal("providers", "remove", "acme", typed="\x03").code == 130
    assert len(call(capsys, "providers", "list", "--json").json) == 1
    assert on_terminal("providers", "remove", "acme", typed="y\n").code == 0
    add_acme(capsys, set_up)
    assert on_terminal("providers", "remove", "acme", "--yes").out == "Removed acme.\n"
    assert execute("providers", "list", "--json").json == []


def test_aliases_and_token_limits_are_added_and_removed(set_up: SetUp, capsys: Capsys) -> None:
    def updated(*flags: str) -> dict[str, object]:
        found: dict[str, object] = call(capsys, "providers", "update", "acme", *flags, "--json").json
        return found

    add_acme(capsys, set_up, "--alias", "a*=ok", "--context-window", "ok=10")
    assert updated("--alias", "b=ok")["model_aliases"] == {"a*": "ok", "b": "ok"}
    assert updated("--alias", "", "--alias", "c=ok")["model_aliases"] == {"c": "ok"}
    assert updated("-m", "ok", "-m", "more", "--context-window", "more=20")["context_window"] == {"ok": 10, "more": 20}
    assert dict(call(capsys, "providers", "show", "acme").rows)["model_aliases"] == '{"c": "ok"}'
    assert dict(call(capsys, "providers", "show", "acme").rows)["context_window"] == '{"ok": 10, "more": 20}'
    after = updated("--alias", "", "--context-window", "", "--no-trace")
    assert (after["model_aliases"], after["context_window"], after["trace"]) == (None, None, False)


@pytest.mark.parametrize("option", ["--context-window", "--max-output-tokens"])
def test_a_token_limit_of_one_model_leaves_the_other_models_theirs(set_up: SetUp, capsys: Capsys, option: str) -> None:
    def updated(*flags: str) -> object:
        found = call(capsys, "providers", "update", "acme", *flags, "--json").json
        return found[option[2:].replace("-", "_")]

    add_acme(capsys, set_up, "-m", "more", option, "8000")
    assert updated(option, "more=100") == {"ok": 8000, "more": 100}
    assert updated(option, "ok=200") == {"ok": 200, "more": 100}
    assert updated(option, "7000") == 7000
    assert updated("-m", "ok", "-m", "third", option, "third=30") == {"ok": 7000, "third": 30}
    assert updated(option, "", option, "ok=5") == {"ok": 5}


def test_prices_are_added_and_removed(set_up: SetUp, capsys: Capsys) -> None:
    def updated(*flags: str) -> object:
        return call(capsys, "providers", "update", "acme", *flags, "--json").json["prices"]

    add_acme(capsys, set_up, "-m", "more", "--price", "ok=1,2")
    ok, more = {"input": 1.0, "output": 2.0}, {"input": 3.0, "output": 4.0}
    assert updated("--price", "more=3,4") == {"ok": ok, "more": more}
    assert updated("--price", "", "--price", "more=3,4") == {"more": more}
    assert updated("--price", "") is None


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        (("--alias", "claude"), "--alias"),
        (("--alias", "=ok"), "--alias"),
        (("--context-window", "8k"), "--context-window"),
        (("--context-window", "10", "--context-window", "20"), "--context-window"),
        (("--max-output-tokens", "ok="), "--max-output-tokens"),
    ],
)
def test_a_malformed_alias_or_token_limit_is_explained(
    set_up: SetUp, capsys: Capsys, flags: tuple[str, ...], option: str
) -> None:
    add_acme(capsys, set_up)
    ended = call(capsys, "providers", "update", "acme", *flags)
    assert ended.code == 2
    assert ended.sentence.startswith(f"{option} takes ")


def test_a_warning_of_the_gateway_is_printed(set_up: SetUp, capsys: Capsys) -> None:
    added = call(capsys, "providers", "add", "opnai", "-m", "gpt", "--no-api-key")
    assert "Did you mean openai?" in added.err
    shown = dict(call(capsys, "providers", "show", "opnai").rows)
    assert shown["effective_base_url"] == "https://api.openai.com/v1"
    assert "Did you mean openai?" in shown["warnings"]
    assert "Warning" not in call(capsys, "providers", "update", "opnai", "--new-name", "openai").err
