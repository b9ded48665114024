"""A configuration document is compared with what is stored, and carried out as a whole or not at all."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.domain.key_secret import checksum
from llm_gateway.errors import Conflict, Invalid
from llm_gateway.store.keys import KeyDraft
from tests.control.declared import SECRETS, Declared, told
from tests.rows import each_row

ONE, TWO, THREE = (text + checksum(text.encode()).decode() for text in SECRETS)
DOCUMENT: dict[str, Any] = {
    "teams": [{"name": "core", "description": "The core services"}],
    "providers": [
        {"name": "openai", "api_key": "sk-1", "models": ["gpt-4o-mini", "gpt-4o"], "model_aliases": {"fast": "gpt-4o"}},
        {"name": "box", "base_url": "http://127.0.0.1:9/v1", "api_key": "unused", "models": ["qwen3"], "timeout_s": 5},
    ],
    "overrides": [
        {"user_id": "ann", "provider_name": "box", "model_name": "qwen3", "allow_fallback": False},
        {"user_id": "ann", "service_name": "shop", "provider_name": "openai", "model_name": "gpt-4o"},
    ],
    "keys": [
        {"name": "shop", "team": "core", "parent": "all", "secret": ONE, "models": ["gpt-*"], "max_request_usd": 0.25},
        {"name": "all", "secret": TWO, "scopes": ["read", "call"], "services": {"fixed": "s"}, "rpm": 600,
         "tags": {"stage": "beta"}, "expires_at": "2031-01-01T02:00:00+02:00"},
    ],
}  # fmt: skip


@pytest.fixture
def declared(migrated: Path, tmp_path: Path) -> Iterator[Declared]:
    found = Declared(Path(shutil.copy(migrated, tmp_path / "gateway.db")))
    yield found
    found.database.close()


def changed(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(DOCUMENT), **sections}


def test_a_document_is_applied_and_a_second_time_changes_nothing(declared: Declared) -> None:
    empty = declared.rows()
    tried = declared.apply(DOCUMENT, dry_run=True)
    assert (declared.rows(), declared.reloads) == (empty, 0)
    done = declared.apply(DOCUMENT, version=tried.version)
    assert told(done) == told(tried)
    assert list(told(done)) == [
        "add teams core", "add providers openai", "add providers box", "add overrides ann",
        "add overrides ann\0shop", "add keys shop", "add keys all",
    ]  # fmt: skip
    assert told(done)["add providers box"] == ("models", "base_url", "timeout_s", "api_key")
    assert declared.reloads == 1
    stored = declared.rows()
    again = declared.apply(DOCUMENT, prune=True)
    assert (told(again), again.plan.unchanged, again.version) == ({}, 7, done.version)
    assert (declared.rows(), declared.reloads) == (stored, 1)


def test_what_is_stored_is_written_without_secrets_and_changes_nothing_when_it_is_applied(declared: Declared) -> None:
    declared.apply(DOCUMENT)
    document, version = declared.declaration.document()
    again = declared.apply(document, prune=True)
    assert (told(again), again.version) == ({}, version)
    text = str(document)
    assert not [secret for secret in ("sk-1", ONE, TWO) if secret in text]
    assert document["providers"] == [
        {
            "name": "box",
            "base_url": "http://127.0.0.1:9/v1",
            "models": ["qwen3"],
            "timeout_s": 5.0,
            "api_key": "unused",
        },
        {"name": "openai", "models": ["gpt-4o-mini", "gpt-4o"], "model_aliases": {"fast": "gpt-4o"}},
    ]
    shop = next(key for key in document["keys"] if key["name"] == "shop")
    assert {**shop, "hash": ""} == {
        "name": "shop", "team": "core", "parent": "all", "hash": "", "models": ["gpt-*"], "max_request_usd": 0.25,
    }  # fmt: skip


def test_keys_move_to_another_gateway_by_their_hashes(declared: Declared, migrated: Path, tmp_path: Path) -> None:
    declared.apply(DOCUMENT)
    document, _ = declared.declaration.document()
    other = Declared(Path(shutil.copy(migrated, tmp_path / "other.db")))
    other.apply({"teams": document["teams"], "keys": document["keys"]})
    there, _ = other.declaration.document()
    assert sorted(there["keys"], key=str) == sorted(document["keys"], key=str)
    assert told(other.apply({"keys": DOCUMENT["keys"]})) == {}, "the secrets are those of the hashes"
    other.database.close()


def test_a_change_names_its_fields_and_leaves_the_rest(declared: Declared) -> None:
    declared.apply(DOCUMENT)
    document = changed()
    document["providers"][0] |= {"api_key": "sk-2", "priority": 20}
    document["overrides"][0]["allow_fallback"] = True
    document["keys"][0] |= {"secret": THREE, "rpm": 5, "team": None}
    del document["keys"][0]["models"], document["providers"][1]["api_key"]
    done = declared.apply(document)
    assert told(done) == {
        "change providers openai": ("priority", "api_key"),
        "change overrides ann": ("allow_fallback",),
        "change keys shop": ("models", "rpm", "team", "secret"),
    }
    assert told(declared.apply(document)) == {}
    sealed = {provider.name: (provider.id, sealed) for provider, sealed in declared.stores.providers.load()}
    assert declared.stores.providers.unseal(*sealed["openai"]) == "sk-2"
    assert declared.stores.providers.unseal(*sealed["box"]) == "unused", "a key that is left out stays"


def test_only_prune_removes_and_only_from_sections_of_the_document(declared: Declared) -> None:
    declared.apply(DOCUMENT)
    less = {"overrides": [], "providers": DOCUMENT["providers"][:1]}
    kept = declared.apply(less)
    assert (told(kept), kept.plan.unlisted) == ({}, {"providers": ["box"], "overrides": ["ann", "ann\0shop"]})
    pruned = declared.apply(less, prune=True)
    assert list(told(pruned)) == ["remove providers box", "remove overrides ann", "remove overrides ann\0shop"]
    # A parent, its team, and the secret of a removed key move at once.
    keys = [{"name": "shop", "parent": "base"}, {"name": "base", "secret": TWO, "scopes": ["call", "read"]}]
    moved = declared.apply({"teams": [], "keys": keys}, prune=True)
    assert set(told(moved)) == {"remove teams core", "change keys shop", "add keys base", "remove keys all"}
    assert [each["name"] for each in declared.declaration.document()[0]["keys"]] == ["shop", "base"]
    assert list(told(declared.apply({"keys": []}, prune=True))) == ["remove keys shop", "remove keys base"]


def test_a_line_of_parents_is_turned_around_in_one_document(declared: Declared) -> None:
    declared.apply({"keys": [{"name": "a", "secret": ONE}, {"name": "b", "secret": TWO, "parent": "a"}]})
    turned = {"keys": [{"name": "a", "parent": "b"}, {"name": "b"}]}
    assert told(declared.apply(turned)) == {"change keys a": ("parent",), "change keys b": ("parent",)}
    assert told(declared.apply(turned)) == {}


def test_a_plan_for_a_configuration_that_changed_since_is_not_applied(declared: Declared) -> None:
    tried = declared.apply(DOCUMENT, dry_run=True)
    made = declared.stores.keys.create(KeyDraft(name="other"))
    stored = declared.rows()
    with pytest.raises(Conflict, match="has changed since this plan was made"):
        declared.apply(DOCUMENT, version=tried.version)
    assert declared.rows() == stored
    declared.stores.keys.note_use({made.key.id: 5})
    assert declared.apply(DOCUMENT, dry_run=True).version != tried.version
    newest = declared.apply(DOCUMENT, dry_run=True).version
    declared.stores.keys.note_use({made.key.id: 6})
    assert declared.apply(DOCUMENT, dry_run=True).version == newest, "the use of a key is no change"


def test_a_change_by_somebody_else_before_the_writing_makes_the_plan_anew(declared: Declared) -> None:
    others = iter(("one", "two", "three", "four"))
    calls: list[str] = []

    def url_after_a_change() -> str:
        calls.append(next(others))
        declared.stores.teams.create(calls[-1])
        return "http://127.0.0.1:9"

    def url_after_one_change() -> str:
        return url_after_a_change() if not calls else "http://127.0.0.1:9"

    document = {"teams": [{"name": "core"}], "providers": [{"name": "tiny", "kind": "local", "models": ["m"]}]}
    busy = Declared(declared.path, local_url=url_after_a_change)
    with pytest.raises(Conflict, match="has changed since"):
        busy.apply(document)
    assert calls == ["one", "two", "three"]
    assert "tiny" not in str(busy.declaration.document())
    calls.clear()
    once = Declared(declared.path, local_url=url_after_one_change)
    assert set(told(once.apply(document, prune=True))) == {
        "add teams core", "add providers tiny", *(f"remove teams {name}" for name in ("one", "two", "three", "four")),
    }  # fmt: skip
    assert told(once.apply(document, prune=True)) == {}
    for each in (busy, once):
        each.database.close()


HASH = f"4ef5ggbcqq34:abcd:7:{'0' * 64}"
MISTAKES: list[tuple[dict[str, Any], str, tuple[Any, ...]]] = [
    ({"kys": []},
     "choose from teams, providers, overrides, keys, budgets, alert_targets. Did you mean keys?",
     ("kys",)),
    ({"teams": [{"name": f"t{number}"} for number in range(1001)]},
     "The document changes 1,001 entries, more than 1,000 at once: apply a part of it first.", ()),
    ({"teams": [{}] * 5001}, "teams: takes up to 5,000 entries.", ("teams",)),
    ({"keys": {}}, "keys: must be a list of entries", ("keys",)),
    ({"keys": ["a"]}, "keys number 1: must be an entry with fields", ("keys", 0)),
    ({"keys": [{"rpm": 1}]}, "keys number 1: name is required.", ("keys", 0, "name")),
    ({"keys": [{"name": "all", "max_token": 1}]}, "keys 'all': there is no field 'max_token'. Did you mean max_tokens?",
     ("keys", 0, "max_token")),
    ({"keys": [{"name": "all", "rpm": "6"}]}, "keys 'all': rpm must be a whole number, not text.", ("keys", 0, "rpm")),
    ({"providers": [{"name": "a", "models": "m"}]}, "providers 'a': models must be a list, not text.",
     ("providers", 0, "models")),
    ({"providers": [{"name": "a", "models": ["m"], "context_window": {"m": "x"}}]},
     "providers 'a': context_window.m must be a whole number, not text.", ("providers", 0, "context_window", "m")),
    ({"teams": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "teams 'a': is there twice: entries 1 and 3.",
     ("teams", 2)),
    ({"overrides": DOCUMENT["overrides"][:1] * 2}, "overrides 'ann': is there twice", ("overrides", 1)),
    ({"overrides": [{"user_id": "bob", "provider_name": "opnai", "model_name": "m"}]},
     "overrides 'bob': there is no provider named 'opnai': add it to the document, or name another.",
     ("overrides", 0, "provider_name")),
    ({"overrides": [{"user_id": "bob", "service_name": "x", "provider_name": "box", "model_name": "m"}]},
     "overrides 'bob' of service 'x': the provider 'box' does not list the model 'm'", ("overrides", 0, "model_name")),
    (changed(providers=DOCUMENT["providers"][:1]), "overrides 'ann': there is no provider named 'box'",
     ("overrides", 0, "provider_name")),
    ({"providers": [{"name": "new", "models": ["m"]}]}, "providers 'new': api_key is required for a new provider",
     ("providers", 0, "api_key")),
    ({"providers": [{"name": "new", "models": ["m"], "api_key": "${NEW_KEY}"}]}, "api_key is a reference",
     ("providers", 0, "api_key")),
    ({"providers": [{"name": "openai", "models": ["m"], "model_aliases": {"a": "n"}}]},
     "providers 'openai': model_aliases: 'a' leads to 'n', which is not in models",
     ("providers", 0, "model_aliases", "a")),
    ({"keys": [{"name": "new"}]}, "keys 'new': a new key needs a secret or a hash", ("keys", 0, "secret")),
    ({"keys": [{"name": "new", "secret": THREE[:-1] + "_"}]}, "secret is not a whole secret of a key",
     ("keys", 0, "secret")),
    ({"keys": [{"name": "new", "secret": "${NEW}"}]}, "secret is a reference", ("keys", 0, "secret")),
    ({"keys": [{"name": "new", "secret": THREE, "hash": HASH}]}, "secret and hash say the same", ("keys", 0, "hash")),
    ({"keys": [{"name": "new", "secret": ONE}]}, "it is that of the key 'shop', too", ("keys", 0, "secret")),
    ({"keys": [{"name": "new", "hash": "x"}]}, "hash is not one that this gateway wrote", ("keys", 0, "hash")),
    ({"keys": [{"name": "shop", "hash": HASH}]}, "the hash is made with the pepper 7, which this gateway does not have",
     ("keys", 0, "hash")),
    ({"keys": [{"name": "dev", "secret": THREE}]}, "keys 'dev': 'dev' is the name of a key of the environment",
     ("keys", 0)),
    ({"keys": [{"name": "all", "team": "cor"}]}, "keys 'all': there is no team named 'cor'", ("keys", 0, "team")),
    ({"keys": [{"name": "all", "parent": "non"}]}, "keys 'all': there is no key named 'non'", ("keys", 0, "parent")),
    ({"keys": [{"name": "all", "parent": "shop"}]},
     "keys 'all': its parents lead back to itself ('all' → 'shop' → 'all'): give one of them another parent.",
     ("keys", 0, "parent")),
    ({"keys": [{"name": "all", "scopes": ["call", "call"]}]}, "scopes names one twice", ("keys", 0, "scopes")),
    ({"keys": [{"name": "shop", "parent": "all", "scopes": ["admin"]}]},
     "keys 'shop': the parent 'all' lacks the scope 'admin'", ("keys", 0)),
    ({"budgets": [{"name": "b"}]}, "budgets 'b': limit_usd, limit_tokens or limit_requests is required.",
     ("budgets", 0, "limit_usd")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "limit_tokens": 5}]},
     "budgets 'b': limit_usd and limit_tokens are both given: give one of them.", ("budgets", 0, "limit_tokens")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "timezone": "Europe/Berln"}]},
     "budgets 'b': timezone: is not a time zone: use a name of the IANA database", ("budgets", 0, "timezone")),
    ({"budgets": [{"name": "b", "limit_usd": 0}]}, "budgets 'b': limit_usd must be an amount in USD above 0",
     ("budgets", 0, "limit_usd")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "match": {"tem": "core"}}]},
     "budgets 'b': match: 'tem' is no dimension: use team, key, user_id", ("budgets", 0, "match")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "match": {"team": "cor"}}]},
     "match.team: there is no team named 'cor': add it to the document, or name another. Did you mean core?",
     ("budgets", 0, "match", "team")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "match": {"key": "sop"}}]},
     "budgets 'b': match.key: there is no key named 'sop'", ("budgets", 0, "match", "key")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "period": "hour", "anchor": 3}]},
     "budgets 'b': anchor: the period hour has none: leave it out.", ("budgets", 0, "anchor")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "period": "total", "carry": 0.5}]},
     "budgets 'b': carry: a budget without an end (period total) has no period before", ("budgets", 0, "carry")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "overdraft_tokens": 5}]},
     "budgets 'b': overdraft_tokens is not in the unit of the budget's limit: use overdraft_usd.",
     ("budgets", 0, "overdraft_tokens")),
    ({"budgets": [{"name": "b", "limit_usd": 5, "override": {}}]}, "budgets 'b': there is no field 'override'.",
     ("budgets", 0, "override")),
    ({"budgets": [{"name": "b", "limit_usd": 5}] * 2}, "budgets 'b': is there twice: entries 1 and 2.",
     ("budgets", 1)),
    ({"teams": []}, "teams 'core': 1 key belongs to this team: delete them first", ("teams",)),
]  # fmt: skip


def test_each_mistake_is_one_sentence_with_its_place_and_changes_nothing(declared: Declared) -> None:
    declared.apply(DOCUMENT)
    stored = declared.rows()

    @each_row(("document", "sentence", "place"), MISTAKES)
    def check(document: dict[str, Any], sentence: str, place: tuple[Any, ...]) -> None:
        # The first section of the gateway changes, too: it must not stay.
        sections = len(document) if document != {"teams": []} else 0
        document = {"teams": [*DOCUMENT["teams"], {"name": "more"}], **document}
        for dry_run in (False, True):
            with pytest.raises(Invalid) as raised:
                declared.apply(document, prune=sections != 1, dry_run=dry_run)  # rows of one section need the rest
            told = [error for error in raised.value.errors if sentence in str(error["msg"])]
            assert told, raised.value.detail
            assert told[0]["loc"] == ["body", "document", *place]
        assert declared.rows() == stored

    check()
    assert declared.reloads == 1


def test_a_key_of_a_provider_is_needed_again_for_another_address_in_production(migrated: Path, tmp_path: Path) -> None:
    strict = Declared(Path(shutil.copy(migrated, tmp_path / "strict.db")), strict=True)
    entry = {"name": "a", "base_url": "https://1.1.1.1/v1", "models": ["m"]}
    strict.apply({"providers": [{**entry, "api_key": "k"}]})
    moved = {**entry, "base_url": "https://8.8.8.8/v1"}
    with pytest.raises(Invalid, match="providers 'a': api_key is required when the origin"):
        strict.apply({"providers": [moved]})
    assert told(strict.apply({"providers": [{**moved, "api_key": "k"}]})) == {"change providers a": ("base_url",)}
    strict.database.close()
