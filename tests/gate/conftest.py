"""The whole gateway in this process, with a mock vendor behind it."""

from tests.application.fixtures import app, client, data_dir, migrated, mock, own_logging, own_settings, reader, start

__all__ = ["app", "client", "data_dir", "migrated", "mock", "own_logging", "own_settings", "reader", "start"]
