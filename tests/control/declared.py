"""A configuration that documents are applied to, without a gateway around it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from llm_gateway.control.declared_configuration.declaration import Declaration, Outcome
from llm_gateway.control.declared_configuration.sections import ConfigurationStores
from llm_gateway.control.management.provider_rules import ProviderRules
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.providers.presets import load_presets
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.teams import TeamStore
from llm_gateway.upstream.egress import Egress

PEPPERS = [Pepper(2, b"p" * 32), Pepper(1, b"q" * 32)]
SECRETS = (
    "gw_4ef5ggbcqq34_0000000000000000000000000000000000000000000",
    "gw_dowq3u4rmgds_1111111111111111111111111111111111111111111",
    "gw_rmgdsdowq3u4_2222222222222222222222222222222222222222222",
)
"""Three secrets without their checksums."""


class Declared:
    """A database at `path` with the parts that apply documents to it. `reloads` counts how often one was in force.

    `local_url` is called while a document with the embedded model is checked, between the plan and the changes.
    """

    def __init__(self, path: Path, *, strict: bool = False, local_url: Callable[[], str | None] = lambda: None) -> None:
        self.path = path
        self.reloads = 0
        self.database = database = Database.open(f"sqlite:///{path}", fsync=False)
        box, egress = SecretBox([b"k" * 32]), Egress(strict=strict)
        self.stores = ConfigurationStores(
            ProviderStore(database, box),
            OverrideStore(database),
            TeamStore(database),
            KeyStore(database, PEPPERS, reserved=["dev"]),
            BudgetStore(database),
            AlertTargetStore(database, box),
            ProviderRules(load_presets(), egress, local_url),
            egress,
        )
        self.declaration = Declaration(database, self.stores, self._reload)

    def _reload(self) -> None:
        self.reloads += 1

    def apply(self, document: dict[str, Any], **options: Any) -> Outcome:
        return self.declaration.apply(document, **options)

    def rows(self) -> list[str]:
        """The whole content of the database."""
        with closing(sqlite3.connect(self.path)) as connection:
            return list(connection.iterdump())


def told(outcome: Outcome) -> dict[str, tuple[str, ...]]:
    """The changes of a plan: their fields, by action, section and label."""
    return {
        f"{change.action} {section} {change.label}": change.fields
        for section, changes in outcome.plan.changes.items()
        for change in changes
    }
