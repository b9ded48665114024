"""Management API: providers, overrides, usage reports, health."""
