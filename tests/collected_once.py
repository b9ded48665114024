"""The collected tests of one process, taken over by the workers of pytest-xdist that are forked from it.

Collecting anew takes each worker 5 s of CPU time. What a worker does with the tests, such as sorting and leaving out
some, is done on the tests as they were found.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.fixtures import FixtureManager


class CollectedTests:
    """A plugin that keeps the tests which its session finds, before other plugins sort them or leave some out."""

    def __init__(self) -> None:
        self.session: pytest.Session | None = None
        self.items: Sequence[pytest.Item] = ()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        self.session, self.items = session, tuple(items)
        yield


class Heir:
    """A plugin whose session takes over the collected tests of the process that this one was forked from."""

    def __init__(self, collected: CollectedTests) -> None:
        self._collected = collected

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        if not isinstance(collector, pytest.Session) or self._collected.session is None:
            return None
        take_over(collector, self._collected.session, self._collected.items)
        return pytest.CollectReport(collector.nodeid, "passed", None, list(self._collected.items))


@cache
def collected_tests() -> CollectedTests:
    """Return what this process, or the one that it was forked from, has collected for its forks; at first, nothing."""
    return CollectedTests()


def take_over(session: pytest.Session, former: pytest.Session, items: Sequence[pytest.Item]) -> None:
    """Make the tests of the session `former`, and its fixtures, those of `session`."""
    for node in dict.fromkeys(node for item in items for node in item.listchain() if node is not former):
        node.session, node.config = session, session.config
        if node.parent is former:
            node.parent = session
        if isinstance(node, pytest.Directory):
            _load_conftest(node)
    fixtures = former._fixturemanager
    fixtures.session, fixtures.config = session, session.config
    _move_fixtures(fixtures, former, session)
    session._fixturemanager = fixtures


def _load_conftest(directory: pytest.Directory) -> None:
    """Register the plugin of a folder, as pytest does when it collects the folder."""
    config = directory.config
    config.pluginmanager._loadconftestmodules(
        directory.path,
        config.getoption("importmode"),
        rootpath=config.rootpath,
        consider_namespace_packages=config.getini("consider_namespace_packages"),
    )


def _move_fixtures(fixtures: FixtureManager, former: pytest.Session, session: pytest.Session) -> None:
    """Make the fixtures that all tests can use visible from the new session."""
    for by_node in fixtures._arg2node2fixturedefs.values():
        for fixture in by_node.pop(former, []):
            fixture.node = session  # type: ignore[misc]  # it is final for pytest
            by_node.setdefault(session, []).append(fixture)
    fixtures._node_autousenames[session] = fixtures._node_autousenames.pop(former)
