"""The table of sections of the configuration document.

To add a section: write a `Section`, add its row here, and lock its table in
`store/one_transaction.py`. Reading, validation, the plan, the schema in the OpenAPI document and the command line
follow from the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from llm_gateway.control.declared_configuration.alert_targets import AlertTargetSection
from llm_gateway.control.declared_configuration.budgets import BudgetSection
from llm_gateway.control.declared_configuration.keys import KeySection
from llm_gateway.control.declared_configuration.overrides import OverrideSection
from llm_gateway.control.declared_configuration.providers import ProviderSection
from llm_gateway.control.declared_configuration.section import Names, Section
from llm_gateway.control.declared_configuration.teams import TeamSection
from llm_gateway.control.management.provider_rules import ProviderRules
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.one_transaction import OneTransaction
from llm_gateway.store.overrides import OverrideStore
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.teams import TeamStore
from llm_gateway.upstream.egress import Egress


class ConfigurationStores(NamedTuple):
    """The stores of what a configuration document holds, the rules of providers, and which addresses may be called."""

    providers: ProviderStore
    overrides: OverrideStore
    teams: TeamStore
    keys: KeyStore
    budgets: BudgetStore
    alert_targets: AlertTargetStore
    rules: ProviderRules
    egress: Egress


Open: TypeAlias = Callable[[ConfigurationStores, OneTransaction, Names], Section]

SECTIONS: tuple[tuple[type[Section], Open], ...] = (
    (TeamSection, lambda stores, within, _: TeamSection(stores.teams.within(within))),
    (ProviderSection, lambda stores, within, _: ProviderSection(stores.providers.within(within), stores.rules)),
    (OverrideSection, lambda stores, within, _: OverrideSection(stores.overrides.within(within))),
    (KeySection, lambda stores, within, names: KeySection(stores.keys.within(within), names)),
    (
        BudgetSection,
        lambda stores, within, names: BudgetSection(stores.budgets.within(within), names, stores.keys.reserved),
    ),
    (
        AlertTargetSection,
        lambda stores, within, _: AlertTargetSection(stores.alert_targets.within(within), stores.egress),
    ),
)
"""Sections in the order in which they are read and added to; they are removed from in the opposite order."""
