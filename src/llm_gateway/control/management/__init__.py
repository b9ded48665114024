"""The management API: providers, overrides, usage, health."""
