"""Fixtures of the endpoints' tests: the whole gateway in this process, with a mock vendor."""

from tests.application.fixtures import app, client, data_dir, migrated, mock, own_logging, own_settings, reader, start

__all__ = ["app", "client", "data_dir", "migrated", "mock", "own_logging", "own_settings", "reader", "start"]
