"""Fixtures: the gateway's application in the test process, with a mock vendor upstream."""

from tests.application.fixtures import app, client, data_dir, migrated, mock, own_logging, own_settings, reader, start

__all__ = ["app", "client", "data_dir", "migrated", "mock", "own_logging", "own_settings", "reader", "start"]
