"""Upstream HTTP/1.1 client: pooled connections to providers, and a check of the addresses they may go to."""
