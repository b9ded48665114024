"""Commands `apply` and `export` against a running gateway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.command import SetUp, call, on_terminal
from tests.control.test_declared_configuration import ONE

Capsys = pytest.CaptureFixture[str]
FILE = """\
teams:
  - name: core
providers:
  - name: acme
    base_url: URL
    api_key: ${ACME_KEY}
    models: [gpt-4o-mini, gpt-4o]
overrides:
  - user_id: ann
    service_name: shop
    provider_name: acme
    model_name: gpt-4o
keys:
  - name: shop
    team: core
    secret: file:shop.secret
    rpm: 600
budgets:
  - name: CORE
    match: {team: core}
    limit_usd: 100
    notify_at: [0.8]
"""
EMPTY = "teams: []\nproviders: []\noverrides: []\nkeys: []\nbudgets: []\nalert_targets: []\n"
PLAN = """\
+ teams core
+ providers acme
    models: ["gpt-4o-mini", "gpt-4o"]
    base_url: URL
    api_key: (secret)
+ overrides ann, service shop
    user_id: ann
    provider_name: acme
    model_name: gpt-4o
    service_name: shop
+ keys shop
    rpm: 600
    team: core
    secret: (secret)
+ budgets CORE
    match: {"team": "core"}
    limit_usd: 100.0
    notify_at: [0.8]
5 to add, 0 to change, 0 to remove, 0 unchanged.
"""


@pytest.fixture
def url(set_up: SetUp, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> str:
    """Start from an empty configuration, with `gateway.yaml` in the folder. Returns the vendor's address."""
    Path("empty.yaml").write_text(EMPTY)
    assert call(capsys, "apply", "-f", "empty.yaml", "--prune").code == 0
    monkeypatch.setenv("ACME_KEY", "sk-acme")
    Path("shop.secret").write_text(ONE)
    Path("gateway.yaml").write_text(FILE.replace("URL", set_up.vendor.base_url))
    return set_up.vendor.base_url


def test_a_file_is_applied_and_exported_and_applied_again(url: str, capsys: Capsys) -> None:
    plan = PLAN.replace("URL", url)
    assert call(capsys, "apply", "-f", "gateway.yaml", "--dry-run").out == plan
    assert call(capsys, "apply", "-f", "gateway.yaml").out == plan + "Applied.\n"
    unchanged = "0 to add, 0 to change, 0 to remove, 5 unchanged.\n"
    assert call(capsys, "apply", "-f", "gateway.yaml", "--prune").out == unchanged
    assert call(capsys, "export", "-o", "exported.yaml").out == "Wrote exported.yaml.\n"
    text = Path("exported.yaml").read_text()
    assert "# Secrets are not exported: set ACME_API_KEY before you apply the file.\n" in text
    assert "  api_key: ${ACME_API_KEY}\n" in text
    assert not any(secret in text for secret in ("sk-acme", ONE))
    assert Path("exported.yaml").stat().st_mode & 0o077 == 0
    assert "exported.yaml exists" in call(capsys, "export", "-o", "exported.yaml").sentence
    missing = call(capsys, "apply", "-f", "exported.yaml").sentence
    assert missing.endswith("providers 'acme': api_key: the variable ACME_API_KEY is not set: export it.")
    os.environ["ACME_API_KEY"] = "sk-acme"
    try:
        assert call(capsys, "apply", "-f", "exported.yaml", "--prune").out == unchanged
        other = (
            text.replace("rpm: 600", "rpm: 5").replace("name: core", "name: corps").replace("team: core", "team: corps")
        )
        Path("exported.yaml").write_text(other)
        plan = call(capsys, "apply", "-f", "exported.yaml", "--json").json
    finally:
        del os.environ["ACME_API_KEY"]
    assert [(each["action"], each["name"]) for each in plan["changes"]] == [
        ("add", "corps"), ("change", "shop"), ("change", "CORE"),
    ]  # fmt: skip
    assert plan["unlisted"] == [{"section": "teams", "name": "core", "service_name": None}]
    shown = call(capsys, "apply", "-f", "gateway.yaml", "--dry-run").out
    assert "~ keys shop\n    rpm: 5 → 600\n    team: corps → core\n" in shown
    assert "Not in gateway.yaml, and kept without --prune: teams corps.\n" in shown


def test_mistakes_have_the_lines_of_the_file(url: str, capsys: Capsys) -> None:
    text = Path("gateway.yaml").read_text()
    Path("gateway.yaml").write_text(text.replace("rpm: 600", "max_token: 600").replace("models: [", "models: [5, "))
    ended = call(capsys, "apply", "-f", "gateway.yaml")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        "llm-gateway: gateway.yaml, line 7: providers 'acme': models.0 must be text, not a whole number.",
        "gateway.yaml, line 17: keys 'shop': there is no field 'max_token'. Did you mean max_tokens?",
    ]
    Path("gateway.yaml").write_text(text.replace("provider_name: acme", "provider_name: acne"))
    sentence = call(capsys, "apply", "-f", "gateway.yaml").sentence
    assert sentence.startswith(
        "gateway.yaml, line 11: overrides 'ann' of service 'shop': there is no provider named 'acne'"
    )
    Path("gateway.yaml").write_text(text.replace("match: {team: core}", "match: {team: cor}"))
    sentence = call(capsys, "apply", "-f", "gateway.yaml").sentence
    assert sentence.startswith("gateway.yaml, line 20: budgets 'CORE': match.team: there is no team named 'cor'")
    assert call(capsys, "providers", "list", "--json").json == []


def test_removals_are_asked_for_on_a_terminal(url: str, capsys: Capsys) -> None:
    assert call(capsys, "apply", "-f", "gateway.yaml").code == 0
    shown = on_terminal("apply", "-f", "empty.yaml", "--prune", typed="n\n")
    assert "- providers acme\n" in shown.out
    assert "Remove 5 and apply the rest? It cannot be undone. [y/N]" in shown.out
    assert "Nothing was changed." in shown.out
    assert len(call(capsys, "providers", "list", "--json").json) == 1
    assert call(capsys, "apply", "-f", "empty.yaml", "--prune").out.endswith("5 to remove, 0 unchanged.\nApplied.\n")
