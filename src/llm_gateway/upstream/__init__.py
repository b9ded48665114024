"""The upstream HTTP client: connections to providers, kept and used again."""
