"""Fixtures: the gateway's application in the test process, as tests/control has it."""

from tests.application.fixtures import app, client, data_dir, migrated, mock, own_logging, own_settings, reader, start

__all__ = ["app", "client", "data_dir", "migrated", "mock", "own_logging", "own_settings", "reader", "start"]
