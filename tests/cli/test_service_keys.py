"""Commands `keys …` and `teams …` against a running gateway."""

from __future__ import annotations

import pytest

from llm_gateway.domain.key_secret import looks_like_secret
from llm_gateway.store.peppers import parse_peppers
from tests.cli.command import call

Capsys = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("set_up")
def test_a_key_of_a_team_from_its_making_to_its_end(capsys: Capsys) -> None:
    assert call(capsys, "teams", "add", "core", "--description", "Core").out == "Added core.\n"
    options = (
        "--team",
        "core",
        "--scope",
        "call+read",
        "-m",
        "gpt-*",
        "--fixed-service",
        "shop",
        "--tag",
        "stage=beta",
    )
    secret = call(capsys, "keys", "add", "shop", *options, "--rpm", "600").out.strip()
    assert looks_like_secret(secret)
    key = call(capsys, "keys", "show", "shop", "--json").json
    [team] = call(capsys, "teams", "list", "--json").json
    wanted = {
        "scopes": ["call", "read"], "team_id": team["id"], "models": ["gpt-*"], "services": {"fixed": "shop"},
        "tags": {"stage": "beta"}, "rpm": 600, "last4": secret[-4:],
    }  # fmt: skip
    assert {name: key[name] for name in wanted} == wanted
    child = call(capsys, "keys", "add", "child", "--parent", "shop", "--json").json
    assert child["parent_id"] == key["id"]
    header, *rows = call(capsys, "keys", "list", "--team", "core").rows
    assert [row[header.index("name")] for row in rows] == ["shop"]
    assert (
        call(capsys, "keys", "set", "shop", "--clear", "rpm", "--name", "store", "--disabled").out == "Changed store.\n"
    )
    changed = call(capsys, "keys", "show", key["id"], "--json").json
    assert (changed["name"], changed["rpm"], changed["disabled"], changed["models"]) == ("store", None, True, ["gpt-*"])
    assert call(capsys, "keys", "set", "store", "--enabled", "--json").json["disabled"] is False
    assert looks_like_secret(call(capsys, "keys", "rotate", "store", "--overlap", "30m").out.strip())
    assert "is the parent of 1 key" in call(capsys, "keys", "remove", "store").sentence
    assert "1 key belongs to this team" in call(capsys, "teams", "remove", "core").sentence
    assert call(capsys, "keys", "remove", "child").out == "Removed child.\n"
    assert call(capsys, "keys", "remove", "store", "--json").json["id"] == key["id"]
    assert call(capsys, "teams", "set", "core", "--name", "platform").out == "Changed platform.\n"
    assert call(capsys, "teams", "show", "platform").out.startswith("name\tplatform\n")
    assert call(capsys, "teams", "remove", "platform").out == "Removed platform.\n"


@pytest.mark.usefixtures("set_up")
def test_wrong_options_end_with_a_sentence(capsys: Capsys) -> None:
    rows = [
        (("keys", "show", "nobody"), 1, "There is no key named nobody"),
        (("keys", "add", "x", "--team", "nobody"), 1, "There is no team named nobody"),
        (("keys", "set", "dev", "--rpm", "5"), 1, "a key of the environment"),
        (("keys", "set", "dev"), 2, "Name what to change"),
        (("keys", "set", "dev", "--clear", "name"), 2, "--clear takes"),
        (("keys", "add", "x", "-m", "a", "--fixed-model", "b"), 2, "not both"),
        (("keys", "add", "x", "--tag", "beta"), 2, "--tag takes NAME=TEXT"),
        (("keys", "rotate", "dev", "--overlap", "soon"), 2, "--overlap takes a duration"),
        (("keys", "rotate", "dev", "--overlap", "24"), 2, "with its unit, such as 30m, 24h or 7d, not '24'"),
        (("teams", "set", "x"), 2, "Give --name or --description"),
    ]
    for arguments, code, words in rows:
        ended = call(capsys, *arguments)
        assert (ended.code, words in ended.sentence) == (code, True), ended


def test_a_new_pepper_fits_the_setting(capsys: Capsys) -> None:
    made = call(capsys, "keys", "new", "--pepper", "--json").json
    [pepper] = parse_peppers(made["entry"])
    assert (pepper.version, pepper.secret.decode()) == (made["version"], made["pepper"])
