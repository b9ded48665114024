"""Commands `overrides …` against a running gateway."""

from __future__ import annotations

import pytest

from tests.cli.command import SetUp, call, on_terminal

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def with_acme(set_up: SetUp) -> SetUp:
    set_up.gateway.provider("acme", set_up.vendor.base_url, models=["ok", "status-500"])
    return set_up


def test_an_override_is_added_listed_and_removed(with_acme: SetUp, capsys: Capsys) -> None:
    added = call(
        capsys, "overrides", "add", "alice", "acme", "status-500", "--service", "shop", "--only", "--json"
    ).json
    assert added == {
        "id": added["id"], "user_id": "alice", "service_name": "shop", "provider_name": "acme",
        "model_name": "status-500", "allow_fallback": False,
        "created_at": added["created_at"], "updated_at": added["updated_at"],
    }  # fmt: skip
    said = call(capsys, "overrides", "add", "bob", "acme")
    assert said.out == "Added: bob, all services: first acme ok.\n"
    header, alice, bob = call(capsys, "overrides", "list").rows
    assert header == ["user_id", "service_name", "provider_name", "model_name", "allow_fallback", "id"]
    assert alice == ["alice", "shop", "acme", "status-500", "false", added["id"]]
    assert bob[:5] == ["bob", "", "acme", "ok", "true"]
    assert call(capsys, "overrides", "list", "--customer", "alice", "--json").json == [added]
    assert call(capsys, "overrides", "remove", added["id"], "--json").json == added
    assert call(capsys, "overrides", "remove", "bob").out == "Removed: bob, all services: first acme ok.\n"
    assert call(capsys, "overrides", "list", "--json").json == []


def test_the_provider_can_be_named_by_its_id(with_acme: SetUp, capsys: Capsys) -> None:
    [provider] = with_acme.gateway.call("GET", "/api/v1/providers").json
    assert call(capsys, "overrides", "add", "alice", provider["id"], "--json").json["provider_name"] == "acme"


def test_removing_one_of_several_overrides_requires_its_id(with_acme: SetUp, capsys: Capsys) -> None:
    for service in ([], ["--service", "shop"]):
        assert call(capsys, "overrides", "add", "alice", "acme", *service).code == 0
    ended = call(capsys, "overrides", "remove", "alice")
    assert ended.code == 1
    assert "alice has 2 overrides" in ended.sentence
    assert "(all services)" in ended.sentence
    assert call(capsys, "overrides", "remove", "alice", "--service", "shop").code == 0
    assert call(capsys, "overrides", "remove", "alice").code == 0
    ended = call(capsys, "overrides", "remove", "alice")
    assert (ended.code, ended.sentence) == (1, "There is no such override of alice: see llm-gateway overrides list.")


def test_an_error_of_the_gateway_is_shown_as_its_sentence(with_acme: SetUp, capsys: Capsys) -> None:
    ended = call(capsys, "overrides", "add", "alice", "acme", "unknown-model")
    assert (ended.code, "unknown-model" in ended.sentence or "model" in ended.sentence) == (1, True)
    ended = call(capsys, "overrides", "add", "alice", "nobody")
    assert (ended.code, ended.sentence) == (1, "There is no provider 'nobody': there are acme.")
    assert call(capsys, "overrides", "add", "alice", "acme").code == 0
    assert call(capsys, "overrides", "add", "alice", "acme").code == 1


def test_control_characters_in_a_customers_name_are_escaped(with_acme: SetUp, capsys: Capsys) -> None:
    assert "\x1b" not in call(capsys, "overrides", "add", "evil\x1b[2J[red]\t\n", "acme").out
    shown = on_terminal("overrides", "list").out
    assert "evil\\u001b[2J[red]\\u0009\\u000a" in shown
    assert call(capsys, "overrides", "list", "--json").json[0]["user_id"] == "evil\x1b[2J[red]\t\n"


def test_on_a_terminal_overrides_are_a_table_with_titles(with_acme: SetUp, capsys: Capsys) -> None:
    assert "llm-gateway overrides add" in on_terminal("overrides", "list").out
    assert call(capsys, "overrides", "add", "alice", "acme").code == 0
    header, _, row = on_terminal("overrides", "list").out.splitlines()
    assert header.split() == ["Customer", "Service", "Provider", "Model", "Fallback", "Id"]
    assert row.split()[:5] == ["alice", "all", "acme", "ok", "yes"]
