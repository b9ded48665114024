"""Nouns and rules; standard library and msgspec only."""
