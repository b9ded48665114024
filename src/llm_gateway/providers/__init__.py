"""Upstream accounts: API dialects (one file each, listed in `registry.py`), credentials, vendor presets and prices."""
