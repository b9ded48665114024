"""Calls to providers, for both planes: connections to a provider's address, and responses and faults as results."""
