"""Command `import litellm`: realistic files of LiteLLM's proxy become files that the gateway can apply."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.cli.secret_references import resolve
from llm_gateway.cli.yaml_file import read_yaml
from tests.cli.command import Ran, call
from tests.control.declared import Declared, told
from tests.e2e.process import write_migrated
from tests.rows import each_row

FILES = Path(__file__).with_name("litellm")
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_migrated(tmp_path / "gateway.db")
    for name in ("AZURE_API_KEY_EU", "AZURE_API_KEY_CA", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, f"key-{name}")
    for name in ("GROQ_API_KEY", "TOGETHERAI_API_KEY", "GOOGLE_KEY"):
        monkeypatch.setenv(name, f"key-{name}")
    monkeypatch.setenv("EMBEDDINGS_BASE", "http://127.0.0.1:9000/v1")
    found = Declared(tmp_path / "gateway.db")
    yield found
    found.database.close()


def imported(capsys: Capsys, declared: Declared, name: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Import a file and apply the result. Returns the stored providers by name, and the lines of what is left."""
    shutil.copy(FILES / name, "config.yaml")
    ran: Ran = call(capsys, "import", "litellm", "config.yaml", "-o", "gateway.yaml")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Wrote gateway.yaml: ")
    document = resolve(read_yaml("gateway.yaml"), Path())
    declared.apply(document)
    assert told(declared.apply(document, prune=True)) == {}
    notes = [line.removeprefix("config.yaml, line ") for line in ran.err.splitlines()]
    return {each["name"]: each for each in declared.declaration.document()[0]["providers"]}, notes


def beginnings(notes: list[str]) -> list[str]:
    """Return the line and the first words of each note."""
    return [" ".join(note.split()[:2]) for note in notes]


def test_load_balanced_deployments_become_providers_with_aliases_and_fallbacks(
    capsys: Capsys, declared: Declared
) -> None:
    providers, notes = imported(capsys, declared, "load_balanced.yaml")
    assert list(providers) == ["azure", "azure-2", "openai", "anthropic"], "by priority"
    europe = providers["azure"]
    assert (europe["base_url"], europe["models"]) == ("https://1.1.1.1/openai/v1", ["gpt-4o-eu"])
    assert europe["model_aliases"] == {"gpt-4o": "gpt-4o-eu", "gpt-4": "gpt-4o-eu"}
    assert (europe["rate_limit_rpm"], europe["timeout_s"]) == (6, 10.0)
    assert providers["azure-2"]["base_url"] == "https://8.8.8.8/openai/v1"
    assert providers["azure-2"]["rate_limit_tpm"] == 1000
    openai, claude = providers["openai"], providers["anthropic"]
    assert openai["model_aliases"] == {"small": "gpt-4o-mini", "gpt-4o": "gpt-4o-mini"}
    assert (openai["priority"], claude["priority"]) == (9, 8)
    assert claude["model_aliases"] == {"claude": "claude-sonnet-4-5", "small": "claude-sonnet-4-5"}
    assert claude["prices"] == {"claude-sonnet-4-5": {"input": 3.0, "output": 15.0}}
    assert (claude["context_window"], claude["timeout_s"]) == ({"claude-sonnet-4-5": 200000}, 300.0)
    assert beginnings(notes) == [
        "8: api_version", "17: weight", "21: the", "22: temperature", "33: num_retries", "35: the",
        "36: success_callback", "39: routing_strategy", "41: redis_host", "44: master_key", "45: database_url",
    ]  # fmt: skip
    assert "the fallback of claude to gpt-4o is not carried over: another fallback asks" in " ".join(notes)
    assert not any(secret in " ".join(notes) for secret in ("sk-1234", "sk-secret", "user:secret"))
    assert "sk-secret" not in Path("gateway.yaml").read_text()


def test_servers_of_ones_own_need_no_key_and_names_of_models_no_alias(capsys: Capsys, declared: Declared) -> None:
    providers, notes = imported(capsys, declared, "local_servers.yaml")
    assert providers["ollama"]["base_url"] == "http://127.0.0.1:11434/v1"
    assert providers["ollama"]["model_aliases"] == {"mistral-7b": "mistral"}
    server = providers["server"]
    assert (server["api_key"], server["models"], "model_aliases" in server) == (
        "unused",
        ["qwen3", "qwen3-long"],
        False,
    )
    assert server["rate_limit_rpm"] == 1450
    assert providers["server-2"]["base_url"] == "http://127.0.0.1:9000/v1"
    assert providers["together"]["priority"] == 9
    again = providers["groq-2"]
    assert (again["models"], again["base_url"]) == (["llama-3.1-8b-instant"], "https://api.groq.com/openai/v1")
    assert beginnings(notes) == ["10: rpm"]


def test_what_cannot_be_carried_over_is_listed_with_its_line(capsys: Capsys, declared: Declared) -> None:
    providers, notes = imported(capsys, declared, "everything.yaml")
    assert list(providers) == ["gemini"]
    assert providers["gemini"]["model_aliases"] == {"team": "gemini-2.5-flash"}
    assert beginnings(notes) == [
        "2: environment_variables", "6: *", "9: bedrock/anthropic.claude-instant-v1", "12: vertex_ai/gemini-2.5-pro",
        "15: the", "17: azure/gpt-4o", "18: an", "23: organization", "24: extra_headers", "29: cache",
        "30: cache_params", "31: unheard_of", "32: the", "33: guardrails",
    ]  # fmt: skip
    assert all(": " in note.partition(": ")[2] for note in notes), "each says what to do"


BUDGETS: list[tuple[str, dict[str, Any] | None, list[str]]] = [
    ("max_budget: 100\n  budget_duration: 30d\n  timezone: US/Eastern",
     {"limit_usd": 100, "period": "month", "timezone": "US/Eastern"}, []),
    ("max_budget: 0.5\n  budget_duration: 24h", {"limit_usd": 0.5, "period": "day"}, []),
    ("max_budget: 0.5\n  budget_duration: 7d", {"limit_usd": 0.5, "period": "week"}, []),
    ("max_budget: 3", {"limit_usd": 3, "period": "total"}, []),
    ("max_budget: 3\n  timezone: Mars", {"limit_usd": 3, "period": "total"}, ["4: timezone is not carried over"]),
    ("max_budget: 3\n  budget_duration: 10d", None,
     ["3: max_budget is not carried over: budget_duration is not a period", "4: budget_duration is not"]),
    ("max_budget: 0", None, ["3: max_budget is not carried over: max_budget must be an amount in USD above 0"]),
    ("budget_duration: [1]", None, ["3: budget_duration is not carried over: it means nothing without max_budget"]),
    ("max_budget: true\n  max_end_user_budget: 1", None,
     ["3: max_budget is not carried over: max_budget must be an amount", "4: max_end_user_budget is not"]),
    ("drop_params: true\ngeneral_settings: {max_budget: 5}", None,
     ["3: drop_params", "4: max_budget is not carried over: LiteLLM has it in litellm_settings"]),
]  # fmt: skip


def test_the_budget_of_the_proxy_becomes_one_of_all_requests(capsys: Capsys, declared: Declared) -> None:
    @each_row(("settings", "budget", "notes"), BUDGETS)
    def check(settings: str, budget: dict[str, Any] | None, notes: list[str]) -> None:
        model = "model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]"
        Path("c.yaml").write_text(f"{model}\nlitellm_settings:\n  {settings}\n")
        ran = call(capsys, "import", "litellm", "c.yaml", "-o", "out.yaml", "--replace")
        assert ran.out == f"Wrote out.yaml: 1 provider, 1 model, 1 alias{', 1 budget' if budget else ''}.\n"
        document = resolve(read_yaml("out.yaml"), Path())
        expected = [{"name": "ALL", **budget, "unpriced": "allow"}] if budget else None
        assert document.get("budgets") == expected
        declared.apply(document, dry_run=True)
        found = [line.removeprefix("c.yaml, line ") for line in ran.err.splitlines()]
        assert len(found) == len(notes)
        assert all(line.startswith(note) for line, note in zip(found, notes, strict=True)), found

    check()


def test_a_file_that_is_not_litellms_is_refused(capsys: Capsys) -> None:
    Path("a.yaml").write_text("providers: []\n")
    assert "a.yaml has no model_list" in call(capsys, "import", "litellm", "a.yaml").sentence
    Path("b.yaml").write_text("model_list:\n  - model_name: '*'\n    litellm_params: {model: '*'}\n")
    assert (
        "no model that can be carried over: b.yaml, line 3: * stands"
        in call(capsys, "import", "litellm", "b.yaml").sentence
    )
    Path("c.yaml").write_text("model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]\n")
    shown = call(capsys, "import", "litellm", "c.yaml")
    assert (shown.code, "  api_key: ${OPENAI_API_KEY}\n" in shown.out) == (0, True)
    Path("gateway.yaml").touch()
    assert "gateway.yaml exists" in call(capsys, "import", "litellm", "c.yaml", "-o", "gateway.yaml").sentence
