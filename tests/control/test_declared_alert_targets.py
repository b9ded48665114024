"""The section `alert_targets` of a configuration document: each kind, secrets that stay, and what the API refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.domain.alert_target import AlertSecret
from llm_gateway.errors import Invalid
from tests.control.declared import Declared, told
from tests.rows import each_row

HOOK: dict[str, Any] = {"name": "hook", "kind": "webhook", "url": "http://127.0.0.1:9/a?t=1", "secret": "signs-all"}
CHAT: dict[str, Any] = {"name": "chat", "kind": "slack", "url": "http://127.0.0.1:9/T000", "events": ["budget.*"]}
MAIL: dict[str, Any] = {
    "name": "mail", "kind": "email", "host": "127.0.0.1", "port": 2525, "user": "gateway", "password": "pass-word",
    "sender": "g@example.com", "recipients": ["a@example.com", "b@example.com"], "is_enabled": False,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "name": "plain", "kind": "email", "host": "127.0.0.1", "security": "none", "sender": "g@example.com",
    "recipients": ["a@example.com"],
}  # fmt: skip
ALL = [HOOK, CHAT, MAIL, PLAIN]
SECRETS = ("url", "secret", "password")


@pytest.fixture
def declared(migrated: Path, tmp_path: Path) -> Iterator[Declared]:
    found = Declared(Path(shutil.copy(migrated, tmp_path / "gateway.db")))
    yield found
    found.database.close()


def secrets_of(declared: Declared) -> dict[str, AlertSecret]:
    store = declared.stores.alert_targets
    return {each.name: store.unseal(each.id) for each in store.list()}


def test_targets_of_each_kind_are_stored_and_written_without_their_secrets(declared: Declared) -> None:
    done = told(declared.apply({"alert_targets": ALL}))
    assert done["add alert_targets hook"] == ("kind", "url", "secret")
    assert done["add alert_targets mail"] == (
        "kind", "host", "sender", "recipients", "is_enabled", "port", "user", "password",
    )  # fmt: skip
    assert secrets_of(declared) == {
        "hook": AlertSecret(url=HOOK["url"], secret="signs-all"),
        "chat": AlertSecret(url=CHAT["url"]),
        "mail": AlertSecret(password="pass-word"),
        "plain": AlertSecret(),
    }
    rows = declared.rows()
    assert told(declared.apply({"alert_targets": ALL}, prune=True)) == {}
    document, _ = declared.declaration.document()
    assert document["alert_targets"] == [
        {name: None if name in SECRETS else value for name, value in each.items()} for each in ALL
    ]
    assert told(declared.apply(document, prune=True)) == {}
    assert declared.rows() == rows


def test_changes_keep_the_secrets_that_a_document_leaves_out(declared: Declared) -> None:
    _, before = declared.declaration.document(), declared.apply({"alert_targets": ALL}).version
    without = [{name: value for name, value in each.items() if name not in SECRETS} for each in ALL]
    without[0]["events"] = ["key.*"]
    without[2] |= {"recipients": ["c@example.com"]}
    done = declared.apply({"alert_targets": without})
    assert told(done) == {
        "change alert_targets hook": ("events",), "change alert_targets mail": ("recipients",)
    }  # fmt: skip
    assert done.version != before
    assert secrets_of(declared)["hook"] == AlertSecret(url=HOOK["url"], secret="signs-all")
    assert secrets_of(declared)["mail"] == AlertSecret(password="pass-word")
    done = declared.apply({"alert_targets": [without[0] | {"url": "http://127.0.0.1:9/b"}]})
    assert told(done) == {"change alert_targets hook": ("url",)}
    assert secrets_of(declared)["hook"] == AlertSecret(url="http://127.0.0.1:9/b", secret="signs-all")
    del without[2]["user"]
    assert told(declared.apply({"alert_targets": without[2:3]})) == {"change alert_targets mail": ("user",)}
    assert secrets_of(declared)["mail"] == AlertSecret()
    assert told(declared.apply({"alert_targets": without[:1]}, prune=True)) == {
        f"remove alert_targets {name}": () for name in ("chat", "mail", "plain")
    }
    assert [each.name for each in declared.stores.alert_targets.list()] == ["hook"]


@each_row(
    ("entry", "sentence", "path"),
    [
        ({"name": "new", "kind": "slack"}, "alert_targets 'new': url is required for targets of kind slack.", "url"),
        (HOOK | {"kind": "slack", "secret": None}, "alert_targets 'hook': kind stays as it is", "kind"),
        (CHAT | {"secret": "signs-all"}, "alert_targets 'chat': secret is only for targets of kind webhook", "secret"),
        (CHAT | {"events": ["nothing.*"]}, "alert_targets 'chat': events: 'nothing.*' matches no event", "events"),
        ({"name": "new", "kind": "email", "host": "127.0.0.1"}, "alert_targets 'new': sender is required", "sender"),
        (PLAIN | {"user": "u"}, "alert_targets 'plain': user and password go together", "password"),
        (MAIL | {"port": 2526, "password": None}, "alert_targets 'mail': password is required when", "password"),
        (CHAT | {"url": "ftp://a"}, "alert_targets 'chat': url must be an absolute http", "url"),
        (CHAT | {"color": 1}, "alert_targets 'chat': there is no field 'color'.", "color"),
    ],
)
def test_each_mistake_names_its_entry_and_changes_nothing(
    migrated: Path, tmp_path: Path, entry: dict[str, Any], sentence: str, path: str
) -> None:
    declared = Declared(Path(shutil.copy(migrated, tmp_path / "gateway.db")))
    declared.apply({"alert_targets": ALL})
    rows = declared.rows()
    for dry_run in (True, False):
        with pytest.raises(Invalid) as raised:
            declared.apply({"teams": [{"name": "core"}], "alert_targets": [entry]}, dry_run=dry_run)
        assert raised.value.detail.startswith(sentence), raised.value.detail
        assert raised.value.errors[0]["loc"][4] == path  # type: ignore[index]
        assert "signs-all" not in raised.value.detail
    assert declared.rows() == rows
    declared.database.close()
