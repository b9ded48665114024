"""Upstream accounts: their dialects (one a file, listed in `registry.py`), authorisation, presets and prices."""
