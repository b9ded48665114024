"""Functions of the composition root besides serving: repricing of stored usage."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.offline import reprice_once
from llm_gateway.data_dir import DataDir
from llm_gateway.domain.usage import AttemptRecord, Usage, UsageRecord
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import Settings
from llm_gateway.store.database import Database
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.repricing import RepriceReport
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.usage import UsageStore
from tests.e2e.process import write_migrated
from tests.store.histories import id_at

AT_MS = 1_780_000_000_000


def unpriced(provider_id: str, provider: str, model: str, upstream_model: str | None = None) -> UsageRecord:
    usage = Usage(input_tokens=1000, output_tokens=100)
    attempt = AttemptRecord(
        id=new_id(),
        provider_id=provider_id,
        provider=provider,
        kind="openai",
        model=model,
        upstream_model=upstream_model,
        started_ms=AT_MS,
        usage=usage,
        cost_status="unpriced",
    )
    return UsageRecord(
        id=id_at(AT_MS),
        at_ms=AT_MS,
        instance="i",
        key_name="k",
        user_id=model,
        service="s",
        task_type="general",
        surface="generate",
        outcome="ok",
        provider=provider,
        model=model,
        usage=usage,
        cost_status="unpriced",
        attempts=[attempt],
    )


def draft(name: str, **fields: Any) -> ProviderDraft:
    plain = {"display_name": name, "api_key": "k", "kind": "openai", "models": ("m",)}
    return ProviderDraft(name=name, **{**plain, **fields})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def test_reprice_uses_configured_prices_then_public_ones_by_both_model_names(settings: Settings) -> None:
    write_migrated(settings.data_dir / "gateway.db")
    database = Database.open(settings.url)
    store, usage = ProviderStore(database, SecretBox([b"k" * 32])), UsageStore(database)
    own = store.create(draft("own", prices={"m": {"input": 2, "output": 3}}))
    openai, local = store.create(draft("openai")), store.create(draft("here", kind="local"))
    usage.write(
        [
            unpriced(own.id, "own", "m"),
            unpriced(openai.id, "openai", "gpt-4o-mini"),
            unpriced(openai.id, "openai", "own-name", "gpt-4o-mini-2024-07-18"),
            unpriced(local.id, "here", "smollm2"),
            unpriced(openai.id, "openai", "no-such-model"),
            unpriced(new_id(), "deleted", "gpt-4o-mini-deleted"),
        ]
    )
    seen: list[int] = []
    # A running gateway holds the lock of the data directory, and only it has the encryption key.
    with closing(DataDir(settings.data_dir)):
        for dry_run in (True, False):
            report: RepriceReport = reprice_once(
                settings, since_ms=AT_MS, dry_run=dry_run, progress=lambda so_far: seen.append(so_far.records)
            )
            assert (report.records, report.changed, report.unknown, report.gone) == (6, 4, 1, 1)
            assert report.cost_after_nanos == 2_300_000 + 2 * 210_000
    assert seen == [6, 6]
    customers = {row.name: row.cost_nanos for row in usage.by_customer(1, AT_MS, 9)}
    assert customers == {
        "m": 2_300_000,
        "gpt-4o-mini": 210_000,
        "own-name": 210_000,
        "smollm2": 0,
        "no-such-model": 0,
        "gpt-4o-mini-deleted": 0,
    }
    totals = usage.summary(1, AT_MS)
    assert (totals.exact_requests, totals.unpriced_requests) == (4, 2)
    assert reprice_once(settings, since_ms=AT_MS + 1).records == 0
    assert reprice_once(settings, since_ms=0, until_ms=AT_MS, provider="own", model="m").records == 0
    database.close()


def test_reprice_requires_a_database_of_this_version(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="llm-gateway migrate"):
        reprice_once(settings, since_ms=0)
