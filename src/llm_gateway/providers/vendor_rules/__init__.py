"""Vendors' words and limits: the table (`table.py`), its rules, and their application to the body of a call."""
