"""Commands `people …` against a running gateway."""

from __future__ import annotations

import io

import pytest

from tests.cli.command import call

Capsys = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("set_up")
def test_a_person_from_its_making_to_its_end(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    call(capsys, "teams", "add", "sales")
    typed("correct horse battery\n")
    assert call(capsys, "people", "add", "ann", "--role", "own", "--team", "sales").out == "Added ann.\n"
    [ann] = call(capsys, "people", "list", "--json").json
    assert (ann["role"], ann["team_id"] is None, ann["disabled"]) == ("own", False, False)
    assert "1 person belongs to this team" in call(capsys, "teams", "remove", "sales").sentence
    assert call(capsys, "people", "role", "ann", "viewer", "--disabled").out == "Changed ann.\n"
    header, row = call(capsys, "people", "list").rows
    assert dict(zip(header, row, strict=True))["role"] == "viewer"
    for text, command, words in (
        ("", ("password", "ann"), "No password was given"),
        ("short\n", ("password", "ann"), "12"),
        ("correct horse battery\n", ("add", "ann"), "A person named 'ann' exists"),
        ("", ("role", "ann", "root"), "root"),
        ("", ("role", "bob", "admin"), "There is no person named bob: see llm-gateway people list."),
        ("", ("role", "ann", "own"), "bound to a team"),
    ):
        typed(text)
        assert words in call(capsys, "people", *command).sentence, command
    typed("another long password\n")
    assert call(capsys, "people", "password", "ann").out == "Changed ann.\n"
    assert call(capsys, "people", "remove", "ann").out == "Removed ann.\n"
    assert call(capsys, "people", "list", "--json").json == []
    assert call(capsys, "teams", "remove", "sales").out == "Removed sales.\n"
