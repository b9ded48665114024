"""Data types and business rules shared by all packages: conversations, prices, usage records, the configuration.

No I/O. Imports the standard library and msgspec only.
"""
